"""From an optimised graph to its regions, their workloads and tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ..backends.llvm.kernel import Kernel
from ..backends.llvm.vecmath import SUPPORTED
from ..ir.graph import Graph, Op
from ..ir.graph_edit import subgraph
from ..ir.graph_text import canonical
from ..ir.text import digest
from ..passes.formulation import Formulation
from ..passes.fusion import greedy
from ..passes.graph_trace import Grouping, replay_graph
from ..passes.lower import Workload
from ..passes.lower_region import lowered
from ..passes.recompute import recompute
from ..passes.regions import Region
from ..passes.schedule import Trace
from ..passes.sink_views import sink_views
from ..passes.split_reductions import split_reductions
from ..passes.ungroup import ungroup
from ..search.streaming_form import can_stream
from .loops import Loop, native_loop


@dataclass(frozen=True, slots=True)
class Task:
    """A distinct workload of a graph.

    Args:
        key: digest of the workload.
        workload: one of the equal lowered regions.
        region: that region as a graph.
        count: how many regions of the graph are equal to it.
        kind: what the regions amount to.
    """

    key: str
    workload: Workload
    region: Graph
    count: int
    kind: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The schedule chosen for a task, and its code."""

    trace: Trace
    kernel: Kernel


@dataclass(frozen=True, slots=True, eq=False)
class Formulated:
    """A region that is computed by a formulation.

    Args:
        formulation: of this very region.
        kernels: of its parts.
        constants: the graph's constants that hold its own, by their names.
    """

    formulation: Formulation
    kernels: tuple[Kernel, ...]
    constants: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Partition:
    """A graph cut into regions.

    Args:
        grouping: the graph, views sunk into their readers, and what kernels are to compute.
        regions: regions that kernels could compute, with the key of their task (empty for aliases).
        workloads: the workload of each region that has a task, by the region's members.
        tasks: distinct workloads by key, those in the bodies of loops included.
        loops: by operation, loops that can run inside a native call.
        start: the graph before the graph trace.
        trace: the graph trace that led from the greedy regions to these.
        formulated: regions that are computed by a formulation where that is valid, by their members; none in loops.
    """

    grouping: Grouping
    regions: tuple[tuple[Region, str], ...]
    workloads: Mapping[tuple[int, ...], Workload]
    tasks: Mapping[str, Task]
    loops: Mapping[int, Loop]
    start: Graph
    trace: Trace = ()
    formulated: Mapping[tuple[int, ...], Formulated] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph."""
        return self.grouping.graph

    def native(self, region: Region, known: Collection[str]) -> bool:
        """Whether a region needs no other kernels than those of known tasks."""
        if region.kind == "loop":
            return self.loops[region.members[0]].parts.tasks.keys() <= set(known)
        return region.kind == "alias" or self.task(region) in known

    @property
    def formulations(self) -> dict[str, str]:
        """Names of the formulations of regions, by task key."""
        return {key: region.formulation for region, key in self.regions if region.formulation}

    def task(self, region: Region) -> str:
        """Key of the task of a region; empty where it has none."""
        return next(key for known, key in self.regions if known.members == region.members)


def partition(graph: Graph, trace: Trace = ()) -> Partition:
    """Cut a simplified graph into regions and lower them; what has no loops stays XLA's.

    Args:
        graph: the graph.
        trace: a graph trace over the greedy regions.

    Raises:
        ReplayError: a step was refused.
    """
    prepared = canonical(_prepared(graph))
    parts = _lowered(_greedy(prepared), prepared)
    return extended(parts, trace) if trace else parts


def extended(parts: Partition, steps: Trace) -> Partition:
    """A partition after further steps; only regions that these change are lowered.

    Args:
        parts: the partition.
        steps: of its graph trace.

    Raises:
        ReplayError: a step was refused.
    """
    found = _lowered(replay_graph(parts.grouping, steps), parts.start, parts)
    return replace(found, trace=(*parts.trace, *steps))


def part_of(parts: Partition, regions: Collection[tuple[int, ...]]) -> Partition:
    """Some regions, given by the values that they compute, as a partition of a graph of their own."""
    chosen = [r for r in parts.grouping.regions if parts.grouping.values(r) in regions]
    graph = subgraph(parts.graph, [m for r in chosen for m in r.members])
    own = (replace(r, members=tuple(graph.producers[v] for v in parts.grouping.values(r))) for r in chosen)
    return _lowered(Grouping(graph, tuple(own)), graph)


def _prepared(graph: Graph) -> Graph:
    return sink_views(recompute(split_reductions(ungroup(graph))))


def _lowered(grouping: Grouping, start: Graph, known: Partition | None = None) -> Partition:
    """The regions of a graph as workloads; those of a known partition of it are not lowered again."""
    graph = grouping.graph
    regions: list[tuple[Region, str]] = []
    workloads: dict[tuple[int, ...], Workload] = {}
    tasks: dict[str, Task] = {}
    done = _known_tasks(known)
    for region in grouping.regions:
        if region.kind == "alias":
            regions.append((region, ""))
            continue
        task = done.get(tuple(graph.ops[m] for m in region.members)) or region_task(graph, region)
        if task is None:
            continue
        regions.append((region, task.key))
        workloads[region.members] = task.workload
        _count(tasks, task)
    loops = _loops(graph, known)
    for index, loop in loops.items():
        regions.append((Region((index,), "loop"), ""))
        for task in loop.parts.tasks.values():
            _count(tasks, replace(task, count=task.count * loop.scan.length))
    regions.sort(key=lambda item: item[0].members[-1])
    return Partition(grouping, tuple(regions), workloads, tasks, loops, start)


def _known_tasks(known: Partition | None) -> dict[tuple[Op, ...], Task]:
    """Each region's own task, by the region's operations: of equal regions, the first one may be gone."""
    found: dict[tuple[Op, ...], Task] = {}
    if known is None:
        return found
    for region, key in known.regions:
        if key:
            own, workload = subgraph(known.graph, region.members), known.workloads[region.members]
            task = replace(known.tasks[key], workload=workload, region=own, count=1)
            found[tuple(known.graph.ops[m] for m in region.members)] = task
    return found


def region_task(graph: Graph, region: Region) -> Task | None:
    """A region as a task; None if it has no loops."""
    workload = lowered(graph, region.members, region.kind)
    if workload is None:
        return None
    return Task(digest(workload.func), workload, subgraph(graph, region.members), 1, region.kind)


def _loops(graph: Graph, known: Partition | None) -> dict[int, Loop]:
    """By operation, the loops that can run inside a native call; a known partition's need no second look."""
    seen = {op: known.loops.get(index) for index, op in enumerate(known.graph.ops)} if known is not None else {}
    found = {index: seen[op] if op in seen else native_loop(graph, op, _body) for index, op in enumerate(graph.ops)}
    return {index: loop for index, loop in found.items() if loop is not None}


def _body(graph: Graph) -> Partition:
    """The greedy partition of a loop's body, whose values keep their numbers."""
    body = _prepared(graph)
    return _lowered(_greedy(body), body)


def _count(tasks: dict[str, Task], task: Task) -> None:
    """Add a task, or how often it occurs where it is known."""
    known = tasks.get(task.key)
    tasks[task.key] = task if known is None else replace(known, count=known.count + task.count)


def _greedy(graph: Graph) -> Grouping:
    """Greedy regions, those taken apart again whose rows would have to be stored all the same."""
    regions = greedy(graph, SUPPORTED)
    refused = [r for r in regions if r.kind == "stream" and not _streams(graph, r)]
    apart = [graph.ops[m].result for r in refused for m in r.members]
    regions = greedy(graph, SUPPORTED, apart) if apart else regions
    return Grouping(graph, regions, lambda other: _greedy(_prepared(other)))


def _streams(graph: Graph, region: Region) -> bool:
    workload = lowered(graph, region.members, region.kind)
    return workload is not None and can_stream(workload.func)
