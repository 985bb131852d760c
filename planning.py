"""From an optimised graph to native plans: regions, workloads, traces, kernels, and the calls that replace them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .backends.llvm.codegen import compile_kernel
from .backends.llvm.ffi import bind_plan
from .backends.llvm.kernel import Kernel
from .backends.llvm.vecmath import SUPPORTED
from .backends.xla import PLAN
from .ir import dtypes
from .ir.graph import Graph, Op
from .ir.graph_edit import replace_region, subgraph
from .ir.plan import ExecPlan, Slot, Stage
from .ir.target import Target
from .ir.text import digest
from .passes.fusion import Region, group, sink_views
from .passes.lower import LoweringError, Workload, lower
from .passes.memory import Lifetime, assign_offsets
from .passes.packing import pack_array
from .passes.schedule import ScheduleError, Trace, replay
from .passes.segments import Segment, segments
from .search.sketch import sketches

CHUNKS_PER_THREAD = 4
SUPPORTED_OPS = frozenset(name for name, types in SUPPORTED.items() if "float32" in types)


@dataclass(frozen=True, slots=True)
class Task:
    """A distinct workload of a graph, with the schedule chosen for it.

    Args:
        key: digest of the workload.
        workload: one of the equal lowered regions.
        trace: the schedule.
        kernel: its code.
        sketch: name of the family the schedule is from.
    """

    key: str
    workload: Workload
    trace: Trace
    kernel: Kernel
    sketch: str


@dataclass(frozen=True, slots=True)
class NativePlan:
    """The reference of a native call: binds the plan on JAX values."""

    plan: ExecPlan
    kernels: Mapping[str, Kernel]
    regions: tuple[tuple[Region, str], ...]

    def bind(self, *operands: object) -> Sequence[object]:
        """Call the plan."""
        return bind_plan(self.plan, self.kernels)(*operands)


Choose = Callable[[str, Workload, Target], tuple[str, Trace] | None]
"""Answers a workload's digest, the workload and the target with a sketch's name and a trace, or None for XLA."""


def default_choice(key: str, workload: Workload, target: Target) -> tuple[str, Trace] | None:
    """The first sketch's default decisions; workloads that only the plain sketch fits stay XLA's."""
    sketch = sketches(workload.func, target)[0]
    if sketch.name == "plain":
        return None
    return sketch.name, sketch.build(sketch.default)


@dataclass(slots=True)
class _Planner:
    graph: Graph
    target: Target
    choose: Choose
    tasks: dict[str, Task | None] = field(default_factory=dict)
    lowered: dict[tuple[int, ...], tuple[str, Workload]] = field(default_factory=dict)
    packed: dict[tuple[int, object], np.ndarray] = field(default_factory=dict)

    def native_regions(self) -> list[Region]:
        """Regions that have code."""
        kept: list[Region] = []
        for region in group(self.graph, SUPPORTED_OPS):
            if region.kind in ("alias", "view"):
                if region.kind == "alias":
                    kept.append(region)
                continue
            if self._task(region) is not None:
                kept.append(region)
        return kept

    def _task(self, region: Region) -> Task | None:
        try:
            workload = lower(subgraph(self.graph, region.members), region.kind)
        except LoweringError:
            return None
        key = digest(workload.func)
        self.lowered[region.members] = (key, workload)
        if key not in self.tasks:
            self.tasks[key] = self._build(key, workload)
        return self.tasks[key]

    def _build(self, key: str, workload: Workload) -> Task | None:
        chosen = self.choose(key, workload, self.target)
        if chosen is None:
            return None
        name, trace = chosen
        try:
            scheduled = replay(workload.func, trace)
        except ScheduleError:
            return None
        return Task(key, workload, trace, compile_kernel(scheduled, self.target), name)

    def plan(self, segment: Segment) -> tuple[Op, NativePlan]:
        """The native call of a segment."""
        graph = subgraph(self.graph, segment.members)
        inputs, outputs = tuple(graph.inputs), graph.outputs
        root = self._storage(segment)
        slots = _Slots(inputs, outputs, root)
        stages: list[tuple[Kernel, list[tuple[str, int]]]] = []
        kernels: dict[str, Kernel] = {}
        constants: list[np.ndarray] = []
        names: list[tuple[Region, str]] = []
        for region in segment.regions:
            if region.kind == "alias":
                continue
            key, workload = self.lowered[region.members]
            task = self.tasks[key]
            assert task is not None
            kernels[task.kernel.symbol] = task.kernel
            names.append((region, key))
            args = [("value", v) for v in workload.inputs]
            for value, buffer in zip(workload.constants, task.kernel.params[len(args) :], strict=False):
                args.append(("constant", self._constant(value, buffer, constants)))
            args += [("value", v) for v in workload.outputs]
            stages.append((task.kernel, args))
        arena, offsets = slots.arena(stages, self.graph)
        plan = ExecPlan(
            tuple(self.graph.types[v] for v in inputs),
            tuple(self.graph.types[v] for v in outputs),
            tuple(constants),
            arena,
            tuple(self._stage(kernel, [slots.slot(a, offsets) for a in args]) for kernel, args in stages),
        )
        native = NativePlan(plan, kernels, tuple(names))
        types = tuple(self.graph.types[v] for v in outputs)
        return Op(PLAN, inputs, outputs, types, {}, native), native

    def _storage(self, segment: Segment) -> dict[int, int]:
        """For each alias inside the segment, the value whose memory it shares."""
        root: dict[int, int] = {}
        for region in segment.regions:
            if region.kind == "alias":
                op = self.graph.ops[region.members[0]]
                root[op.result] = root.get(op.operands[0], op.operands[0])
        return root

    def _constant(self, value: int, buffer: object, constants: list[np.ndarray]) -> int:
        key = (value, buffer)
        if key not in self.packed:
            array = self.graph.constants[value].value
            self.packed[key] = pack_array(np.asarray(array), buffer)  # type: ignore[arg-type]
        for number, known in enumerate(constants):
            if known is self.packed[key]:
                return number
        constants.append(self.packed[key])
        return len(constants) - 1

    def _stage(self, kernel: Kernel, args: list[Slot]) -> Stage:
        chunks = min(kernel.extent, self.target.threads * CHUNKS_PER_THREAD) if self.target.threads > 1 else 1
        return Stage(kernel.symbol, tuple(args), kernel.extent, max(chunks, 1))


@dataclass(slots=True)
class _Slots:
    """Where a segment's values live."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    root: dict[int, int]

    def _home(self, value: int) -> Slot | None:
        """The slot of an input or output, by itself or through an alias; None for an intermediate."""
        value = self.root.get(value, value)
        if value in self.inputs:
            return Slot("input", self.inputs.index(value))
        for number, output in enumerate(self.outputs):
            if self.root.get(output, output) == value:
                return Slot("output", number)
        return None

    def arena(
        self, stages: list[tuple[Kernel, list[tuple[str, int]]]], graph: Graph
    ) -> tuple[int, dict[int, int]]:
        """The arena's size and the offset of each intermediate."""
        lives: dict[int, Lifetime] = {}
        for number, (_, args) in enumerate(stages):
            for kind, value in args:
                if kind != "value" or self._home(value) is not None:
                    continue
                value = self.root.get(value, value)
                type_ = graph.types[value]
                known = lives.get(value)
                size = type_.size * dtypes.itemsize(type_.dtype)
                lives[value] = Lifetime(size, known.first if known else number, number)
        offsets, size = assign_offsets(lives)
        return size, offsets

    def slot(self, arg: tuple[str, int], offsets: dict[int, int]) -> Slot:
        """The slot of a kernel's argument."""
        kind, value = arg
        if kind == "constant":
            return Slot("constant", value)
        return self._home(value) or Slot("arena", offsets[self.root.get(value, value)])


def plan_graph(graph: Graph, target: Target, choose: Choose = default_choice) -> tuple[Graph, list[NativePlan]]:
    """Replace everything that kernels are chosen for by native calls.

    Args:
        graph: a simplified graph.
        target: the CPU.
        choose: picks a schedule for each distinct workload.

    Returns:
        The graph with native calls, and the calls.
    """
    graph = sink_views(graph)
    planner = _Planner(graph, target, choose)
    natives: list[NativePlan] = []
    parts = segments(graph, planner.native_regions())
    made = [(segment.members, *planner.plan(segment)) for segment in parts]
    for members, op, native in made:
        index = {o.result: i for i, o in enumerate(graph.ops) if len(o.results) == 1}
        values = [planner.graph.ops[m].result for m in members]
        graph = replace_region(graph, [index[v] for v in values], [op])
        natives.append(native)
    return graph, natives


