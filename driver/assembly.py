"""From a partition and its kernels to native calls in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..backends.llvm.ffi import bind_plan
from ..backends.llvm.kernel import Kernel
from ..backends.xla import PLAN
from ..ir.graph import Graph, Op
from ..ir.graph_edit import replace_region, subgraph
from ..ir.loop import Buffer
from ..ir.plan import ExecPlan
from ..ir.target import Target
from ..passes.formulation import Value
from ..passes.packing import pack_array
from ..passes.regions import Region
from ..passes.segments import Segment, segments
from ..search.contest import chunk_count
from .loop_costs import loop_chunks
from .loops import Loop, add_loop
from .planning import Choice, Formulated, Partition
from .program import KernelCall, Place, Program


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
        valid = None if formulation.valid is None else numbers[formulation.valid]
        calls: list[KernelCall] = []
        for part, kernel in zip(formulation.parts, formulated.kernels, strict=True):
            values = [self._formulated_value(name, formulated, numbers) for name in part.args]
            args = tuple(
                Place(self._constant(v, b, constants), constant=True) if v in self.parts.graph.constants else Place(v)
                for v, b in zip(values, kernel.params, strict=True)
            )
            condition = (valid, True) if part.guarded and valid is not None else None
            calls.append(KernelCall(kernel, args, self._chunks(kernel), condition))
        return calls if valid is None else [*calls, replace(own, condition=(valid, False))]

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
