"""Regions of a graph as workloads, each lowered once."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from ..ir.graph import Graph
from ..ir.graph_edit import subgraph
from .lower import LoweringError, Workload, lower

_known: WeakKeyDictionary[Graph, dict[tuple[int, ...], Workload | None]] = WeakKeyDictionary()


def lowered(graph: Graph, members: tuple[int, ...], name: str) -> Workload | None:
    """The workload of some operations; None if one of them has no loops.

    Args:
        graph: the graph.
        members: indices of its operations.
        name: for people.
    """
    known = _known.setdefault(graph, {})
    if members not in known:
        try:
            known[members] = lower(subgraph(graph, members), name)
        except LoweringError:
            known[members] = None
    return known[members]
