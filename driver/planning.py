"""From an optimised graph to native plans: regions and their workloads, then the calls that replace them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..backends.llvm.ffi import bind_plan
from ..backends.llvm.kernel import Kernel
from ..backends.llvm.vecmath import SUPPORTED
from ..backends.xla import PLAN
from ..ir.graph import Graph, Op
from ..ir.graph_edit import replace_region, subgraph
from ..ir.graph_text import canonical
from ..ir.loop import Buffer
from ..ir.plan import ExecPlan
from ..ir.target import Target
from ..ir.text import digest
from ..passes.formulation import Formulation, Value
from ..passes.fusion import greedy
from ..passes.graph_trace import Grouping, replay_graph
from ..passes.lower import LoweringError, Workload, lower
from ..passes.packing import pack_array
from ..passes.regions import Region
from ..passes.schedule import Trace
from ..passes.segments import Segment, segments
from ..passes.sink_views import sink_views
from ..passes.split_reductions import split_reductions
from ..passes.ungroup import ungroup
from ..search.contest import chunk_count
from ..search.streaming_form import can_stream
from .loop_costs import loop_chunks
from .loops import Loop, add_loop, native_loop
from .program import KernelCall, Place, Program


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


def _prepared(graph: Graph) -> Graph:
    return sink_views(split_reductions(ungroup(graph)))


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
        task = done.get(grouping.values(region)) or region_task(graph, region)
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


def _known_tasks(known: Partition | None) -> dict[tuple[int, ...], Task]:
    """Each region's own task, by the values that the region computes."""
    if known is None:
        return {}
    return {
        known.grouping.values(region): replace(known.tasks[key], workload=known.workloads[region.members], count=1)
        for region, key in known.regions
        if key
    }


def region_task(graph: Graph, region: Region) -> Task | None:
    """A region as a task; None if it has no loops."""
    inner = subgraph(graph, region.members)
    try:
        workload = lower(inner, region.kind)
    except LoweringError:
        return None
    return Task(digest(workload.func), workload, inner, 1, region.kind)


def _loops(graph: Graph, known: Partition | None) -> dict[int, Loop]:
    """By operation, the loops that can run inside a native call."""
    if known is not None:
        return {graph.producers[known.graph.ops[index].results[0]]: loop for index, loop in known.loops.items()}
    found = ((index, native_loop(graph, op, _body)) for index, op in enumerate(graph.ops))
    return {index: loop for index, loop in found if loop is not None}


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
    return Grouping(graph, greedy(graph, SUPPORTED, apart) if apart else regions)


def _streams(graph: Graph, region: Region) -> bool:
    try:
        return can_stream(lower(subgraph(graph, region.members), region.kind).func)
    except LoweringError:
        return False


def result_bytes(parts: Partition) -> dict[str, list[int]]:
    """Sizes of those results of the graph that regions compute, by task key."""
    graph = parts.graph
    results = set(graph.outputs)
    sizes: dict[str, list[int]] = {}
    for region, key in parts.regions:
        made = {value for member in region.members for value in graph.ops[member].results} & results
        sizes.setdefault(key, []).extend(graph.types[value].nbytes for value in made)
    return sizes


@dataclass(frozen=True, slots=True)
class NativePlan:
    """The reference of a native call: binds the plan on JAX values.

    Args:
        plan: the plan.
        kernels: its kernels by symbol.
        sources: for each constant of the plan, the constant of the graph that was packed.
    """

    plan: ExecPlan
    kernels: Mapping[str, Kernel]
    sources: tuple[int, ...]

    def bind(self, *operands: object) -> Sequence[object]:
        """Call the plan."""
        return bind_plan(self.plan, self.kernels)(*operands)


def assemble(parts: Partition, choices: Mapping[str, Choice], target: Target) -> tuple[Graph, list[NativePlan]]:
    """Replace the regions that have code by native calls.

    Args:
        parts: the graph and its regions.
        choices: by task key; regions of other tasks stay XLA's.
        target: the CPU.

    Returns:
        The graph with native calls, and the calls.
    """
    regions = [r for r, _ in parts.regions if parts.native(r, choices.keys())]
    builder = _PlanBuilder(parts, choices, target)
    graph, natives = parts.graph, []
    for segment in segments(parts.graph, regions):
        ops, native = builder.call(segment)
        index = {o.results[0]: i for i, o in enumerate(graph.ops) if o.results}
        graph = replace_region(graph, [index[parts.graph.ops[m].results[0]] for m in segment.members], ops)
        natives.append(native)
    return graph, natives


