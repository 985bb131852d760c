"""In which layouts the values of a network may be stored: which are worth a look, as steps of a graph trace.

Values that operations tie to each other (elementwise ones, pooling) want one layout: they form a *class*. The layout in
which the features of convolutions come last, so that vectors run along them, is carried from the classes that
convolutions read and make to those that follow from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..ir.graph import Graph
from .graph_trace import value_name
from .layout_rules import Order, as_given, followed, goes_along, moves_nothing, tied
from .schedule import Step

CONVOLUTION = "conv_general_dilated"


def features_last(graph: Graph) -> Iterator[tuple[Step, ...]]:
    """For each connected part of a graph that has some, layouts with the features of its convolutions last.

    First that of all values, then that of those which are not tied to arguments or results of the graph: convolutions
    read and make these as they are given, so that nothing need be transposed. Weights follow where it matters.
    """
    classes, parts = _classes(graph), _parts(graph)
    orders = _orders(graph, classes)
    fixed = {classes.root(v) for v in (*graph.inputs, *graph.outputs)}
    for part in dict.fromkeys(map(parts.root, orders)):
        inside = {value: order for value, order in orders.items() if parts.root(value) == part}
        free = {value: order for value, order in inside.items() if classes.root(value) not in fixed}
        chosen = [inside, free] if len(free) < len(inside) else [inside]
        found = tuple(_step({**c, **_weights(graph, c)}) for c in chosen if _moves(graph, c))
        if found:
            yield found


def _moves(graph: Graph, orders: Mapping[int, Order]) -> bool:
    """Whether any value is stored otherwise: axes of size 1 may stand anywhere."""
    return not all(moves_nothing(graph.types[value].shape, order) for value, order in orders.items())


def _step(orders: Mapping[int, Order]) -> Step:
    """The step that stores values in some orders."""
    values: dict[Order, list[str]] = {}
    for value, order in orders.items():
        values.setdefault(order, []).append(value_name(value))
    (first, (target, *rest)), *others = values.items()
    more = (item for order, names in others for item in (_name(order), *names))
    return Step("set_layout", target, (_name(first), *rest, *more))


def _name(order: Order) -> str:
    return ",".join(map(str, order))


@dataclass(slots=True)
class _Sets:
    """Disjoint sets of values (union-find)."""

    above: dict[int, int] = field(default_factory=dict)

    def root(self, value: int) -> int:
        """The value that stands for a set."""
        while value in self.above:
            value = self.above[value]
        return value

    def join(self, values: Iterable[int]) -> None:
        """Make one set of those of some values."""
        first, *rest = dict.fromkeys(map(self.root, values))
        self.above.update(dict.fromkeys(rest, first))


def _classes(graph: Graph) -> _Sets:
    """Values tied to each other by what computes one from the other."""
    sets = _Sets()
    for op in graph.ops:
        if tied(op):
            like = (v for v in op.operands if v not in graph.constants and graph.types[v].rank == op.type.rank)
            sets.join((op.result, *like))
    return sets


def _parts(graph: Graph) -> _Sets:
    """Values between which there is a way; arguments and constants connect nothing."""
    sets = _Sets()
    for op in graph.ops:
        values = (*op.results, *(v for v in op.operands if v in graph.producers))
        if values:
            sets.join(values)
    return sets


def _orders(graph: Graph, classes: _Sets) -> dict[int, Order]:
    """The orders of the values that are to be stored otherwise than as they are given."""
    wanted = _at_convolutions(graph, classes)
    along = [op for op in graph.ops if goes_along(op)]
    for op in along:
        stored = [wanted.get(classes.root(v), as_given(graph.types[v].rank)) for v in op.operands]
        order = followed(op, [graph.types[v] for v in op.operands], stored)
        if order != as_given(op.type.rank):
            wanted.setdefault(classes.root(op.result), order)
    orders = {op.result: wanted.get(classes.root(op.result), as_given(op.type.rank)) for op in along}
    return {value: order for value, order in orders.items() if order != as_given(len(order))}


def _at_convolutions(graph: Graph, classes: _Sets) -> dict[int, Order]:
    """By class, the order with the features of a convolution that makes it last, else of one that reads it."""
    wanted: dict[int, Order] = {}
    convolutions = [op for op in graph.ops if op.opcode == CONVOLUTION]
    for op in convolutions:
        wanted.setdefault(classes.root(op.result), _last(op.params["dimension_numbers"][2][1], op.type.rank))
    for op in convolutions:
        wanted.setdefault(classes.root(op.operands[0]), _last(op.params["dimension_numbers"][0][1], op.type.rank))
    return wanted


def _weights(graph: Graph, chosen: Mapping[int, Order]) -> dict[int, Order]:
    """Weights of convolutions whose results are among some values: features last, behind channels.

    Known weights of dense convolutions are left out: kernels have them packed, whatever their order.
    """
    found: dict[int, Order] = {}
    for op in graph.ops:
        if op.opcode != CONVOLUTION or op.result not in chosen:
            continue
        weights = op.operands[1]
        dense = op.params["feature_group_count"] == op.params["batch_group_count"] == 1
        if weights in graph.inputs or (graph.constant(weights) is not None and not dense):
            features, channels, *places = op.params["dimension_numbers"][1]
            found[weights] = (*places, channels, features)
    return {value: order for value, order in found.items() if order != as_given(len(order))}


def _last(axis: int, rank: int) -> Order:
    return (*(a for a in range(rank) if a != axis), axis)
