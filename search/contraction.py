"""Sums of products with a panel operand: matrix products, dense and grouped convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..ir.affine import linearize
from ..ir.loop import Iter, LoopFunc, Read, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import (
    Anatomy,
    Product,
    anatomy,
    axis_of,
    padded_along,
    product,
    product_along,
    stride_of,
    written_variable,
)
from .chains import reduction_loops
from .panels_ahead import AHEAD_BYTES, FEW_ROWS, fetch_panel, worth_fetching
from .sketch import Decisions, Sketch
from .steps import MIN_CHUNKS_PER_THREAD, across_tile, cut_edges, join_rows, same_axes, share, tile_at, trips
from .tiles import JOINED, Box, Cost, joined_tiles, register_tiles, registers, tile_size, tile_suffix

_MAX_TILES = 24
_MAX_STRIDE = 4
_MAX_PANEL = 4096
_MIN_USES = 2
"""A panel that has to be transposed on every call is worth it from this many uses of each of its elements."""
_TRANSPOSED_STORE = 8.0
"""Cycles per vector of results that is transposed on its way to memory: shuffles, a store and a load of the cache."""
_ACROSS = "t"
"""Suffix of tiles whose lanes are written apart from each other."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """One way to lay vectors over a product.

    Args:
        match: the product.
        axis: axis of the panel operand that is exactly the vectorised iterator; None if windows overlap along it.
        constant: whether the panel operand can be packed when the program is built.
        box: what register tiles are laid over.
        joined: whether whole rows are joined to one range, whose vectors run across the ends of rows.
    """

    match: Product
    axis: int | None
    constant: bool
    box: Box
    joined: bool = False


def contraction(func: LoopFunc, target: Target) -> Sketch | None:
    """Register tile of rows and vectors, panels of an operand packed, loops ordered by traffic.

    Vectors run along the last axis written, or along another one if the operand there is constant: a tile is then
    transposed on its way to memory. Which is better is a matter of counting: of pixels, for instance, there may be too
    few to fill vectors.
    """
    parts = anatomy(func)
    if parts is None or len(parts.reductions) != 1 or not same_axes(parts):
        return None
    layouts = {name: found for name, found in _layouts(parts).items() if found is not None}
    if not layouts:
        return None
    tiles = _tiles(layouts, target)
    first = layouts[tile_suffix(tiles[0])]
    last = first.match.reduce[-1].extent
    orders = ("panels", "rows") if any(found.match.tile for found in layouts.values()) else ("panels",)
    unrolls = tuple(u for u in (1, 2, 4, 8) if last % u == 0)
    if last <= 8:
        unrolls = tuple(sorted({*unrolls, last}))
    default: dict[str, int | str] = {
        "tile": tiles[0],
        "order": _cheaper_order(first.match, tile_size(tiles[0]), target),
        "unroll": 1,
    }
    choices: dict[str, tuple[int | str, ...]] = {"tile": tiles, "order": orders, "unroll": unrolls}
    if any(found.constant and worth_fetching(parts, found.match, target) for found in layouts.values()):
        choices["ahead"] = (AHEAD_BYTES, 0)
        default["ahead"] = AHEAD_BYTES
    return Sketch("contraction", choices, default, lambda d: _contraction_trace(parts, layouts, d, target))


def _layouts(parts: Anatomy) -> dict[str, _Layout | None]:
    """Vectors along what is written next to each other, within rows or across their ends, and across what is written.

    The keys are the suffixes of their tiles' names.
    """
    update = parts.reductions[0]
    along = product(update)
    if along is None:
        return {}
    last = len(update.write.index) - 1
    others = [written_variable(update, axis) for axis in range(last)]
    across = [m for it in others if it is not None and (m := product_along(update, it)) is not None]
    found = [_across(parts, m, along.vector) for m in across]
    usual = _along(parts, along)
    return {"": usual, JOINED: _joined(usual), _ACROSS: next((f for f in found if f is not None), None)}


def _along(parts: Anatomy, match: Product) -> _Layout | None:
    if match.by_channel or not match.reduce:
        return None
    constant = parts.found[match.panel.buffer].scope == "constant"
    axis = axis_of(match.panel, match.vector.name, shifted=not constant)
    if not constant and axis is not None and axis != len(match.panel.index) - 1 and _uses(match) < _MIN_USES:
        return None
    if axis is not None and (constant or not match.panel.guard):
        box = Box(match.rows, match.vector.extent, match.steps, _outer(match), _row_stride(parts, match))
        return _Layout(match, axis, constant, box)
    stride = stride_of(match.panel, parts.found[match.panel.buffer].shape, match.vector.name)
    if match.tile is None or stride is None or not 1 <= stride <= _MAX_STRIDE:
        return None
    box = Box(match.rows, match.vector.extent, match.steps, _outer(match), _row_stride(parts, match), 2.0 * stride)
    return _Layout(match, None, constant, box)


def _joined(usual: _Layout | None) -> _Layout | None:
    """The same with rows joined, if those of a tile are written one after the other and none of them is padding."""
    if usual is None or usual.axis is None or len(usual.match.update.write.index) < 2:
        return None
    row = written_variable(usual.match.update, len(usual.match.update.write.index) - 2)
    if row is None or row is not usual.match.tile or padded_along(usual.match.other, row.name):
        return None
    return replace(usual, joined=True)


def _uses(match: Product) -> int:
    """How many results each element of the panel operand takes part in."""
    in_panel = frozenset().union(*(e.variables() for e in match.panel.index))
    tile = [match.tile] if match.tile is not None else []
    return math.prod(it.extent for it in (*match.outer, *tile) if it.name not in in_panel)


def _across(parts: Anatomy, match: Product, stored: Iter) -> _Layout | None:
    """Vectors along another axis than the last one written, which becomes the tile's rows."""
    axis = axis_of(match.panel, match.vector.name)
    constant = parts.found[match.panel.buffer].scope == "constant"
    if match.by_channel or not match.reduce or match.tile is not stored or axis is None or not constant:
        return None
    box = Box(
        match.rows,
        match.vector.extent,
        match.steps,
        _outer(match),
        _row_stride(parts, match),
        store=_TRANSPOSED_STORE,
    )
    return _Layout(match, axis, constant, box)


