"""Rewriting helpers for graphs: renaming values, extracting a region, replacing a region, ordering, dead code."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from .graph import Constant, Graph, GraphError, Op


def rename(op: Op, mapping: Mapping[int, int]) -> Op:
    """The operation reading `mapping[v]` instead of `v`; itself if nothing changes."""
    if not any(value in mapping for value in op.operands):
        return op
    return replace(op, operands=tuple(mapping.get(value, value) for value in op.operands))


def replace_values(graph: Graph, mapping: Mapping[int, int]) -> Graph:
    """Every use of a key, outputs included, reads the mapped value instead; chains are followed."""
    if not mapping:
        return graph
    flat = {value: _resolve(value, mapping) for value in mapping}
    ops = tuple(rename(op, flat) for op in graph.ops)
    return graph.with_ops(ops, tuple(flat.get(value, value) for value in graph.outputs))


def _resolve(value: int, mapping: Mapping[int, int]) -> int:
    while value in mapping:
        value = mapping[value]
    return value


def remove_dead(graph: Graph) -> Graph:
    """Drops operations without effects whose results nobody reads, and constants that are no longer used."""
    live = set(graph.outputs)
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if op.effects or any(value in live for value in op.results):
            kept.append(op)
            live.update(op.operands)
    constants = {value: constant for value, constant in graph.constants.items() if value in live}
    if len(kept) == len(graph.ops) and len(constants) == len(graph.constants):
        return graph
    return Graph(graph.inputs, constants, tuple(reversed(kept)), graph.outputs)


def region_boundary(graph: Graph, members: Collection[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a set of operations reads from outside and what others read of it.

    Args:
        graph: The graph.
        members: Indices of operations.

    Returns:
        The values read from outside (constants included) in order of first use, and the values defined inside that are
        read outside or are outputs of the graph, in order of definition.
    """
    inside = set(members)
    ordered = sorted(inside)
    defined = {value for index in ordered for value in graph.ops[index].results}
    read = dict.fromkeys(v for index in ordered for v in graph.ops[index].operands if v not in defined)
    outputs = set(graph.outputs)
    escaping = [
        value
        for index in ordered
        for value in graph.ops[index].results
        if value in outputs or any(user not in inside for user in graph.users[value])
    ]
    return tuple(read), tuple(escaping)


def subgraph(graph: Graph, members: Collection[int]) -> Graph:
    """A region as a graph of its own: outside values become inputs, constants stay, values keep their numbers.

    Its inputs and outputs stand in the order that `region_boundary` gives.
    """
    read, escaping = region_boundary(graph, members)
    inputs = {value: graph.types[value] for value in read if value not in graph.constants}
    constants: dict[int, Constant] = {value: graph.constants[value] for value in read if value in graph.constants}
    return Graph(inputs, constants, tuple(graph.ops[index] for index in sorted(set(members))), escaping)


def replace_region(graph: Graph, members: Collection[int], ops: Sequence[Op]) -> Graph:
    """Puts other operations in the place of a region.

    Args:
        graph: The graph.
        members: Indices of the operations that go.
        ops: What comes instead; they must define every value that others read of the region.

    Returns:
        The graph, operations ordered so that each value is defined before it is read.

    Raises:
        GraphError: the region has effects, a value that is still read is no longer defined, or the region is not
            convex (something outside lies on a path between two members).
    """
    gone = set(members)
    for index in gone:
        if graph.ops[index].effects:
            raise GraphError(f"operation {index} ({graph.ops[index].opcode}) has effects and can't be replaced")
    _, escaping = region_boundary(graph, gone)
    missing = set(escaping) - {value for op in ops for value in op.results}
    if missing:
        raise GraphError(f"the new operations don't define {', '.join(f'%{v}' for v in sorted(missing))}")
    place = min(gone, default=len(graph.ops))
    kept_before = [op for index, op in enumerate(graph.ops) if index < place]
    kept_after = [op for index, op in enumerate(graph.ops) if index > place and index not in gone]
    return graph.with_ops(toposort([*kept_before, *ops, *kept_after]))


def toposort(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Orders operations so that values are defined before they are read, otherwise as given where possible.

    Operations with effects keep their relative order.

    Raises:
        GraphError: they depend on each other in a cycle.
    """
    items = list(ops)
    producer = {value: index for index, op in enumerate(items) for value in op.results}
    waiting: list[int] = []
    followers: list[list[int]] = [[] for _ in items]
    last_effect: int | None = None
    for index, op in enumerate(items):
        before = {producer[value] for value in op.operands if value in producer}
        if op.effects:
            if last_effect is not None:
                before.add(last_effect)
            last_effect = index
        for other in before:
            followers[other].append(index)
        waiting.append(len(before))
    ready = [index for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[Op] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(items[index])
        for other in followers[index]:
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(ready, other)
    if len(order) < len(items):
        stuck = [items[index].opcode for index, count in enumerate(waiting) if count]
        raise GraphError(f"operations depend on each other in a cycle (a region that is not convex?): {stuck[:8]}")
    return tuple(order)
