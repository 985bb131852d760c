"""Every stage of a function on its way to kernels, for reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..backends.llvm.codegen import kernel_ir
from ..backends.llvm.toolchain import assembly, optimized_ir
from ..ir.graph import Graph
from ..ir.graph_edit import subgraph
from ..ir.graph_text import print_graph
from ..ir.lanes import vector_lanes
from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..ir.text import print_ir
from ..passes.legalize import legalize
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES
from ..passes.schedule import Trace, replay
from .assembly import assemble
from .pipeline import Driver
from .planning import Partition, partition
from .time_tiles import tile_time

TRACED = "traced"
"""Name of the first graph: the program as JAX traced it."""
NOT_SCHEDULED = "stays XLA's: it has no schedule, or none that is predicted to gain"


@dataclass(frozen=True, slots=True)
class LoweredWorkload:
    """A distinct workload.

    Attributes:
        key: Its digest.
        count: How many regions of the function are equal to it.
        func: The unscheduled program.
        trace: The schedule that would be used now: the database's best, else the default; None if there is none.
        target: The CPU that it is compiled for.
    """

    key: str
    count: int
    func: LoopFunc
    trace: Trace | None
    target: Target

    @property
    def text(self) -> str:
        """The unscheduled program."""
        return print_ir(self.func)

    @property
    def schedule(self) -> str:
        """The trace, a step per line; empty without one."""
        if self.trace == ():
            return "// no steps: it runs as it stands\n"
        return "".join(f"{step}\n" for step in self.trace or ())

    @property
    def scheduled(self) -> str:
        """The scheduled program; empty without a trace."""
        return "" if self.trace is None else print_ir(replay(self.func, self.trace))

    def legalized(self) -> str:
        """The scheduled program in the form that code is generated from; empty without a trace."""
        if self.trace is None:
            return ""
        return print_ir(legalize(replay(self.func, self.trace), vector_lanes(self.func, self.target)))

    def llvm_ir(self) -> str:
        """The LLVM IR of its kernel after inlining and promotion to registers; empty without a trace."""
        return "" if self.trace is None else optimized_ir(self._generated(self.trace), features=self.target.features)

    def assembly(self) -> str:
        """The assembly of its kernel; empty without a trace."""
        return "" if self.trace is None else assembly(self._generated(self.trace), features=self.target.features)

    def _generated(self, trace: Trace) -> str:
        return kernel_ir(replay(self.func, trace), self.target)[0]


@dataclass(frozen=True, slots=True)
class LoweredRegion:
    """Operations that one kernel could compute.

    Attributes:
        kind: What they amount to; an ``alias`` costs nothing; a ``loop`` is followed by the regions of its body.
        workload: Key of its workload; empty for an alias or a loop.
        graph: The operations.
    """

    kind: str
    workload: str
    graph: Graph


_WORKLOAD_TEXTS: dict[str, Callable[[LoweredWorkload], str]] = {
    "workloads": lambda w: w.text,
    "schedules": lambda w: w.schedule,
    "scheduled": lambda w: w.scheduled,
    "legalized": lambda w: w.legalized(),
    "llvm": lambda w: w.llvm_ir(),
    "asm": lambda w: w.assembly(),
}
WORKLOAD_STAGES = tuple(_WORKLOAD_TEXTS)
"""Stages that show one text for each workload."""
_SHOWN_ALWAYS = ("workloads", "schedules", "scheduled")


@dataclass(frozen=True, slots=True)
class Lowered:
    """How a function for one set of shapes changes on its way to the backends.

    Attributes:
        stages: Name of each graph pass and the graph after it; the first is the program as traced.
        regions: What the last graph was cut into; the operations in none of them stay XLA's.
        workloads: The distinct workloads of the regions.
        plan: The graph with native calls in the place of what kernels would compute.
    """

    stages: tuple[tuple[str, Graph], ...]
    regions: tuple[LoweredRegion, ...]
    workloads: tuple[LoweredWorkload, ...]
    plan: Graph

    @property
    def graph(self) -> Graph:
        """The graph after the last pass."""
        return self.stages[-1][1]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """What `as_text` can show, in order; `llvm`, `asm` and `legalized` only when they are asked for."""
        return (*(name for name, _ in self.stages), "regions", *WORKLOAD_STAGES, "plan")

    def as_text(self, stage: str | None = None) -> str:
        """Text of one stage, or of all.

        Args:
            stage: Name of a pass, `regions`, `workloads` (unscheduled loops), `schedules`, `scheduled` (loops),
                `legalized` (the loops that code is generated from), `llvm`, `asm` or `plan`; None for everything
                but `legalized`, `llvm` and `asm`, in order.

        Raises:
            KeyError: there is no stage of that name.
        """
        if stage is None:
            names = [n for n in self.stage_names if n not in WORKLOAD_STAGES or n in _SHOWN_ALWAYS]
            return "\n".join(f"// {name}\n{self.as_text(name)}" for name in names)
        if stage == "regions":
            return "\n".join(self.region_text(number) for number in range(len(self.regions)))
        if stage in _WORKLOAD_TEXTS:
            return "\n".join(self.workload_text(stage, workload) for workload in self.workloads)
        graphs = {**dict(self.stages), "plan": self.plan}
        if stage not in graphs:
            raise KeyError(f"no stage {stage!r}; there are {', '.join(self.stage_names)}")
        return print_graph(graphs[stage])

    def region_text(self, number: int) -> str:
        """The operations of a region, below a line that says what it is."""
        region = self.regions[number]
        results = ", ".join(f"%{value}" for value in region.graph.outputs)
        workload = f", workload {region.workload}" if region.workload else ", no work"
        # Without the header of a graph and its last line, which repeats the results.
        lines = print_graph(region.graph).splitlines()[1:-1]
        return "\n".join([f"// region {number}: {region.kind} -> {results}{workload}", *lines]) + "\n"

    def workload_text(self, stage: str, workload: LoweredWorkload) -> str:
        """One stage of a workload, below a line that says which it is.

        Args:
            stage: One of `WORKLOAD_STAGES`.
            workload: The workload.
        """
        times = "once" if workload.count == 1 else f"{workload.count} times"
        head = f"// workload {workload.key}, {times}\n"
        if stage != "workloads" and workload.trace is None:
            return f"{head}// {NOT_SCHEDULED}\n"
        return head + _WORKLOAD_TEXTS[stage](workload)


def lower(graph: Graph, driver: Driver) -> Lowered:
    """All stages of a traced program.

    Args:
        graph: the program as traced.
        driver: chooses schedules.
    """
    stages = [(TRACED, graph)]
    PassManager(GRAPH_PASSES, after=lambda step, result: stages.append((step.name, result))).run(graph)
    parts = driver.planned(partition(tile_time(stages[-1][1], driver.target)), driver.source.built)
    choices = driver.built_choices(parts)
    workloads = tuple(
        LoweredWorkload(
            key, task.count, task.workload.func, choices[key].trace if key in choices else None, driver.target
        )
        for key, task in parts.tasks.items()
    )
    plan, _ = assemble(parts, choices, driver.target)
    return Lowered(tuple(stages), _regions(parts), workloads, plan)


def _regions(parts: Partition) -> tuple[LoweredRegion, ...]:
    found: list[LoweredRegion] = []
    for region, key in parts.regions:
        found.append(LoweredRegion(region.kind, key, subgraph(parts.graph, region.members)))
        if region.kind == "loop":
            loop = parts.loops[region.members[0]]
            inside = _regions(loop.parts)
            found += [replace(r, kind=f"{r.kind}, {loop.scan.length} times in a loop") for r in inside]
    return tuple(found)
