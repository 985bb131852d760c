"""The graph primitives: `set_layout`, `group`, `rematerialize`, `cut` and `formulate`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from ..ir.graph import Graph, Op
from ..ir.graph_edit import rename, subgraph
from .formulations import FORMULATIONS
from .graph_trace import Grouping, graph_primitive, value_of
from .layout_rules import Order, as_given
from .layouts import relaid
from .lower import ALIASES, VIEWS
from .lower_blocks import AXIS_REDUCTIONS, BLOCK_RULES, CONTRACTIONS
from .lower_region import lowered
from .regions import Kind, Region, convex, one_result
from .schedule import ScheduleError

Way = Callable[[Graph, tuple[int, ...]], Kind | None]
"""Whether operations (ascending, convex, with one result) can be one workload, and what they amount to then."""


def loop_nests(graph: Graph, members: tuple[int, ...]) -> Kind | None:
    """Operations that lowering makes loops of, whatever schedules they have."""
    kind = _kind([graph.ops[m] for m in members])
    return kind if kind == "alias" or lowered(graph, members, kind) is not None else None


WAYS: tuple[Way, ...] = (loop_nests,)
"""Ways in which operations can be one workload; the first that answers decides."""


@graph_primitive
def set_layout(grouping: Grouping, target: str, order: str, *more: str) -> Grouping:
    """Values are stored with their axes in other orders, and greedy regions are found anew.

    Before ``%5: float32[1,64,56,56]``; after ``set_layout(%5, 0,2,3,1)`` ``%5: float32[1,56,56,64]``. What makes and
    reads the values is computed accordingly, bit for bit but for the order of sums; where an operation does not go
    along, at arguments and at outputs, a transposition stands between. Constants are transposed when the program is
    built.

    Args:
        grouping: the regions.
        target: an argument, a constant, or a value that an operation computes.
        order: its present axes in their new order, separated by commas.
        more: further values that get this order, then perhaps another order and its values, and so on.

    Raises:
        ScheduleError: an order is no permutation of a value's axes or changes nothing, a value is one of several
            results or unknown, or earlier steps have changed the regions.
    """
    if grouping.greedy is None:
        raise ScheduleError("expected greedy regions, which set_layout finds anew, found that steps have changed them")
    axes, orders = _order_of(order), dict[int, Order]()
    for item in (target, *more):
        if item.startswith("%"):
            value = value_of(item)
            _check_order(grouping.graph, value, axes)
            orders[value] = axes
        else:
            axes = _order_of(item)
    return grouping.greedy(relaid(grouping.graph, orders))


def _order_of(text: str) -> Order:
    """The order of axes that a step names.

    Raises:
        ScheduleError: it is none, or that of the axes as they are.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise ScheduleError(f"expected an order of axes, like 0,2,3,1, found {text[:40]!r}")
    order = tuple(map(int, parts))
    if order == as_given(len(order)):
        raise ScheduleError(f"expected another order than that of the axes, found {text[:40]!r}")
    return order


def _check_order(graph: Graph, value: int, order: Order) -> None:
    op = graph.producer(value)
    known = value in graph.inputs or graph.constant(value) is not None
    if not known and (op is None or len(op.results) != 1):
        raise ScheduleError(f"expected an argument, a constant or the only result of an operation, found %{value}")
    type_ = graph.types[value]
    if sorted(order) != list(range(type_.rank)):
        raise ScheduleError(f"expected an order of the axes of %{value}, which is {type_}, found {order}")


