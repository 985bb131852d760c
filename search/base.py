"""What the search sees of the world: protocols, so that every search test runs on fakes.

`backends.measure.WorkerRunner` is a `Runner`, `database.store.Database` is a `Database`; neither imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..ir.loop import Buffer
from ..ir.measure import KernelCode, MeasureData, MeasureRequest, MeasureResult, TaskKey, TimingProtocol

if TYPE_CHECKING:
    from .space import Candidate

__all__ = [
    "BuiltKernel",
    "Database",
    "MeasureData",
    "MeasureRequest",
    "MeasureResult",
    "Runner",
    "SearchStrategy",
    "TaskKey",
    "TimingProtocol",
]


class BuiltKernel(KernelCode, Protocol):
    """A compiled candidate."""

    @property
    def params(self) -> tuple[Buffer, ...]:
        """Parameters as the schedule left them: constants may be packed."""
        ...


class SearchStrategy(Protocol):
    """Proposes candidates of one workload and learns from what became of them."""

    def ask(self, count: int) -> list[Candidate]:
        """Up to ``count`` candidates that were never proposed or told before; fewer only if no more are found."""
        ...

    def tell(self, results: Sequence[tuple[Candidate, float]]) -> None:
        """Learn latencies, also of candidates that someone else proposed.

        Args:
            results: candidates with seconds, infinite for failures and NaN for what is going to be measured.
        """
        ...


class Runner(Protocol):
    """Checks and times candidates."""

    def measure(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        """Check candidates of one workload against the reference and time the correct ones in turn.

        Args:
            data: arguments and reference results; pass the same object again for more candidates of the workload.
            requests: the candidates.
            timing: how to time them.

        Returns:
            One result per request, in order. A candidate's failure is a status, never an exception.
        """
        ...


class Database(Protocol):
    """Remembers results and knows the best ones so far."""

    def add_result(
        self,
        key: TaskKey,
        trace: str,
        result: MeasureResult,
        timing: TimingProtocol,
        *,
        seed: int = 0,
        features: Sequence[float] | None = None,
        feature_version: int | None = None,
    ) -> object:
        """Store one result.

        Args:
            key: what it holds for.
            trace: the schedule as JSON text.
            result: what became of it.
            timing: how it was timed.
            seed: seed of the search that proposed it.
            features: the cost model's features of the candidate.
            feature_version: version of their meaning; needed with ``features``.
        """
        ...

    def best_traces(self, key: TaskKey, count: int) -> list[tuple[str, float]]:
        """The fastest known correct traces of a task as ``(trace, median latency in seconds)``, fastest first."""
        ...
