"""Segments: which regions run inside which native call.

A native call costs a dispatch and ends a run of kernels, so a segment is as large as the graph allows: nodes get a
level that grows by one whenever data passes between native regions and XLA, and all native regions of one level form
one segment. No path leaves a segment and comes back, since it would have to pass a higher level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.graph import Graph
from .regions import Region

_CIRCLE = "expected regions that do not depend on each other in a circle"


@dataclass(frozen=True, slots=True)
class Segment:
    """Regions of one native call, in an order in which they can run."""

    regions: tuple[Region, ...]

    @property
    def members(self) -> tuple[int, ...]:
        """Indices of all operations."""
        return tuple(sorted(m for r in self.regions for m in r.members))


def segments(graph: Graph, regions: Sequence[Region]) -> tuple[Segment, ...]:
    """Gather native regions into segments.

    Args:
        graph: the graph.
        regions: what runs natively; everything else is XLA's. Aliases join the region that feeds them.

    Returns:
        Segments in an order in which they can run.

    Raises:
        ValueError: regions depend on each other.
    """
    compute = [r for r in regions if r.kind != "alias"]
    region_of = {m: n for n, r in enumerate(compute) for m in r.members}
    native = set(region_of)
    aliases = {r.members[0]: r for r in regions if r.kind == "alias" and len(r.members) == 1}
    for index in sorted(aliases):
        if graph.producers.get(graph.ops[index].operands[0]) in native:
            native.add(index)
    levels = _levels(graph, compute, region_of, native)
    found: dict[int, list[Region]] = {}
    for number, region in enumerate(compute):
        found.setdefault(levels[compute[number].members[-1]], []).append(region)
    for index in sorted(native - set(region_of)):
        if levels[index] in found:
            found[levels[index]].append(aliases[index])
    return tuple(Segment(ordered(graph, found[level])) for level in sorted(found))


def _levels(graph: Graph, compute: Sequence[Region], region_of: dict[int, int], native: set[int]) -> dict[int, int]:
    """Level of every operation: odd for native ones, even for XLA's.

    Raises:
        ValueError: regions depend on each other.
    """
    levels = {i: 1 if i in native else 0 for i in range(len(graph.ops))}
    of_region = [1] * len(compute)
    changed = True
    while changed:
        changed = False
        for index, op in enumerate(graph.ops):
            level = levels[index]
            for value in op.operands:
                source = graph.producers.get(value)
                if source is not None:
                    above = levels[source] + ((source in native) != (index in native))
                    level = max(level, above)
            if index in region_of:
                level = max(level, of_region[region_of[index]])
                of_region[region_of[index]] = level
            if level > len(graph.ops) + 1:
                raise ValueError(_CIRCLE)
            if level != levels[index]:
                levels[index] = level
                changed = True
    return levels


def ordered(graph: Graph, regions: Sequence[Region]) -> tuple[Region, ...]:
    """Regions such that each comes after those that feed it.

    Raises:
        ValueError: they depend on each other.
    """
    region_of = {m: n for n, r in enumerate(regions) for m in r.members}
    needs: list[set[int]] = []
    for number, region in enumerate(regions):
        sources = (graph.producers.get(v) for m in region.members for v in graph.ops[m].operands)
        needs.append({region_of[s] for s in sources if s in region_of and region_of[s] != number})
    order: list[int] = []
    done: set[int] = set()
    waiting = sorted(range(len(regions)), key=lambda n: regions[n].members[-1])
    while waiting:
        ready = next((n for n in waiting if needs[n] <= done), None)
        if ready is None:
            raise ValueError(_CIRCLE)
        waiting.remove(ready)
        done.add(ready)
        order.append(ready)
    return tuple(regions[n] for n in order)
