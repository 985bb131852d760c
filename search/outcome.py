"""What a search may cost, how far it is, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..ir.measure import Status
from .base import BuiltKernel
from .space import Candidate

StopReason = Literal["budget", "exhausted", "interrupted", "runner failed"]
Source = Literal["measured", "database", "default", "none"]


@dataclass(frozen=True, slots=True)
class SearchBudget:
    """What a search may cost; with neither limit it ends when every space is exhausted.

    Args:
        seconds: wall clock; 0 measures nothing.
        trials: candidates built and measured; 0 measures nothing.
    """

    seconds: float | None = None
    trials: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing may be measured."""
        return self.seconds == 0 or self.trials == 0


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a search, after a batch.

    Args:
        elapsed_s: seconds since the start.
        trials: candidates tried so far.
        task: number of the task of the latest batch.
        now_s: weighted sum of the incumbents' latencies over the tasks that were measured.
        default_s: the same of the defaults.
        incumbents: the best confirmed candidate of each task; None where there is none yet.
    """

    elapsed_s: float
    trials: int
    task: int
    now_s: float
    default_s: float
    incumbents: tuple[Candidate | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What was found for a task.

    Args:
        candidate: the choice; None if every candidate failed.
        kernel: its code; None if it was not built here (nothing was measured).
        latency_s: measured seconds; infinite if nothing was measured.
        default_s: measured seconds of the default; infinite if it was not measured or failed.
        speedup: the default's latency divided by the choice's, in a comparison of their own.
        interval: 95% confidence interval of that.
        source: where the choice is from.
        trials: candidates tried.
        failures: how many failed, by status.
        rejections: refusals by reason.
        history: number of trials and best latency after each batch.
    """

    candidate: Candidate | None
    kernel: BuiltKernel | None
    latency_s: float
    default_s: float
    speedup: float
    interval: tuple[float, float]
    source: Source
    trials: int
    failures: Mapping[Status, int]
    rejections: Mapping[str, int]
    history: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TuneResult:
    """What a search found.

    Args:
        outcomes: one per task, in order.
        stopped: why it ended.
        error: what the runner raised, if it failed.
        elapsed_s: seconds it took.
        trials: candidates tried.
    """

    outcomes: tuple[Outcome, ...]
    stopped: StopReason
    error: str
    elapsed_s: float
    trials: int
