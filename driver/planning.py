"""From an optimised graph to native plans: regions and their workloads, then the calls that replace them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..backends.llvm.ffi import bind_plan
from ..backends.llvm.kernel import Kernel
from ..backends.llvm.vecmath import SUPPORTED
from ..backends.xla import PLAN
from ..ir.graph import Graph, Op
from ..ir.graph_edit import replace_region, subgraph
from ..ir.loop import Buffer
from ..ir.plan import Condition, ExecPlan, Slot, Stage
from ..ir.target import Target
from ..ir.text import digest
from ..passes.formulation import Formulation, Value
from ..passes.fusion import Region, group, sink_views
from ..passes.lower import LoweringError, Workload, lower
from ..passes.memory import Lifetime, assign_offsets
from ..passes.packing import pack_array
from ..passes.schedule import Trace
from ..passes.segments import Segment, segments
from ..passes.split_reductions import split_reductions
from ..passes.ungroup import ungroup
from ..search.contest import chunk_count
from ..search.streaming_form import can_stream


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
        graph: the graph, views sunk into their readers.
        regions: regions that kernels could compute, with the key of their task (empty for aliases).
        workloads: the workload of each region that has a task, by the region's members.
        tasks: distinct workloads by key.
        formulated: regions that are computed by a formulation where that is valid, by their members.
    """

    graph: Graph
    regions: tuple[tuple[Region, str], ...]
    workloads: Mapping[tuple[int, ...], Workload]
    tasks: Mapping[str, Task]
    formulated: Mapping[tuple[int, ...], Formulated] = field(default_factory=dict)


def partition(graph: Graph) -> Partition:
    """Cut a simplified graph into regions and lower them; what has no loops stays XLA's."""
    graph = sink_views(split_reductions(ungroup(graph)))
    regions: list[tuple[Region, str]] = []
    workloads: dict[tuple[int, ...], Workload] = {}
    tasks: dict[str, Task] = {}
    for region in _grouped(graph):
        if region.kind == "alias":
            regions.append((region, ""))
            continue
        inner = subgraph(graph, region.members)
        try:
            workload = lower(inner, region.kind)
        except LoweringError:
            continue
        key = digest(workload.func)
        regions.append((region, key))
        workloads[region.members] = workload
        known = tasks.get(key)
        if known is None:
            tasks[key] = Task(key, workload, inner, 1, region.kind)
        else:
            tasks[key] = Task(key, known.workload, known.region, known.count + 1, known.kind)
    return Partition(graph, tuple(regions), workloads, tasks)


def _grouped(graph: Graph) -> tuple[Region, ...]:
    """Regions, those taken apart again whose rows would have to be stored all the same."""
    regions = group(graph, SUPPORTED)
    refused = [r for r in regions if r.kind == "stream" and not _streams(graph, r)]
    apart = [graph.ops[m].result for r in refused for m in r.members]
    return group(graph, SUPPORTED, apart) if apart else regions


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
    regions = [r for r, key in parts.regions if r.kind == "alias" or key in choices]
    key_of = {r.members: key for r, key in parts.regions}
    builder = _PlanBuilder(parts, {m: choices[k] for m, k in key_of.items() if k in choices}, target)
    graph, natives = parts.graph, []
    for segment in segments(parts.graph, regions):
        ops, native = builder.call(segment)
        index = {o.results[0]: i for i, o in enumerate(graph.ops) if o.results}
        graph = replace_region(graph, [index[parts.graph.ops[m].result] for m in segment.members], ops)
        natives.append(native)
    return graph, natives


@dataclass(frozen=True, slots=True)
class _Call:
    """A kernel with what it is called with, and the boolean that decides whether it runs."""

    kernel: Kernel
    args: tuple[tuple[str, int], ...]
    condition: tuple[int, bool] | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """The values it touches."""
        tested = () if self.condition is None else (self.condition[0],)
        return (*(value for kind, value in self.args if kind == "value"), *tested)


