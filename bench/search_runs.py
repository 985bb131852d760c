"""Searches on measured latencies: the product's tuning loop, its measurements looked up in a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.loop import Buffer
from ..ir.measure import MeasureData, MeasureRequest, MeasureResult, TimingProtocol
from ..search.base import SearchStrategy
from ..search.contest import TuneTask
from ..search.ranking import Rank
from ..search.space import Candidate, SearchSpace
from ..search.strategies import StrategyFactory
from ..search.tune import SearchBudget, tune_tasks

Lookup = Callable[[Sequence[Candidate]], list[float]]
"""Latencies in seconds of candidates, infinite for failures."""


@dataclass(frozen=True, slots=True)
class Run:
    """One search.

    Args:
        latencies: seconds of each trial in the order of trying; None for failures.
        asking_s: seconds that the strategy took to make proposals.
    """

    latencies: tuple[float | None, ...]
    asking_s: float


def run_search(task: TuneTask, strategy: StrategyFactory, lookup: Lookup, *, trials: int, batch: int, seed: int) -> Run:
    """Search one workload as `tilewright.compile` does, without a database.

    Args:
        task: the workload.
        strategy: makes the proposer.
        lookup: what measuring would find; whatever it raises ends the search and is raised again.
        trials: candidates to try.
        batch: candidates per batch.
        seed: of the strategy and of the cost model.
    """
    runner = _TableRunner(lookup)
    watch = _Stopwatch()

    def timed(space: SearchSpace, rank: Rank, rng: np.random.Generator) -> SearchStrategy:
        return _Timed(strategy(space, rank, rng), watch)

    tune_tasks(
        [task],
        runner,
        None,
        SearchBudget(trials=trials),
        build=runner.build,
        rng=np.random.default_rng(seed),
        strategy=timed,
        batch=batch,
        builders=1,
        seed=seed,
    )
    if runner.error is not None:
        raise runner.error
    tried = [runner.tried[key] for key in runner.tried]
    return Run(tuple(s if np.isfinite(s) else None for s in tried[:trials]), watch.seconds)


@dataclass(slots=True)
class _Stopwatch:
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Timed:
    """A strategy whose proposals are timed."""

    inner: SearchStrategy
    watch: _Stopwatch

    def ask(self, count: int) -> list[Candidate]:
        began = time.perf_counter()
        try:
            return self.inner.ask(count)
        finally:
            self.watch.seconds += time.perf_counter() - began

    def tell(self, results: Sequence[tuple[Candidate, float]]) -> None:
        self.inner.tell(results)


@dataclass(frozen=True, slots=True)
class _Unbuilt:
    """Stands for a kernel; its code is the candidate's key."""

    symbol: str
    object_code: bytes
    params: tuple[Buffer, ...]
    extent: int = 1
    scratch_bytes: int = 0
    in_place: tuple[int, ...] = ()


@dataclass(slots=True)
class _TableRunner:
    """A runner that looks latencies up, and notes which candidates were tried in which order."""

    lookup: Lookup
    tried: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None
    _candidates: dict[str, Candidate] = field(default_factory=dict)

    def build(self, task: TuneTask, candidate: Candidate) -> _Unbuilt:
        """Compile nothing."""
        self._candidates[candidate.key] = candidate
        return _Unbuilt("unbuilt", candidate.key.encode(), task.func.params)

    def measure(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        """See `search.base.Runner`."""
        keys = [request.kernel.object_code.decode() for request in requests]
        try:
            found = self.lookup([self._candidates[key] for key in keys])
        except Exception as error:
            self.error = error
            raise
        for key, seconds in zip(keys, found, strict=True):
            self.tried.setdefault(key, seconds)
        return [
            MeasureResult("ok", (seconds,) * timing.repeats) if np.isfinite(seconds) else MeasureResult("compile_error")
            for seconds in found
        ]
