"""Regions: operations of a graph that become one workload, and what makes a set of operations fit for one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..ir.graph import Graph

Kind = Literal["alias", "view", "elementwise", "rows", "reduction", "contraction", "stream", "loop"]


@dataclass(frozen=True, slots=True)
class Region:
    """Operations that become one workload.

    Args:
        members: indices of operations, ascending.
        kind: what they amount to; a ``loop`` is a single operation whose body has regions of its own.
        full: the largest shape inside without unit axes; for ``rows`` what is reduced.
        kept: for ``rows`` the axes of ``full`` that survive the reductions.
        formulation: name of the formulation that computes it where that is valid; empty for none.
    """

    members: tuple[int, ...]
    kind: Kind
    full: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    formulation: str = ""

    @property
    def reduced(self) -> tuple[int, ...]:
        """For ``rows`` the shape of what the reductions leave."""
        return tuple(self.full[axis] for axis in self.kept)


def squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without its unit axes."""
    return tuple(n for n in shape if n != 1)


def one_result(graph: Graph, members: Collection[int]) -> bool:
    """Whether exactly one value that the members define is read outside, so that nothing inside is stored twice.

    Args:
        graph: the graph.
        members: indices of operations with one result each.
    """
    inside = set(members)
    count = 0
    for member in members:
        value = graph.ops[member].result
        outside = any(u not in inside for u in graph.users[value])
        count += value in graph.outputs or outside
    return count == 1


def convex(graph: Graph, members: Sequence[int]) -> bool:
    """Whether no path leaves the members and comes back.

    Args:
        graph: the graph.
        members: indices of operations, ascending.
    """
    inside, first = set(members), members[0]
    reached: set[int] = set()
    for index in range(first, members[-1] + 1):
        producers = {graph.producers.get(v) for v in graph.ops[index].operands}
        if index in inside:
            if producers & reached:
                return False
        elif producers & (inside | reached):
            reached.add(index)
    return True
