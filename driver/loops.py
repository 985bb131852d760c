"""Loops inside native plans: a body all of which kernels can compute becomes stages that are repeated.

A carry lives in two places that take turns: what an iteration reads and what it writes. So two iterations stand in the
plan as stages, and are repeated together; the first iteration, which reads the carries' initial values where they are,
stands in front, and where the number of iterations asks for it one more stands behind. Slices of what is scanned and
stacked are windows that move.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.graph import Graph, GraphBuilder, Op
from ..ir.plan import MAX_EXECUTIONS, Repeat, Window
from ..ir.scan import Scan, scan_of
from ..passes.lower import ALIASES
from ..passes.regions import Region
from ..passes.segments import ordered
from .program import KernelCall, Place, Program

if TYPE_CHECKING:
    from .planning import Partition

MAX_STAGES = MAX_EXECUTIONS // 16
"""Loops that execute more regions stay XLA's: a plan can count only so many."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop all of whose body kernels can compute.

    Args:
        scan: the operation.
        parts: its body, cut into regions that cover it.
        sources: for constants of the body, the constant of the graph around the loop.
        roots: for each alias inside the body, the value whose memory it shares.
    """

    scan: Scan
    parts: Partition
    sources: Mapping[int, int]
    roots: Mapping[int, int]

    @property
    def read_in_parts(self) -> tuple[int, ...]:
        """Values around the loop that iterations read in part or only once; a native call takes them as arguments."""
        return (*self.scan.initial, *self.scan.xs)

    @property
    def regions(self) -> tuple[Region, ...]:
        """What has kernels, in an order in which it can run."""
        return ordered(self.parts.graph, [r for r, _ in self.parts.regions if r.kind != "alias"])


def native_loop(graph: Graph, op: Op, cut: Callable[[Graph], Partition]) -> Loop | None:
    """A loop that can become part of a plan; None if it has to stay XLA's.

    Args:
        graph: the graph around it.
        op: any operation.
        cut: makes regions of a body.
    """
    scan = scan_of(op)
    if scan is None or scan.length == 0 or any(inner.body is not None for inner in scan.body.ops):
        return None
    if any(graph.types[v].size == 0 for v in (*op.operands, *op.results)):
        return None
    body, sources = _with_constants(graph, scan)
    parts = cut(_with_own_outputs(body))
    covered = {m for region, _ in parts.regions for m in region.members}
    if len(covered) < len(parts.graph.ops) or scan.length * len(parts.regions) > MAX_STAGES:
        return None
    if any(v not in sources for w in parts.workloads.values() for v in w.constants):
        return None
    aliases = {r.members[0] for r, _ in parts.regions if r.kind == "alias"}
    return Loop(scan, parts, sources, _roots(parts.graph, aliases))


def _with_constants(graph: Graph, scan: Scan) -> tuple[Graph, dict[int, int]]:
    """The body with known invariants as constants, and where these come from."""
    pairs = zip(scan.body_invariants, scan.invariants, strict=True)
    sources = {inner: value for inner, value in pairs if value in graph.constants}
    inputs = {v: t for v, t in scan.body.inputs.items() if v not in sources}
    constants = {**scan.body.constants, **{inner: graph.constants[value] for inner, value in sources.items()}}
    return Graph(inputs, constants, scan.body.ops, scan.body.outputs), sources


def _with_own_outputs(body: Graph) -> Graph:
    """The body with outputs that are computed and each have memory of their own."""
    roots = _roots(body, range(len(body.ops)))
    builder = GraphBuilder(body)
    builder.ops = list(body.ops)
    taken: set[int] = set()
    outputs: list[int] = []
    for value in body.outputs:
        root = roots.get(value, value)
        if root in taken or body.producer(root) is None:
            (value,) = builder.add("copy", [value], {}, [body.types[value]])
            root = value
        taken.add(root)
        outputs.append(value)
    return builder.build(outputs)


def _roots(graph: Graph, among: Collection[int]) -> dict[int, int]:
    """For each alias among some operations, the value whose memory it shares."""
    roots: dict[int, int] = {}
    for index, op in enumerate(graph.ops):
        if op.opcode in ALIASES and index in among:
            roots[op.result] = roots.get(op.operands[0], op.operands[0])
    return roots


# ---- as kernel calls


Call = Callable[[Region, Callable[[int], Place]], KernelCall]
"""Makes the call of a body's region, given where the body's values are."""


def add_loop(loop: Loop, program: Program, call: Call) -> None:
    """Append the stages of a loop to a program.

    Args:
        loop: the loop.
        program: gets its kernel calls, and which of them are repeated.
        call: makes kernel calls.
    """
    emitter = _Emitter(loop, program, call)
    first = len(program.calls)
    emitter.run()
    program.spans.append((first, len(program.calls) - 1))


class _Emitter:
    def __init__(self, loop: Loop, program: Program, call: Call) -> None:
        self.loop, self.program, self.call = loop, program, call
        self.scan = loop.scan
        self.graph = loop.parts.graph
        self.outputs = [loop.roots.get(v, v) for v in self.graph.outputs]
        self.turns = [program.temporary(self._bytes(v)) for v in self.outputs[: self.scan.carries]]
        self.inner = {v: Place(program.temporary(self._bytes(v))) for v in self._intermediates()}

    def run(self) -> None:
        """All iterations: the first, pairs, the last."""
        length, carries = self.scan.length, self.scan.carries
        done = 1 if carries else 0
        if carries:
            self.iteration(0, 0)
        period = 2 if carries else 1
        count = (length - done) // period
        start = len(self.program.calls)
        for number in range(done, done + period if count else done):
            self.iteration(number, period if count > 1 else 0)
        if count > 1:
            self.program.repeats.append(Repeat(start, len(self.program.calls) - start, count))
        for number in range(done + period * count, length):
            self.iteration(number, 0)

    def iteration(self, number: int, step: int) -> None:
        """One iteration, repeated for every ``step``-th one after it (0 for none)."""
        places = self._places(number, step)
        for region in self.loop.regions:
            self.program.calls.append(self.call(region, lambda v: places[self._root(v)]))

    def _places(self, number: int, step: int) -> dict[int, Place]:
        scan = self.scan
        places = dict(self.inner)
        places.update((v, Place(outer)) for v, outer in zip(scan.body_invariants, scan.invariants, strict=True))
        places.update((v, self._carry(k, number)) for k, v in enumerate(scan.body_carries))
        places.update((v, self._carry(k, number + 1)) for k, v in enumerate(self.outputs[: scan.carries]))
        stacked = zip(self.outputs[scan.carries :], scan.ys, strict=True)
        for inner, outer in (*zip(scan.body_xs, scan.xs, strict=True), *stacked):
            places[inner] = Place(outer, self._window(self._bytes(inner), number, step))
        return places

    def _carry(self, k: int, done: int) -> Place:
        """Where a carry is after so many iterations: the last value where the result belongs."""
        if done == 0:
            return Place(self.scan.initial[k])
        last = (self.scan.length - done) % 2 == 0
        return Place(self.scan.final[k] if last else self.turns[k])

    def _window(self, size: int, number: int, step: int) -> Window:
        if self.scan.reverse:
            return Window((self.scan.length - 1 - number) * size, -step * size)
        return Window(number * size, step * size)

    def _bytes(self, value: int) -> int:
        return self.graph.types[value].nbytes

    def _intermediates(self) -> list[int]:
        """Values that live and die within an iteration."""
        known = {*self.graph.inputs, *self.outputs}
        workloads = (self.loop.parts.workloads[r.members] for r in self.loop.regions)
        return list(dict.fromkeys(root for w in workloads for v in w.outputs if (root := self._root(v)) not in known))

    def _root(self, value: int) -> int:
        return self.loop.roots.get(value, value)
