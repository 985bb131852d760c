"""Neighbouring regions that could be one: runs of convolutions and products, each of which reads the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..ir.graph import Graph
from .graph_trace import Grouping, value_name
from .lower_blocks import CONTRACTIONS, WINDOWS
from .regions import Region
from .schedule import Step

LONGEST = 4
"""Most regions of a run that become one."""


def chain_runs(grouping: Grouping) -> tuple[tuple[Region, ...], ...]:
    """Longest runs of regions with one reduction each, of which every one but the first reduces what the last one made.

    What a region makes may be read later in its run as well (a residual connection); whether all readers are in a part
    of a run, `group` decides.
    """
    made = {grouping.result(r): r for r in grouping.regions if _reduction(grouping.graph, r) is not None}
    before: dict[int, Region] = {}
    for result, region in made.items():
        index = _reduction(grouping.graph, region)
        assert index is not None
        source = made.get(grouping.graph.ops[index].operands[0])
        if source is not None and source is not region:
            before[result] = source
    followed = {grouping.result(r) for r in before.values()}
    runs: list[tuple[Region, ...]] = []
    seen: set[int] = set()
    for last in sorted((v for v in made if v not in followed), reverse=True):
        run = [made[last]]
        while (previous := before.get(grouping.result(run[0]))) is not None and grouping.result(previous) not in seen:
            run.insert(0, previous)
        seen.update(map(grouping.result, run))
        runs.append(tuple(run))
    return tuple(run for run in runs if len(run) > 1)


def chain_steps(grouping: Grouping, run: Sequence[Region]) -> Iterator[tuple[int, int, Step]]:
    """The steps that make one region of some neighbours in a run: where they begin and end in it, and the step."""
    names = [value_name(grouping.result(region)) for region in run]
    for start in range(len(run)):
        for stop in range(start + 2, min(start + LONGEST, len(run)) + 1):
            yield start, stop, Step("group", names[stop - 1], tuple(names[start : stop - 1]))


def _reduction(graph: Graph, region: Region) -> int | None:
    """The only operation of a region that reduces; None if there are others."""
    if region.kind not in ("contraction", "reduction") or region.formulation:
        return None
    reducing = [m for m in region.members if graph.ops[m].opcode in CONTRACTIONS | WINDOWS.keys()]
    return reducing[0] if len(reducing) == 1 else None
