"""Runs of regions that could be one kernel: convolutions and products, each of which reduces what the last one made."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.graph import Graph
from .graph_trace import Grouping
from .lower_blocks import BLOCK_RULES, CONTRACTIONS, WINDOWS
from .regions import Region

LONGEST = 4
"""Most regions of a chain."""


def chains(grouping: Grouping) -> Iterator[tuple[Region, ...]]:
    """All runs of two to four regions of which every one but the first reduces what the one before it made.

    What a region makes may be read later in its run as well (a residual connection). Whether all its readers are in the
    run, and whether a kernel serves it, is for others to say.
    """
    reducing = {grouping.result(r): (r, op) for r in grouping.regions if (op := _reduction(grouping.graph, r)) >= 0}
    before: dict[int, int] = {}
    for result, (_, op) in reducing.items():
        source = grouping.graph.ops[op].operands[0]
        if source in reducing and source != result:
            before[result] = source
    for last in reducing:
        run = [last]
        while run[0] in before and len(run) < LONGEST:
            run.insert(0, before[run[0]])
            yield tuple(reducing[result][0] for result in run)


def _reduction(graph: Graph, region: Region) -> int:
    """The operation of a region that convolves, multiplies or pools, if it is the only one that reduces; else -1."""
    reducing = [m for m in region.members if graph.ops[m].opcode in BLOCK_RULES]
    if region.formulation or len(reducing) != 1 or graph.ops[reducing[0]].opcode not in CONTRACTIONS | WINDOWS.keys():
        return -1
    return reducing[0]