def _outer(match: Product) -> int:
    return math.prod(i.extent for i in match.outer)


def _row_stride(parts: Anatomy, match: Product) -> int:
    """Bytes between two rows of the operand that is broadcast; 0 if they are packed next to each other."""
    if match.tile is None or _packs_rows(parts, match):
        return 0
    offset = linearize(match.other.index, parts.found[match.other.buffer].shape)
    return 4 * offset.coefficient(match.tile.name)


def _packs_rows(parts: Anatomy, match: Product) -> bool:
    """Whether the operand that is broadcast is laid out anew, so that the rows of a tile are next to each other."""
    constant = parts.found[match.other.buffer].scope == "constant"
    return match.tile is not None and constant and axis_of(match.other, match.tile.name) is not None


def _tiles(layouts: dict[str, _Layout], target: Target) -> tuple[str, ...]:
    """Names of the best tiles of all layouts, the best first."""
    found: list[tuple[Cost, str]] = []
    for suffix, layout in layouts.items():
        sizes = joined_tiles(layout.box, target) if layout.joined else register_tiles(layout.box, target)
        found += [(cost, f"{r}x{v}{suffix}") for cost, (r, v) in sizes]
    found.sort(key=lambda item: item[0])
    return tuple(name for _, name in found[:_MAX_TILES])