@graph_primitive
def group(grouping: Grouping, target: str, *feeding: str) -> Grouping:
    """A region takes in others that feed it.

    Before ``{a, b} -> %3`` and ``{c, d} -> %5``, where ``c`` reads ``%3``; after ``group(%5, %3)`` one region
    ``{a, b, c, d} -> %5``, and ``%3`` is no longer stored. Where others read ``%3`` as well, the region takes in
    a copy, and the original stays for them; only elementwise operations and views are computed twice.

    Args:
        grouping: the regions.
        target: result of the region that remains.
        feeding: results of the others.

    Raises:
        ScheduleError: one of them does not feed the rest, would have to be copied but is not cheap, something outside
            lies on a path between them, or no workload computes them all.
    """
    region, others = grouping.named(target), [grouping.named(name) for name in dict.fromkeys(feeding)]
    if not others or region in others:
        raise ScheduleError(f"expected other regions to be taken in by {target}, found {', '.join(feeding) or 'none'}")
    graph = grouping.graph
    taken, copied = [region], list[Region]()
    for other in sorted(others, key=lambda r: -r.members[-1]):
        result = grouping.result(other)
        users, inside = set(graph.users[result]), {m for r in taken for m in r.members}
        if users.isdisjoint(m for r in (*taken, *copied) for m in r.members):
            raise ScheduleError(f"expected %{result} to be read by what is grouped, found that it is not")
        read_outside = result in graph.outputs or not users <= inside
        (copied if read_outside else taken).append(other)
    values = [v for r in taken for v in grouping.values(r)]
    twice = [v for r in copied for v in grouping.values(r)]
    graph, mapping = _with_copies(graph, twice, values)
    return _regrouped(grouping, graph, taken, [(*values, *mapping.values())])


@graph_primitive
def rematerialize(grouping: Grouping, target: str, *readers: str) -> Grouping:
    """A value is computed again by each region that reads it, and is not stored any more.

    Before ``{a} -> %3``, ``{b} -> %5`` and ``{c} -> %7``, which both read ``%3``; after ``rematerialize(%3, %5, %7)``
    two regions, ``{a, b} -> %5`` and ``{a, c} -> %7``, each with an ``a`` of its own.

    Args:
        grouping: the regions.
        target: result of an elementwise region.
        readers: results of the regions that read it.

    Raises:
        ScheduleError: something else reads it as well, it is not cheap, or a reader can't take it in (see `group`).
    """
    for reader in dict.fromkeys(readers):
        grouping = group(grouping, reader, target)
    if any(grouping.result(region) == value_of(target) for region in grouping.regions):
        raise ScheduleError(f"expected all that reads {target}, found {', '.join(readers) or 'none'}")
    return grouping


@graph_primitive
def cut(grouping: Grouping, target: str, *more: str) -> Grouping:
    """A region is cut at values inside it, which are then stored.

    Before ``{a, b, c, d} -> %5``; after ``cut(%3)`` the regions ``{a, b} -> %3``, which holds all that ``%3`` is made
    of, and ``{c, d} -> %5``. What both need is computed in both, if it is elementwise or a view.

    Args:
        grouping: the regions.
        target: a value inside a region.
        more: further values inside the same region.

    Raises:
        ScheduleError: a value is not inside the region, more than cheap operations would be computed twice, or a part
            does no work or has no workload.
    """
    names = tuple(dict.fromkeys((target, *more)))
    values = sorted(map(value_of, names), key=lambda v: grouping.graph.producers.get(v, -1))
    region = grouping.region_of(values[0])
    inside = set(grouping.values(region)) - {grouping.result(region)}
    if not inside.issuperset(values):
        raise ScheduleError(f"expected values inside one region, found {', '.join(names)}")
    graph = grouping.graph
    owned: set[int] = set()
    parts: list[list[int]] = []
    for value in (*values, grouping.result(region)):
        part = _made_of(grouping.graph, value, inside, values)
        shared = [v for v in part if v in owned]
        owned.update(part)
        graph, mapping = _with_copies(graph, shared, part)
        parts.append([mapping.get(v, v) for v in part])
    return _regrouped(grouping, graph, [region], parts)


@graph_primitive
def formulate(grouping: Grouping, target: str, name: str) -> Grouping:
    """A region is computed by a formulation, where that is valid: a sequence of kernels instead of one.

    Before ``{conv, add, max} -> %5``; after ``formulate(%5, winograd4)`` the same region, with the name.

    Args:
        grouping: the regions.
        target: result of a region.
        name: one of `FORMULATIONS`.

    Raises:
        ScheduleError: there is no such formulation, or it does not apply to the region.
    """
    region, make = grouping.named(target), FORMULATIONS.get(name)
    if make is None:
        raise ScheduleError(f"expected one of the formulations {list(FORMULATIONS)}, found {name[:40]!r}")
    if make(subgraph(grouping.graph, region.members)) is None:
        raise ScheduleError(f"expected a region that {name} applies to, found {target}")
    regions = (replace(r, formulation=name) if r is region else r for r in grouping.regions)
    return Grouping(grouping.graph, tuple(regions))


