"""What may join: which region one that feeds another makes together with it, if one schedule can serve both."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dtypes
from ..ir.graph import Graph, Op
from .lower import ALIASES
from .lower_blocks import AXIS_REDUCTIONS, CONTRACTED
from .lower_moves import JOINS, MOVES, is_place
from .regions import Region, squeezed


def joined(graph: Graph, feeding: Region, region: Region) -> Region | None:
    """Kind and shape of the union, members left empty; None if no schedule serves both."""
    joins = _joins(graph, feeding, region)
    if joins:
        fits = all(_folds(graph, feeding, op, number) for op, number in joins)
        return replace(region, members=()) if fits else None
    match feeding.kind, region.kind:
        case "view", "view" | "elementwise" | "rows" | "reduction" | "contraction":
            return replace(region, members=()) if _absorbs_view(graph, feeding, region) else None
        case "alias", "elementwise" | "rows":
            fits = feeding.full in (region.full, region.reduced)
            return replace(region, members=()) if fits and _all_aliases(graph, feeding) else None
        case "contraction" | "reduction" | "elementwise", "elementwise" if feeding.full == region.full:
            return replace(feeding, members=()) if _as_wide(graph, feeding, region) else None
        case "elementwise", "rows" if feeding.full == region.full:
            return replace(region, members=())
        case "elementwise", "reduction":
            fits = _plain_reduction(graph, region) and not _puts_together(graph, feeding)
            return replace(region, members=()) if fits else None
        case "rows", "elementwise" if region.full in (feeding.full, feeding.reduced):
            return replace(feeding, members=())
        case "rows", "rows" if (feeding.full, feeding.kept) == (region.full, region.kept):
            return replace(feeding, members=())
        case "stream", "view" if _transposes(graph, region):
            return replace(feeding, members=(), full=region.full)
        case "rows", "alias" if region.full == feeding.reduced:
            return replace(feeding, members=())
        case "rows", "view" if region.full == feeding.full and broadcasts(graph, region):
            return replace(feeding, members=())
        case _:
            return None


def _joins(graph: Graph, feeding: Region, region: Region) -> list[tuple[Op, int]]:
    """Where a region that puts values together reads what feeds it: operations and numbers of operands."""
    made = {graph.ops[m].result for m in feeding.members}
    ops = [graph.ops[m] for m in region.members]
    return [(op, n) for op in ops if op.opcode in JOINS for n, v in enumerate(op.operands) if v in made]


def _folds(graph: Graph, feeding: Region, op: Op, number: int) -> bool:
    """Whether an operand of what puts values together is computed where it is read."""
    match feeding.kind:
        case "view":
            return True
        case "elementwise":  # rows that are gathered may be read many times
            return op.opcode != "gather" or number > 0
        case "alias":
            return is_place(op, number) or _keeps_axes(graph, feeding)
        case _:
            return False


def _keeps_axes(graph: Graph, region: Region) -> bool:
    """Whether reshapes only add and remove unit axes."""
    source = graph.types[graph.ops[region.members[0]].operands[0]]
    return _all_aliases(graph, region) and squeezed(source.shape) == region.full


def _as_wide(graph: Graph, feeding: Region, region: Region) -> bool:
    """Whether a region has no wider elements than a contraction before it: vectors are as long as those allow."""
    if feeding.kind != "contraction":
        return True
    types = [graph.types[v] for m in region.members for v in graph.ops[m].results]
    return all(dtypes.itemsize(t.dtype) <= dtypes.itemsize(CONTRACTED) for t in types)


def _absorbs_view(graph: Graph, feeding: Region, region: Region) -> bool:
    """Views become index expressions of their reader; padding only where the reader can guard its reads."""
    opcodes = {graph.ops[m].opcode for m in feeding.members}
    if "pad" not in opcodes or region.kind == "elementwise":
        return True
    if region.kind not in ("contraction", "reduction") or len(region.members) != 1:
        return False
    op = graph.ops[region.members[0]]
    return len(feeding.members) == 1 and graph.ops[feeding.members[0]].result == op.operands[0]


def broadcasts(graph: Graph, region: Region) -> bool:
    """Whether a region only repeats elements."""
    return all(graph.ops[m].opcode == "broadcast_in_dim" for m in region.members)


def _transposes(graph: Graph, region: Region) -> bool:
    return all(graph.ops[m].opcode == "transpose" for m in region.members)


def _all_aliases(graph: Graph, region: Region) -> bool:
    return all(graph.ops[m].opcode in ALIASES for m in region.members)


def _puts_together(graph: Graph, region: Region) -> bool:
    return any(graph.ops[m].opcode in MOVES for m in region.members)


def _plain_reduction(graph: Graph, region: Region) -> bool:
    return len(region.members) == 1 and graph.ops[region.members[0]].opcode in AXIS_REDUCTIONS