def _cheaper_order(match: Product, tile: tuple[int, int], target: Target) -> str:
    """Panels outermost re-reads the rows once per panel, rows outermost re-reads the panels once per tile of rows."""
    if match.tile is None:
        return "panels"
    width = tile[1] * (target.vector_bits // 32)
    rows = match.tile.extent * _outer(match)
    panels = trips(match.vector, width)
    few = panels < MIN_CHUNKS_PER_THREAD * target.threads and _ragged(match, tile[0], width)
    if few and rows >= tile[0] * MIN_CHUNKS_PER_THREAD * target.threads:
        return "rows"
    panel_bytes = 4 * match.steps * match.vector.extent
    row_bytes = 4 * rows * match.reduce[-1].extent
    written = 4 * rows * match.vector.extent
    panels_outer = row_bytes * panels * _level(row_bytes // target.threads, target) + panel_bytes
    if panels > 1:  # the rows of the result are written in pieces that lie apart
        panels_outer += written * _level(written // target.threads, target)
    rows_outer = panel_bytes * -(-rows // tile[0]) * _level(panel_bytes, target) + row_bytes
    return "panels" if panels_outer <= rows_outer else "rows"


def _ragged(match: Product, rows: int, width: int) -> bool:
    """Whether the loop over panels can't be fused with the next one for more parallel iterations."""
    first_free = next((i for i in match.outer), None)
    cut = match.tile is not None and first_free is None and match.tile.extent % rows != 0
    return match.vector.extent % width != 0 or cut


def _level(size: int, target: Target) -> float:
    """Relative cost of reading a byte again from the smallest cache that holds ``size`` bytes."""
    if size <= target.l1_bytes // 2:
        return 0.5
    if size <= target.l2_bytes // 2:
        return 1.0
    return 4.0 if size <= target.l3_bytes // 2 else 12.0


def _contraction_trace(parts: Anatomy, layouts: dict[str, _Layout], decisions: Decisions, target: Target) -> Trace:
    name = str(decisions["tile"])
    layout = layouts[tile_suffix(name)]
    match, axis = layout.match, layout.axis
    rows, vectors = tile_size(name)
    lanes = target.vector_bits // 32
    width = min(vectors * lanes, match.vector.extent)
    root, update = parts.root.name, match.update.name
    steps: list[Step] = []
    panel_width = -(-width // lanes) * lanes
    if layout.constant and axis is not None:
        steps += packed(parts, match.panel, match.vector.name, panel_width, match.reduce)
    if match.tile is not None and _packs_rows(parts, match):
        steps += packed(parts, match.other, match.tile.name, rows, match.reduce)
    strided = axis is not None and axis != len(match.panel.index) - 1
    copied = axis is not None and not layout.constant
    copied = copied and (strided or (match.tile is not None and match.tile.extent >= 4 * rows))
    loops = _contraction_loops(match, rows, width, "panels" if copied else str(decisions["order"]))
    for it, factor in loops:
        steps.append(Step("split", root, (it.name, factor)))
    inner = f"{root}.{loops[-1][0].name}"
    others = [i.name for i in match.update.iters if i is not match.vector]
    if match.stored_across:
        steps = [Step("cache_write", match.update.write.buffer), *steps, *across_tile(parts, match, inner, width)]
        steps.append(Step("reorder", update, (*others, match.vector.name)))
    elif layout.joined and match.tile is not None:
        steps += [Step("compute_at", name, (inner,)) for name in reversed(parts.temporaries)]
        steps += join_rows(parts.all_blocks, parts.temporaries, match.tile.name, match.vector.name)
    else:
        steps += tile_at(parts, inner, match.vector.name)
    if not layout.joined and match.tile is not None and rows * vectors + vectors + 1 > registers(target):
        steps.append(Step("reorder", update, (match.vector.name, *others)))
    if copied and axis is not None:
        steps += _copied_panel(parts, match, axis, panel_width)
    steps += reduction_loops(match.update, match.reduce, int(decisions["unroll"]))
    named = [(f"{root}.{it.name}", trips(it, f), it.extent % f != 0) for it, f in loops]
    if copied:  # the copy stands between the loop over panels and those inside it
        named = named[: [it for it, _ in loops].index(match.vector) + 1]
    shared = share(named, target.threads)
    steps += shared
    used = {a for s in shared for a in (s.target, *s.args)}
    tiles = [(it, size) for it, size in loops if it is match.tile or (it is match.vector and axis is None)]
    steps += [Step("unroll", f"{root}.{it.name}") for it in _phases(match) if f"{root}.{it.name}" not in used]
    ahead = int(decisions.get("ahead", 0))
    if ahead and layout.constant and axis is not None and rows >= FEW_ROWS:
        steps.append(fetch_panel(match, steps, panel_width * int(decisions["unroll"]), ahead))
    return (*steps, *cut_edges(match.update, tiles, root, used, list(match.reduce)))


def packed(parts: Anatomy, read: Read, name: str, width: int, reduce: tuple[Iter, ...]) -> list[Step]:
    """Lay a constant out in panels along an iterator, each in the order in which the reduction goes through it."""
    buffer, shape = read.buffer, list(parts.found[read.buffer].shape)
    variables = [e.single_variable() for e in read.index]
    steps: list[Step] = []
    last = -1
    for it in reduce:
        axis = variables.index(it.name) if it.name in variables else None
        if axis is None or shape[axis] > _MAX_PANEL:
            break
        if axis < last:  # a panel as wide as the axis is the axis moved to the end
            steps.append(Step("pack", buffer, (axis, shape[axis])))
            variables = ["", *(v for n, v in enumerate(variables) if n != axis), it.name]
            shape = [1, *(s for n, s in enumerate(shape) if n != axis), shape[axis]]
            axis = len(shape) - 1
        last = axis
    return [*steps, Step("pack", buffer, (variables.index(name), width))]


def _copied_panel(parts: Anatomy, match: Product, axis: int, width: int) -> list[Step]:
    """Copy a panel of an operand, laid out like a packed constant; transposed if it does not lie along the vectors."""
    buffer, loop = match.panel.buffer, f"{parts.root.name}.{match.vector.name}"
    copy = f"{buffer}.copy"
    ways = list(dict.fromkeys(r.index for b in parts.all_blocks for r in reads(b.value) if r.buffer == buffer))
    which = (ways.index(match.panel.index),) if len(ways) > 1 else ()
    return [
        Step("cache_read", buffer, (loop, *which)),
        Step("pack", f"{buffer}.c", (axis, width)),
        Step("vectorize", copy, (f"{copy}{len(match.panel.index) - 1}",)),
    ]


def _phases(match: Product) -> list[Iter]:
    """Iterators of the panel that decide with the tile's where padding is read: a transposed convolution's phases."""
    guards = [g for g in match.other.guard if match.tile is not None and match.tile.name in g.variables()]
    in_panel = frozenset().union(*(e.variables() for e in match.panel.index))
    return [i for i in match.outer if i.name in in_panel and any(i.name in g.variables() for g in guards)]


def _contraction_loops(match: Product, rows: int, width: int, order: str) -> list[tuple[Iter, int]]:
    in_panel = frozenset().union(*(e.variables() for e in match.panel.index))
    phases = _phases(match)
    batch = [(i, 1) for i in match.outer if i.name in in_panel and i not in phases]
    free = [(i, 1) for i in match.outer if i.name not in in_panel]
    tile = [(i, 1) for i in phases] + ([(match.tile, rows)] if match.tile else [])
    panel = [(match.vector, width)]
    return [*batch, *panel, *free, *tile] if order == "panels" else [*batch, *free, *tile, *panel]
