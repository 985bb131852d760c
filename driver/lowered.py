"""Every stage of a function on its way to kernels, for reading."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Graph
from ..ir.graph_text import print_graph
from ..ir.loop import LoopFunc
from ..ir.text import print_ir
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES
from ..passes.schedule import Trace, replay
from .pipeline import Driver
from .planning import Choice, assemble, partition


@dataclass(frozen=True, slots=True)
class LoweredWorkload:
    """A distinct workload.

    Attributes:
        key: Its digest.
        count: How many regions of the function are equal to it.
        text: The unscheduled program.
        trace: The schedule that would be used now: the database's best, else the default; None if there is none.
        scheduled: The scheduled program; empty without a trace.
    """

    key: str
    count: int
    text: str
    trace: Trace | None
    scheduled: str


@dataclass(frozen=True, slots=True)
class Lowered:
    """How a function for one set of shapes changes on its way to the backends.

    Attributes:
        stages: Name of each graph pass and the graph after it; the first is the program as traced.
        workloads: The distinct workloads that the last graph was cut into.
        plan: The graph with native calls in the place of what kernels would compute.
    """

    stages: tuple[tuple[str, Graph], ...]
    workloads: tuple[LoweredWorkload, ...]
    plan: Graph

    @property
    def graph(self) -> Graph:
        """The graph after the last pass."""
        return self.stages[-1][1]

    def as_text(self, stage: str | None = None) -> str:
        """Text of one stage, or of all.

        Args:
            stage: Name of a pass, `workloads` or `plan`; None for everything in order.

        Raises:
            KeyError: there is no stage of that name.
        """
        table = {name: print_graph(graph) for name, graph in self.stages}
        table["workloads"] = "\n".join(map(_workload_text, self.workloads))
        table["plan"] = print_graph(self.plan)
        if stage is None:
            return "\n".join(f"// {name}\n{text}" for name, text in table.items())
        if stage not in table:
            raise KeyError(f"no stage {stage!r}; there are {', '.join(table)}")
        return table[stage]


def _workload_text(workload: LoweredWorkload) -> str:
    head = f"// workload {workload.key}, {workload.count} times\n{workload.text}"
    if workload.trace is None:
        return head
    return f"{head}// schedule: {' '.join(map(str, workload.trace))}\n{workload.scheduled}"


def lower(graph: Graph, driver: Driver) -> Lowered:
    """All stages of a traced program.

    Args:
        graph: the program as traced.
        driver: chooses schedules.
    """
    stages = [("traced", graph)]
    PassManager(GRAPH_PASSES, after=lambda step, result: stages.append((step.name, result))).run(graph)
    parts = partition(stages[-1][1])
    choices = driver.built_choices(parts)
    workloads = []
    for key, task in parts.tasks.items():
        choice: Choice | None = choices.get(key)
        trace = choice.trace if choice else None
        workloads.append(
            LoweredWorkload(key, task.count, print_ir(task.workload.func), trace, _scheduled(task.workload.func, trace))
        )
    plan, _ = assemble(parts, choices, driver.target)
    return Lowered(tuple(stages), tuple(workloads), plan)


def _scheduled(func: LoopFunc, trace: Trace | None) -> str:
    return "" if trace is None else print_ir(replay(func, trace))