def _made_of(graph: Graph, value: int, inside: Collection[int], stored: Collection[int]) -> list[int]:
    """A value and those inside a region that it is made of, stored ones but itself left out, in order."""
    found = {value}
    waiting = [value]
    while waiting:
        op = graph.producer(waiting.pop())
        for operand in op.operands if op is not None else ():
            if operand in inside and operand not in stored and operand not in found:
                found.add(operand)
                waiting.append(operand)
    return sorted(found, key=graph.producers.__getitem__)


def _with_copies(graph: Graph, values: Collection[int], readers: Collection[int]) -> tuple[Graph, dict[int, int]]:
    """A graph with operations computed once more for some of their readers.

    Args:
        graph: the graph.
        values: results of the operations.
        readers: results of the operations that are to read the copies.

    Returns:
        The graph, each copy behind its original, and the copies by the original values.

    Raises:
        ScheduleError: an operation is more than elementwise.
    """
    if not values:
        return graph, {}
    costly = sorted({graph.ops[graph.producers[v]].opcode for v in values} & BLOCK_RULES.keys())
    if costly:
        raise ScheduleError(f"expected only elementwise operations and views to be computed twice, found {costly}")
    mapping = {v: fresh for fresh, v in enumerate(values, graph.fresh())}
    ops: list[Op] = []
    for op in graph.ops:
        copy = len(op.results) == 1 and op.result in mapping
        reads = len(op.results) == 1 and op.result in readers and not copy
        ops.append(rename(op, mapping) if reads else op)
        if copy:
            ops.append(replace(rename(op, mapping), results=(mapping[op.result],)))
    return graph.with_ops(ops), mapping


def _regrouped(grouping: Grouping, graph: Graph, gone: Sequence[Region], made: Sequence[Sequence[int]]) -> Grouping:
    """Regions made of given values in the place of others, in a graph that may hold more operations.

    Raises:
        ScheduleError: a new region is no workload.
    """
    moved = {} if graph is grouping.graph else graph.producers
    kept = [_moved(grouping, r, moved) for r in grouping.regions if r not in gone]
    fresh = [_checked(graph, values) for values in made]
    return Grouping(graph, tuple(sorted((*kept, *fresh), key=lambda r: r.members[-1])))


def _moved(grouping: Grouping, region: Region, producers: Mapping[int, int]) -> Region:
    """A region where its operations are now."""
    if not producers:
        return region
    return replace(region, members=tuple(sorted(producers[v] for v in grouping.values(region))))


def _checked(graph: Graph, values: Sequence[int]) -> Region:
    members = tuple(sorted(graph.producers[v] for v in values))
    names = f"%{graph.ops[members[-1]].result}"
    if not one_result(graph, members):
        raise ScheduleError(f"expected one result, found several in the region of {names}")
    if not convex(graph, members):
        raise ScheduleError(f"expected no path that leaves the region of {names} and comes back, found one")
    for way in WAYS:
        kind = way(graph, members)
        if kind is not None:
            return Region(members, kind)
    raise ScheduleError(f"expected operations that one workload computes, found none for the region of {names}")


def _kind(ops: Sequence[Op]) -> Kind:
    """What operations amount to, by what is in them."""
    opcodes = {op.opcode for op in ops}
    if opcodes <= VIEWS:
        return "alias" if len(ops) == 1 and opcodes <= ALIASES else "view"
    if opcodes & CONTRACTIONS:
        return "stream" if opcodes & AXIS_REDUCTIONS else "contraction"
    if opcodes & AXIS_REDUCTIONS and len(ops) > 1:
        return "rows"
    return "reduction" if opcodes & BLOCK_RULES.keys() else "elementwise"
