"""Rows that come from a product are computed together with it, and with a product that reduces them: attention.

So they need not be stored: a schedule streams them, see `passes/stream.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from .lower_blocks import CONTRACTIONS
from .regions import Region, convex, one_result, squeezed

if TYPE_CHECKING:
    from .fusion import Merging


def gather_streams(merging: Merging, apart: Collection[int]) -> None:
    """Merge rows with the product that they come from, and with one that they go into, once all else is known.

    Args:
        merging: the regions so far.
        apart: results that are not to be computed so.
    """
    for index in sorted(merging.regions):
        region = merging.regions.get(index)
        if region is None or merging.graph.ops[region.members[-1]].result in apart:
            continue
        if (_is_product(merging, region) or _of_reduced_rows(merging, region)) and _merge_stream(merging, index):
            _merge_views(merging, index)


def _merge_stream(merging: Merging, index: int) -> bool:
    """Merge a region with the rows that feed it and the product that these come from."""
    parts = [index]
    shape: list[int] | None = sorted(merging.regions[index].full) if merging.regions[index].kind == "rows" else None
    products: set[int] = set()
    for part in parts:
        for other in merging.feeding(part):
            found = merging.regions[other]
            if found.kind == "rows" and sorted(found.full) == (shape or sorted(found.full)):
                shape = sorted(found.full)
                parts += [other] if other not in parts else []
            elif part != index or merging.regions[index].kind == "rows":
                products |= {other} if _is_product(merging, found) and sorted(found.full) == shape else set()
    if shape is None or len(products) != 1:
        return False
    parts += products
    members = tuple(sorted(m for n in parts for m in merging.regions[n].members))
    if not one_result(merging.graph, members) or not convex(merging.graph, members):
        return False
    merging.merge(parts[1:], index, Region(members, "stream", merging.regions[index].full))
    return True


def _merge_views(merging: Merging, index: int) -> None:
    """A transposition of what a stream computes is how it is stored."""
    result = merging.graph.ops[merging.regions[index].members[-1]].result
    readers = {merging.region_of.get(user) for user in merging.graph.users[result]}
    if len(readers) == 1 and None not in readers:
        reader = next(iter(readers))
        assert reader is not None
        merging.merge_one(index, reader)


def _of_reduced_rows(merging: Merging, region: Region) -> bool:
    """Whether the result of rows has one value per row, so that nothing of their length is stored."""
    result = merging.graph.ops[region.members[-1]].type
    return region.kind == "rows" and squeezed(result.shape) == region.reduced


def _is_product(merging: Merging, region: Region) -> bool:
    products = [m for m in region.members if merging.graph.ops[m].opcode in CONTRACTIONS]
    return region.kind == "contraction" and [merging.graph.ops[m].opcode for m in products] == ["dot_general"]
