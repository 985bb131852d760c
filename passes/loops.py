"""Loops as part of the graph: their bodies are optimised like any graph, and what they carry in vain goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..ir.graph import Constant, Graph, Op
from ..ir.graph_edit import remove_dead, replace_values
from ..ir.scan import Scan, scan_of
from .manager import Pass, PassManager


@dataclass(frozen=True, slots=True)
class SimplifyLoops:
    """Optimises the bodies of loops.

    Known invariants are constants of the body while its passes run. Carries that never change become invariants;
    carries, slices and stacked results that nothing depends on go.

    Attributes:
        passes: What runs on a body, before this pass does for the loops inside it.
    """

    passes: tuple[Pass, ...]
    name: str = "simplify-loops"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        if not any(op.body is not None for op in graph.ops):
            return graph
        outer = _Outer(graph, dict(graph.constants), graph.fresh())
        ops = tuple(op if (loop := scan_of(op)) is None else self._simplified(loop, outer) for op in graph.ops)
        return remove_dead(replace_values(Graph(graph.inputs, outer.constants, ops, graph.outputs), outer.mapping))

    def _simplified(self, loop: Scan, outer: _Outer) -> Op:
        parts = _Parts.of(loop)
        for carry in [c for c in parts.carries if c.next == c.input]:
            parts.carries.remove(carry)
            parts.invariants[carry.input] = carry.initial
            outer.mapping[carry.result] = carry.initial
        parts.bind(outer.constants)
        parts.run(PassManager((*self.passes, self)))
        parts.drop_unread(outer.graph)
        parts.unbind(outer)
        return parts.build(loop.op)


@dataclass(slots=True)
class _Outer:
    """The graph around the loops, while it changes."""

    graph: Graph
    constants: dict[int, Constant]
    next_value: int
    mapping: dict[int, int] = field(default_factory=dict)

    def constant(self, constant: Constant) -> int:
        """A new constant's value."""
        value, self.next_value = self.next_value, self.next_value + 1
        self.constants[value] = constant
        return value


@dataclass(frozen=True, slots=True)
class _Carry:
    """A carry: outside what it begins with and ends as, in the body what it is and becomes."""

    initial: int
    input: int
    next: int
    result: int


@dataclass(slots=True)
class _Parts:
    """A loop taken apart.

    Args:
        body: its body; inputs and outputs follow from the rest.
        invariants: value outside by input of the body.
        carries: in order.
        xs: value outside by input of the body.
        ys: result by output of the body, which may occur several times.
    """

    body: Graph
    invariants: dict[int, int]
    carries: list[_Carry]
    xs: dict[int, int]
    ys: list[tuple[int, int]]

    @staticmethod
    def of(loop: Scan) -> _Parts:
        """Take a loop apart."""
        carries = zip(loop.initial, loop.body_carries, loop.next_carries, loop.final, strict=True)
        return _Parts(
            loop.body,
            dict(zip(loop.body_invariants, loop.invariants, strict=True)),
            [_Carry(*c) for c in carries],
            dict(zip(loop.body_xs, loop.xs, strict=True)),
            list(zip(loop.body_ys, loop.ys, strict=True)),
        )

    def bind(self, constants: Mapping[int, Constant]) -> None:
        """Make constants of the invariants that are known."""
        known = {inner: constants[value] for inner, value in self.invariants.items() if value in constants}
        self.invariants = {inner: value for inner, value in self.invariants.items() if inner not in known}
        self._rebuild({**self.body.constants, **known})

    def unbind(self, outer: _Outer) -> None:
        """Pass constants of several elements in from outside, so that they are stored once."""
        large = {v: c for v, c in self.body.constants.items() if not c.portable or c.type.size != 1}
        self.invariants |= {v: outer.constant(c) for v, c in large.items()}
        self._rebuild({v: c for v, c in self.body.constants.items() if v not in large})

    def run(self, passes: PassManager) -> None:
        """Optimise the body."""
        self.body = passes.run(self.body)
        outputs = self.body.outputs
        count = len(self.carries)
        self.carries = [replace(c, next=v) for c, v in zip(self.carries, outputs[:count], strict=True)]
        self.ys = [(v, result) for v, (_, result) in zip(outputs[count:], self.ys, strict=True)]

    def drop_unread(self, graph: Graph) -> None:
        """Drop what no result that is read depends on."""
        read = set(graph.outputs) | {value for value, users in graph.users.items() if users}
        self.ys = [(v, result) for v, result in self.ys if result in read]
        kept = [c for c in self.carries if c.result in read]
        while True:
            needed = _needed(self.body, [*(c.next for c in kept), *(v for v, _ in self.ys)])
            more = [c for c in self.carries if c in kept or c.input in needed]
            if len(more) == len(kept):
                break
            kept = more
        self.carries = kept
        self.invariants = {inner: value for inner, value in self.invariants.items() if inner in needed}
        self.xs = {inner: value for inner, value in self.xs.items() if inner in needed}
        self._rebuild(self.body.constants)

    def _rebuild(self, constants: Mapping[int, Constant]) -> None:
        types = {**self.body.types, **{v: c.type for v, c in constants.items()}}
        inputs = [*self.invariants, *(c.input for c in self.carries), *self.xs]
        outputs = (*(c.next for c in self.carries), *(v for v, _ in self.ys))
        self.body = remove_dead(Graph({v: types[v] for v in inputs}, constants, self.body.ops, outputs))

    def build(self, op: Op) -> Op:
        """The loop again."""
        types = dict(zip(op.results, op.types, strict=True))
        results = (*(c.result for c in self.carries), *(result for _, result in self.ys))
        return replace(
            op,
            operands=(*self.invariants.values(), *(c.initial for c in self.carries), *self.xs.values()),
            results=results,
            types=tuple(types[v] for v in results),
            params={**op.params, "num_consts": len(self.invariants), "num_carry": len(self.carries)},
            body=self.body,
        )


def _needed(body: Graph, values: list[int]) -> set[int]:
    """Every value that the given ones are computed from, themselves included."""
    found: set[int] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value not in found:
            found.add(value)
            producer = body.producer(value)
            waiting += producer.operands if producer is not None else ()
    return found
