"""Which workload to spend the next trials on.

Gradient-like, after Ansor's task scheduler (Zheng et al., OSDI 2020): the gain to expect of a workload's next batch is
estimated from its latest improvements and from how far its computing rate is from the best rate of any workload, times
how often the model runs it, per second that the batch costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_HISTORY = 0.6
"""Weight of the improvements seen, against those that are possible."""
_DECAY = 0.5
"""What an improvement counts for after one more batch without any."""
_REACHABLE = 0.25
"""Share of the distance to the best rate that the first batch is expected to close."""
_NEVER_DONE = 0.02
"""Share of its time that even the workload with the best rate may still gain."""


@dataclass(slots=True)
class TaskState:
    """What the scheduler knows of one workload.

    Args:
        weight: how often the model runs it.
        flops: operations of one run.
        expected_s: predicted seconds, used before anything was measured.
        best_s: seconds of its incumbent; infinite before there is one.
        trials: candidates tried.
        batches: batches tried.
        spent_s: seconds they cost.
        recent_s: improvements per batch, decaying.
        exhausted: whether nothing is left to try.
    """

    weight: float
    flops: float
    expected_s: float
    best_s: float = float("inf")
    trials: int = 0
    batches: int = 0
    spent_s: float = 0.0
    recent_s: float = 0.0
    exhausted: bool = False

    def gain_s(self, best_rate: float) -> float:
        """Seconds per run of the model that the next batch is expected to gain.

        Args:
            best_rate: operations per second that can be hoped for.
        """
        if self.best_s == float("inf"):
            return 0.0
        reachable = self.flops / best_rate if best_rate > 0 else 0.0
        possible = max(self.best_s - reachable, _NEVER_DONE * self.best_s) * _REACHABLE / (1 + self.batches)
        return self.weight * (_HISTORY * self.recent_s + (1 - _HISTORY) * possible)

    @property
    def batch_s(self) -> float:
        """Seconds that a batch of this workload costs."""
        return max(self.spent_s / self.batches, 1e-3) if self.batches else 0.1


@dataclass(slots=True)
class TaskScheduler:
    """Divides a budget among tasks.

    Args:
        states: one per task, in order.
    """

    states: list[TaskState] = field(default_factory=list)

    def next(self) -> int | None:
        """Number of the task that the next batch should go to; None if all are exhausted.

        Every task gets one batch before any gets a second one, heavy tasks first.
        """
        alive = [i for i, s in enumerate(self.states) if not s.exhausted]
        if not alive:
            return None
        fresh = [i for i in alive if self.states[i].batches == 0]
        if fresh:
            return max(fresh, key=lambda i: (self.states[i].weight * self.states[i].expected_s, -i))
        rate = max((s.flops / s.best_s for s in self.states if s.best_s > 0), default=0.0)
        return max(alive, key=lambda i: (self.states[i].gain_s(rate) / self.states[i].batch_s, -i))

    def record(self, task: int, trials: int, seconds: float, best_s: float) -> None:
        """Note a batch and the incumbent's latency after it."""
        state = self.states[task]
        gained = state.best_s - best_s if state.best_s != float("inf") else 0.0
        state.trials += trials
        state.batches += 1
        state.spent_s += seconds
        state.recent_s = state.recent_s * _DECAY + max(gained, 0.0)
        state.best_s = min(state.best_s, best_s)
