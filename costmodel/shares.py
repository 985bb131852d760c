"""Which part of a Block's box conditions leave."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from ..ir.affine import AffineExpr, Range
from ..ir.loop import Block

_MOST_TRIED = 4096


def box_ranges(block: Block) -> dict[str, Range]:
    """Smallest and largest value of every iterator whose bounds no loop moves."""
    return {
        i.name: (i.lower.const, i.lower.const + i.extent - 1) for i in block.iters if i.lower.is_constant and i.extent
    }


def narrowed(ranges: Mapping[str, Range], condition: AffineExpr) -> Mapping[str, Range]:
    """Ranges in which a condition ``>= 0`` on a single iterator holds; others are taken to hold everywhere."""
    if len(condition.terms) != 1:
        return ranges
    ((name, factor),) = condition.terms
    if not isinstance(name, str) or name not in ranges:
        return ranges
    low, high = ranges[name]
    if factor > 0:
        low = max(low, -(condition.const // factor))
    else:
        high = min(high, condition.const // -factor)
    return {**ranges, name: (low, high)}


def remaining(block: Block, ranges: Mapping[str, Range], vector: str | None = None, lanes: int = 1) -> float:
    """Share of a box that ranges leave, or of the work of computing it: that of filled vectors may be more than all.

    Args:
        block: the Block.
        ranges: of its iterators.
        vector: an iterator of which whole vectors are computed, however few of their lanes are in range.
        lanes: elements of a vector.
    """
    share = 1.0
    for it in block.iters:
        low, high = ranges.get(it.name, (0, it.extent - 1))
        count = max(high - low + 1, 0)
        whole = lanes if it.name == vector and count < it.extent else 1
        share *= math.ceil(count / whole) * whole / max(it.extent, 1)
    return share


def share_held(block: Block, condition: AffineExpr) -> float:
    """Share of a box in which a condition holds; 1 if loops take part in it or there are too many points to try."""
    iters = [i for i in block.iters if i.name in condition.variables()]
    known = len(iters) == len(condition.variables()) and all(i.lower.is_constant for i in iters)
    if not known or math.prod(i.extent for i in iters) > _MOST_TRIED:
        return 1.0
    spans = [range(i.lower.const, i.lower.const + i.extent) for i in iters]
    points = list(itertools.product(*spans))
    names = [i.name for i in iters]
    count = sum(condition.evaluate(dict(zip(names, point, strict=True))) >= 0 for point in points)
    return count / max(len(points), 1)
