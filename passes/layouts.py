"""A graph some of whose values are stored with their axes in another order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..ir.graph import Constant, Graph, Op, TensorType
from ..ir.graph_edit import remove_dead
from .layout_rules import Order, arranged, as_given, between, moves_nothing, permuted


def relaid(graph: Graph, orders: Mapping[int, Order]) -> Graph:
    """The graph with values stored in other orders; transpositions stand where operations don't go along.

    Values keep their numbers, but those of transpositions that are no longer needed. Arguments, constants and outputs
    are what they were: what reads them in another order reads a transposition, which of constants is made here.

    Args:
        graph: the graph.
        orders: by argument, constant or value that an operation with one result computes.
    """
    moving = _Moving(graph, orders)
    for op in graph.ops:
        moving.add(op)
    outputs = tuple(moving.read(v, as_given(graph.types[v].rank)) for v in graph.outputs)
    return remove_dead(Graph(graph.inputs, moving.constants, tuple(moving.ops), outputs))


@dataclass(slots=True)
class _Moving:
    """The new graph while it grows.

    Args:
        graph: the old one.
        orders: by value, that in which it is stored.
        ops: operations so far.
        constants: those of the old graph, and transposed ones.
        types: of all values, as they are stored.
        same: for what was a transposition of the old graph and is none any more, the value that it is now.
        numbers: of new values.
        moved: by value, what it is a transposition of, and which.
    """

    graph: Graph
    orders: Mapping[int, Order]
    ops: list[Op] = field(default_factory=list)
    constants: dict[int, Constant] = field(init=False)
    types: dict[int, TensorType] = field(init=False)
    numbers: Iterator[int] = field(init=False)
    same: dict[int, int] = field(default_factory=dict)
    moved: dict[int, tuple[int, Order]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = dict(self.graph.constants)
        self.types = dict(self.graph.types)
        self.numbers = itertools.count(self.graph.fresh())
        for value, order in self.orders.items():
            if value in self.graph.producers:
                self.types[value] = permuted(self.types[value], order)
            else:
                self.same[value] = self._transposed(value, order)

    def order(self, value: int) -> Order:
        """The order in which a value of the old graph is stored."""
        return self.orders.get(value) or as_given(self.graph.types[value].rank)

    def read(self, value: int, wanted: Order) -> int:
        """A value of the old graph in some order."""
        source, permutation = self._source(self.same.get(value, value), between(self.order(value), wanted))
        return source if permutation == as_given(len(permutation)) else self._transposed(source, permutation)

    def add(self, op: Op) -> None:
        """Append what an operation of the old graph becomes."""
        if op.opcode == "transpose" and op.operands[0] in self.moved:
            self._arrange(op)
        elif not any(v in self.orders or v in self.same for v in (*op.operands, *op.results)):
            self.ops.append(op)
            if op.opcode == "transpose":
                self.moved[op.result] = op.operands[0], op.params["permutation"]
        elif len(op.results) == 1:
            self._arrange(op)
        else:
            given = tuple(self.read(v, as_given(self.graph.types[v].rank)) for v in op.operands)
            self.ops.append(replace(op, operands=given))

    def _arrange(self, op: Op) -> None:
        wanted, types = self.order(op.result), [self.graph.types[v] for v in op.operands]
        found = arranged(op, types, [self.order(v) for v in op.operands], wanted)
        if op.opcode == "transpose":
            operand = self.same.get(op.operands[0], op.operands[0])
            self._move(operand, found.params["permutation"], op.result)
            return
        operands = tuple(self.read(v, order) for v, order in zip(op.operands, found.operands, strict=True))
        made = op.result if found.result == wanted else self._fresh(permuted(op.type, found.result))
        self.ops.append(replace(op, operands=operands, results=(made,), types=(self.types[made],), params=found.params))
        if made != op.result:
            self._append(made, between(found.result, wanted), op.result)

    def _move(self, value: int, permutation: Order, result: int) -> None:
        """A result that is a transposition of a new value, or that value itself."""
        source, permutation = self._source(value, permutation)
        if permutation == as_given(len(permutation)):
            self.same[result] = source
        else:
            self._append(source, permutation, result)

    def _source(self, value: int, permutation: Order) -> tuple[int, Order]:
        """What a transposition of a new value is one of, seen through transpositions."""
        if value not in self.moved:
            return value, permutation
        source, inner = self.moved[value]
        return source, tuple(inner[axis] for axis in permutation)

    def _transposed(self, value: int, permutation: Order) -> int:
        """A transposition of a new value for a single reader."""
        result = self._fresh(permuted(self.types[value], permutation))
        known = self.constants.get(value)
        if known is not None and known.portable:
            array = np.ascontiguousarray(np.transpose(known.value, permutation))
            self.constants[result] = Constant(array, self.types[result])
        else:
            self._append(value, permutation, result)
        return result

    def _append(self, value: int, permutation: Order, result: int) -> None:
        """A transposition as an operation: where no element moves, a reshape, which costs nothing."""
        type_ = self.types[result]
        if moves_nothing(self.types[value].shape, permutation):
            self.ops.append(Op("reshape", (value,), (result,), (type_,), {"new_sizes": type_.shape}))
        else:
            self.ops.append(Op("transpose", (value,), (result,), (type_,), {"permutation": permutation}))
        self.moved[result] = value, permutation

    def _fresh(self, type_: TensorType) -> int:
        value = next(self.numbers)
        self.types[value] = type_
        return value