@dataclass(slots=True)
class _PlanBuilder:
    parts: Partition
    choices: Mapping[str, Choice]
    target: Target
    packed: dict[tuple[int, Buffer], np.ndarray] = field(default_factory=dict)

    def call(self, segment: Segment) -> tuple[list[Op], NativePlan]:
        """The native call of a segment, and the reshapes of its results that are read outside."""
        whole = self.parts.graph
        graph = subgraph(whole, segment.members)
        roots = _alias_roots(whole, segment)
        outputs = tuple(dict.fromkeys(roots.get(v, v) for v in graph.outputs))
        loops = {r: self.parts.loops[r.members[0]] for r in segment.regions if r.kind == "loop"}
        begun = (v for loop in loops.values() for v in loop.read_in_parts if v in graph.constants)
        inputs = (*graph.inputs, *dict.fromkeys(begun))
        program = Program(inputs, outputs, roots, {v: whole.types[v].nbytes for v in graph.types})
        constants: list[tuple[int, np.ndarray]] = []
        for region in segment.regions:
            if region in loops:
                loop = loops[region]
                add_loop(loop, program, lambda r, place, loop=loop: self._in_loop(loop, r, place, constants))
            elif region.kind != "alias":
                program.calls += self._calls(region, program, constants)
        arena, stages = program.layout()
        types = tuple(whole.types[v] for v in outputs)
        arrays = tuple(array for _, array in constants)
        plan = ExecPlan(tuple(whole.types[v] for v in inputs), types, arrays, arena, stages, tuple(program.repeats))
        kernels = {call.kernel.symbol: call.kernel for call in program.calls}
        native = NativePlan(plan, kernels, tuple(value for value, _ in constants))
        reshaped = [
            Op("reshape", (roots[v],), (v,), (whole.types[v],), {"new_sizes": whole.types[v].shape})
            for v in graph.outputs
            if v in roots
        ]
        return [Op(PLAN, inputs, outputs, types, {}, native), *reshaped], native

    def _in_loop(
        self, loop: Loop, region: Region, place: Callable[[int], Place], constants: list[tuple[int, np.ndarray]]
    ) -> KernelCall:
        """A kernel call in the body of a loop."""
        kernel, args = self._arguments(loop.parts, region, place, loop.sources.__getitem__, constants)
        task = loop.parts.tasks[loop.parts.task(region)]
        return KernelCall(
            kernel, args, loop_chunks(task.workload.func, self.choices[task.key].trace, kernel, self.target)
        )

    def _calls(self, region: Region, program: Program, constants: list[tuple[int, np.ndarray]]) -> list[KernelCall]:
        """A region's kernels: its own, or those of its formulation and its own where that is not valid."""
        kernel, args = self._arguments(self.parts, region, Place, lambda v: v, constants)
        own = KernelCall(kernel, args, self._chunks(kernel))
        formulated = self.parts.formulated.get(region.members)
        if formulated is None:
            return [own]
        formulation = formulated.formulation
        numbers = {name: program.temporary(type_.nbytes) for name, type_ in formulation.temporaries.items()}
        valid = numbers[formulation.valid]
        calls: list[KernelCall] = []
        for part, kernel in zip(formulation.parts, formulated.kernels, strict=True):
            values = [self._formulated_value(name, formulated, numbers) for name in part.args]
            args = tuple(
                Place(self._constant(v, b, constants), constant=True) if v in self.parts.graph.constants else Place(v)
                for v, b in zip(values, kernel.params, strict=True)
            )
            calls.append(KernelCall(kernel, args, self._chunks(kernel), (valid, True) if part.guarded else None))
        return [*calls, replace(own, condition=(valid, False))]

    def _formulated_value(self, name: Value, formulated: Formulated, numbers: Mapping[str, int]) -> int:
        """What a formulation calls by a name: a value of the graph, or a temporary of the program."""
        if isinstance(name, int):
            return name
        return numbers[name] if name in numbers else formulated.constants[name]

    def _chunks(self, kernel: Kernel) -> int:
        return max(chunk_count(kernel.extent, self.target.threads), 1)

    def _arguments(
        self,
        parts: Partition,
        region: Region,
        place: Callable[[int], Place],
        source: Callable[[int], int],
        constants: list[tuple[int, np.ndarray]],
    ) -> tuple[Kernel, tuple[Place, ...]]:
        """A region's kernel and what it is called with; ``source`` says where a constant is in the whole graph."""
        kernel, workload = self.choices[parts.task(region)].kernel, parts.workloads[region.members]
        args = [place(v) for v in workload.inputs]
        buffers = kernel.params[len(args) : len(args) + len(workload.constants)]
        for value, buffer in zip(workload.constants, buffers, strict=True):
            args.append(Place(self._constant(source(value), buffer, constants), constant=True))
        return kernel, (*args, *(place(v) for v in workload.outputs))

    def _constant(self, value: int, buffer: Buffer, constants: list[tuple[int, np.ndarray]]) -> int:
        """Number of a packed constant; regions that read one alike share it."""
        key = (value, buffer)
        if key not in self.packed:
            self.packed[key] = pack_array(np.asarray(self.parts.graph.constants[value].value), buffer)
        for number, (_, known) in enumerate(constants):
            if known is self.packed[key]:
                return number
        constants.append((value, self.packed[key]))
        return len(constants) - 1


def _alias_roots(graph: Graph, segment: Segment) -> dict[int, int]:
    """For each alias inside a segment, the value whose memory it shares."""
    roots: dict[int, int] = {}
    for region in segment.regions:
        if region.kind == "alias":
            op = graph.ops[region.members[0]]
            roots[op.result] = roots.get(op.operands[0], op.operands[0])
    return roots
