"""What became of one function for one set of shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.graph import Graph
from ..search.tune import TuneResult
from .assembly import NativePlan
from .formulations import Alternative
from .gate import Comparison, OutputError
from .planning import Choice, Partition
from .verdicts import Verdict


@dataclass(slots=True)
class Outcome:
    """What became of one function for one set of shapes.

    Args:
        graph: the program to run, or None for the original.
        reason: why the original runs, or empty.
        parts: the graph as it was cut, if it came that far.
        choices: schedules by task key.
        formulations: by task key, for tasks that another formulation computes.
        natives: the native calls.
        accuracy: errors of the outputs, where they were checked.
        comparison: the deciding comparison with `jax.jit`, where there was one.
        recalled: the verdict of an earlier process, where it was taken.
        latencies: measured seconds of our kernels by task key.
        baseline_s: measured seconds of XLA's code for the regions by task key.
        rest_s: seconds of what is left to XLA beside the native calls, if it was measured.
        search: what tuning did, where it ran.
        seconds: time of each step.
    """

    graph: Graph | None = None
    reason: str = ""
    parts: Partition | None = None
    choices: dict[str, Choice] = field(default_factory=dict)
    formulations: dict[str, Alternative] = field(default_factory=dict)
    natives: list[NativePlan] = field(default_factory=list)
    accuracy: list[OutputError] = field(default_factory=list)
    comparison: Comparison | None = None
    recalled: Verdict | None = None
    latencies: dict[str, float] = field(default_factory=dict)
    baseline_s: dict[str, float] = field(default_factory=dict)
    rest_s: float | None = None
    search: TuneResult | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def keep_original(self, reason: str) -> Outcome:
        """Let the original run, and say why."""
        self.graph, self.reason = None, reason
        return self