@dataclass(slots=True)
class _PlanBuilder:
    parts: Partition
    choices: Mapping[tuple[int, ...], Choice]
    target: Target
    packed: dict[tuple[int, Buffer], np.ndarray] = field(default_factory=dict)
    temporaries: dict[int, int] = field(default_factory=dict)

    def call(self, segment: Segment) -> tuple[list[Op], NativePlan]:
        """The native call of a segment, and the reshapes of its results that are read outside."""
        whole = self.parts.graph
        graph = subgraph(whole, segment.members)
        roots = _alias_roots(whole, segment)
        outputs = tuple(dict.fromkeys(roots.get(v, v) for v in graph.outputs))
        slots = _Slots(whole, tuple(graph.inputs), outputs, roots)
        constants: list[tuple[int, np.ndarray]] = []
        stages = [c for r in segment.regions if r.kind != "alias" for c in self._calls(r, constants)]
        arena, offsets = slots.arena(stages, self.temporaries)
        types = tuple(whole.types[v] for v in outputs)
        plan = ExecPlan(
            tuple(graph.inputs.values()),
            types,
            tuple(array for _, array in constants),
            arena,
            tuple(self._stage(call, slots, offsets) for call in stages),
        )
        kernels = {call.kernel.symbol: call.kernel for call in stages}
        native = NativePlan(plan, kernels, tuple(value for value, _ in constants))
        reshaped = [
            Op("reshape", (roots[v],), (v,), (whole.types[v],), {"new_sizes": whole.types[v].shape})
            for v in graph.outputs
            if v in roots
        ]
        return [Op(PLAN, tuple(graph.inputs), outputs, types, {}, native), *reshaped], native

    def _calls(self, region: Region, constants: list[tuple[int, np.ndarray]]) -> list[_Call]:
        """A region's kernels: its own, or those of its formulation and its own where that is not valid."""
        own = self._own_call(region, constants)
        formulated = self.parts.formulated.get(region.members)
        if formulated is None:
            return [own]
        formulation = formulated.formulation
        numbers: dict[Value, int] = {}
        for name, type_ in formulation.temporaries.items():
            numbers[name] = -1 - len(self.temporaries)
            self.temporaries[numbers[name]] = type_.nbytes
        valid = numbers[formulation.valid]
        calls: list[_Call] = []
        for part, kernel in zip(formulation.parts, formulated.kernels, strict=True):
            args: list[tuple[str, int]] = []
            for name, buffer in zip(part.args, kernel.params, strict=True):
                value = formulated.constants[name] if isinstance(name, str) and name not in numbers else name
                if isinstance(value, int) and value in self.parts.graph.constants:
                    args.append(("constant", self._constant(value, buffer, constants)))
                else:
                    args.append(("value", numbers[value] if isinstance(value, str) else value))
            calls.append(_Call(kernel, tuple(args), (valid, True) if part.guarded else None))
        return [*calls, replace(own, condition=(valid, False))]

    def _own_call(self, region: Region, constants: list[tuple[int, np.ndarray]]) -> _Call:
        """A region's own kernel and what it is called with."""
        kernel, workload = self.choices[region.members].kernel, self.parts.workloads[region.members]
        args = [("value", v) for v in workload.inputs]
        buffers = kernel.params[len(args) : len(args) + len(workload.constants)]
        for value, buffer in zip(workload.constants, buffers, strict=True):
            args.append(("constant", self._constant(value, buffer, constants)))
        return _Call(kernel, (*args, *(("value", v) for v in workload.outputs)))

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

    def _stage(self, call: _Call, slots: _Slots, offsets: Mapping[int, int]) -> Stage:
        kernel = call.kernel
        chunks = max(chunk_count(kernel.extent, self.target.threads), 1)
        condition = None
        if call.condition is not None:
            value, wanted = call.condition
            condition = Condition(slots.slot(("value", value), offsets), wanted)
        args = tuple(slots.slot(a, offsets) for a in call.args)
        return Stage(kernel.symbol, args, kernel.extent, chunks, condition)


def _alias_roots(graph: Graph, segment: Segment) -> dict[int, int]:
    """For each alias inside a segment, the value whose memory it shares."""
    roots: dict[int, int] = {}
    for region in segment.regions:
        if region.kind == "alias":
            op = graph.ops[region.members[0]]
            roots[op.result] = roots.get(op.operands[0], op.operands[0])
    return roots


@dataclass(slots=True)
class _Slots:
    """Where a segment's values live."""

    graph: Graph
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    roots: Mapping[int, int]

    def _home(self, value: int) -> Slot | None:
        """The slot of an input or output, by itself or through an alias; None for an intermediate."""
        value = self.roots.get(value, value)
        if value in self.inputs:
            return Slot("input", self.inputs.index(value))
        return Slot("output", self.outputs.index(value)) if value in self.outputs else None

    def arena(self, stages: Sequence[_Call], temporaries: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """The arena's size and the offset of each intermediate; bytes of those that are no values of the graph."""
        lives: dict[int, Lifetime] = {}
        for number, call in enumerate(stages):
            for value in call.values:
                if self._home(value) is not None:
                    continue
                value = self.roots.get(value, value)
                size = temporaries[value] if value in temporaries else self.graph.types[value].nbytes
                known = lives.get(value)
                lives[value] = Lifetime(size, known.first if known else number, number)
        offsets, size = assign_offsets(lives)
        return size, offsets

    def slot(self, arg: tuple[str, int], offsets: Mapping[int, int]) -> Slot:
        """The slot of a kernel's argument."""
        kind, value = arg
        if kind == "constant":
            return Slot("constant", value)
        return self._home(value) or Slot("arena", offsets[self.roots.get(value, value)])
