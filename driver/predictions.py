"""What tasks are predicted to take, each looked at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..costmodel.bounds import box_points, flops
from ..costmodel.features import DISPATCH_S
from ..costmodel.roofline import predict_native
from ..costmodel.xla import predict_xla
from ..ir.target import Target
from ..passes.schedule import Trace
from ..passes.split_axis import split_axis
from ..search.predict import preferred
from ..search.space import Candidate, SearchSpace
from .formulations import default_traces, least_gain, predict
from .loop_costs import BARRIER_SECONDS
from .planning import Task
from .worthwhile import CALL_SECONDS

SMALL_POINTS = 1 << 14
"""A workload with at most this many points may do without a schedule rather than interrupt a native call."""


def staged(seconds: float) -> float:
    """What a kernel takes as a stage of a plan that takes so many seconds when it is called alone."""
    return max(seconds - DISPATCH_S, 0.0) + BARRIER_SECONDS


@dataclass(slots=True)
class Predictions:
    """Default schedules of tasks, and how long they are predicted to run.

    Args:
        target: the CPU.
    """

    target: Target
    _spaces: dict[str, SearchSpace] = field(default_factory=dict)
    _traces: dict[str, list[Trace]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _default_traces: dict[str, list[Trace]] = field(default_factory=dict)
    _first_seconds: dict[str, float] = field(default_factory=dict)
    _in_chunks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def traces(self, task: Task) -> list[Trace]:
        """The traces that the cost model prefers without data, the best first."""
        if task.key not in self._traces:
            func = task.workload.func
            self._traces[task.key] = self._useful(task, preferred(self._space(task), func, self.target))
        return self._traces[task.key]

    def seconds(self, task: Task) -> float:
        """Predicted seconds of a task as a stage of a plan, or as XLA's code between plans if it has no schedule."""
        if task.key not in self._seconds:
            self._seconds[task.key] = self._predicted(task, self.traces(task))
        return self._seconds[task.key]

    def schedulable(self, task: Task) -> bool:
        """Whether a kernel can be expected to compute a task; else it would be left to XLA."""
        return bool(self._defaults(task))

    def first_seconds(self, task: Task) -> float:
        """The same for the schedule that its first sketch has by default, which is known sooner."""
        if task.key not in self._first_seconds:
            self._first_seconds[task.key] = self._predicted(task, self._defaults(task))
        return self._first_seconds[task.key]

    def _defaults(self, task: Task) -> list[Trace]:
        if task.key not in self._default_traces:
            self._default_traces[task.key] = self._useful(task, self._space(task).defaults())
        return self._default_traces[task.key]

    def _space(self, task: Task) -> SearchSpace:
        if task.key not in self._spaces:
            self._spaces[task.key] = SearchSpace(task.workload.func, self.target)
        return self._spaces[task.key]

    def _useful(self, task: Task, found: Sequence[Candidate]) -> list[Trace]:
        small = box_points(task.workload.func) <= SMALL_POINTS
        return [c.trace for c in found if small or c.sketch != "plain"]

    def _predicted(self, task: Task, traces: Sequence[Trace]) -> float:
        if not traces:
            return predict_xla(task.region, self.target) + CALL_SECONDS
        own = float(predict_native(task.workload.func, traces[:1], self.target)[0])
        return min(staged(own), self._cut(task, own))

    def in_chunks(self, task: Task) -> bool:
        """Whether a task is predicted to be computed in chunks of an axis rather than by a kernel of its own."""
        return self.schedulable(task) and self.first_seconds(task) == self._in_chunks.get(task.key, (math.inf, 1.0))[0]

    def _cut(self, task: Task, own_s: float) -> float:
        """Predicted seconds of a task whose axis is cut into chunks; infinite where its own kernel is taken."""
        if task.key not in self._in_chunks:
            formulation = split_axis(task.region)
            traces = None if formulation is None else default_traces(formulation, self.target)
            if formulation is None or traces is None:
                self._in_chunks[task.key] = math.inf, 1.0
            else:
                seconds = predict(formulation, traces, self.target)
                self._in_chunks[task.key] = seconds, least_gain(formulation)
        seconds, gain = self._in_chunks[task.key]
        return seconds if seconds <= own_s / gain else math.inf

    def arithmetic(self, task: Task) -> float:
        """Seconds that a task's products and reductions take at the machine's peak."""
        return flops(task.workload.func) / (self.target.fma_gflops_per_thread * self.target.threads * 1e9)
