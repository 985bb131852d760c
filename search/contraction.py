"""Sums of products with a panel operand: matrix products, dense and grouped convolutions."""

from __future__ import annotations

from ..ir.affine import linearize
from ..ir.loop import Iter, LoopFunc
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, Product, anatomy, axis_of, product
from .sketch import Decisions, Sketch
from .steps import MIN_CHUNKS_PER_THREAD, cut_edges, same_axes, share, tile_at, trips
from .tiles import register_tiles, registers

_MAX_TILES = 24


def contraction(func: LoopFunc, target: Target) -> Sketch | None:
    """Register tile of rows and vectors, panels of the second operand packed, loops ordered by traffic."""
    parts = anatomy(func)
    if parts is None or len(parts.reductions) != 1 or not same_axes(parts):
        return None
    match = product(parts.reductions[0])
    if match is None or match.by_channel or not match.reduce:
        return None
    axis = axis_of(match.panel, match.vector.name)
    constant = parts.found[match.panel.buffer].scope == "constant"
    if axis is None or (match.panel.guard and not constant):
        return None
    rows = match.tile.extent if match.tile else 1
    steps = 1
    for it in match.reduce:
        steps *= it.extent
    tiles = register_tiles(rows, match.vector.extent, steps, target, _row_stride(parts, match))[:_MAX_TILES]
    names = tuple(f"{r}x{v}" for r, v in tiles)
    orders = ("panels", "rows") if match.tile else ("panels",)
    unrolls = tuple(u for u in (1, 2, 4, 8) if match.reduce[-1].extent % u == 0)
    if match.reduce[-1].extent <= 8:
        unrolls = tuple(sorted({*unrolls, match.reduce[-1].extent}))
    default: Decisions = {
        "tile": names[0],
        "order": _cheaper_order(match, tiles[0], target),
        "unroll": 1,
    }
    choices = {"tile": names, "order": orders, "unroll": unrolls}
    return Sketch(
        "contraction", choices, default, lambda d: _contraction_trace(parts, match, axis, constant, d, target)
    )


def _row_stride(parts: Anatomy, match: Product) -> int:
    """Bytes between two rows of the operand that is broadcast."""
    if match.tile is None:
        return 0
    offset = linearize(match.other.index, parts.found[match.other.buffer].shape)
    return 4 * offset.coefficient(match.tile.name)


def _cheaper_order(match: Product, tile: tuple[int, int], target: Target) -> str:
    """Panels outermost re-reads the rows once per panel, rows outermost re-reads the panels once per tile of rows."""
    if match.tile is None:
        return "panels"
    steps = 1
    for it in match.reduce:
        steps *= it.extent
    width = tile[1] * (target.vector_bits // 32)
    rows = match.tile.extent
    for it in match.outer:
        rows *= it.extent
    panels = trips(match.vector, width)
    few = panels < MIN_CHUNKS_PER_THREAD * target.threads and _ragged(match, tile[0], width)
    if few and rows >= tile[0] * MIN_CHUNKS_PER_THREAD * target.threads:
        return "rows"
    panel_bytes = 4 * steps * match.vector.extent
    row_bytes = 4 * rows * match.reduce[-1].extent
    panels_outer = row_bytes * panels * _level(row_bytes // target.threads, target) + panel_bytes
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


def _contraction_trace(
    parts: Anatomy, match: Product, axis: int, constant: bool, decisions: Decisions, target: Target
) -> Trace:
    rows, vectors = (int(n) for n in str(decisions["tile"]).split("x"))
    lanes = target.vector_bits // 32
    width = min(vectors * lanes, match.vector.extent)
    root, update = parts.root.name, match.update.name
    steps: list[Step] = []
    panel_width = -(-width // lanes) * lanes
    if constant:
        steps.append(Step("pack", match.panel.buffer, (axis, panel_width)))
    strided = axis != len(match.panel.index) - 1
    copied = not constant and (strided or (match.tile is not None and match.tile.extent >= 4 * rows))
    loops = _contraction_loops(match, rows, width, "panels" if copied else str(decisions["order"]))
    for it, factor in loops:
        steps.append(Step("split", root, (it.name, factor)))
    inner = f"{root}.{loops[-1][0].name}"
    steps += tile_at(parts, inner, match.vector.name)
    if match.tile is not None and rows * vectors + vectors + 1 > registers(target):
        others = [i.name for i in match.update.iters if i is not match.vector]
        steps.append(Step("reorder", update, (match.vector.name, *others)))
    if copied:
        steps += _copied_panel(match.panel.buffer, f"{root}.{match.vector.name}", axis, panel_width)
    for it in match.reduce[:-1]:
        steps.append(Step("split", update, (it.name, 1)))
    steps.append(Step("split", update, (match.reduce[-1].name, int(decisions["unroll"]))))
    named = [(f"{root}.{it.name}", trips(it, f), it.extent % f != 0) for it, f in loops]
    if copied:  # the copy stands between the loop over panels and those inside it
        named = named[: [it for it, _ in loops].index(match.vector) + 1]
    shared = share(named, target.threads)
    steps += shared
    used = {a for s in shared for a in (s.target, *s.args)}
    return (*steps, *cut_edges(match.update, match.tile, rows, root, used, list(match.reduce)))


def _copied_panel(buffer: str, loop: str, axis: int, width: int) -> list[Step]:
    """Copy a panel of an operand that is not contiguous along the vector axis, laid out like a packed constant."""
    copy = f"{buffer}.copy"
    return [
        Step("cache_read", buffer, (loop,)),
        Step("pack", f"{buffer}.c", (axis, width)),
        Step("vectorize", copy, (f"{copy}{axis}",)),
    ]


def _contraction_loops(match: Product, rows: int, width: int, order: str) -> list[tuple[Iter, int]]:
    in_panel = frozenset().union(*(e.variables() for e in match.panel.index))
    batch = [(i, 1) for i in match.outer if i.name in in_panel]
    free = [(i, 1) for i in match.outer if i.name not in in_panel]
    tile = [(match.tile, rows)] if match.tile else []
    panel = [(match.vector, width)]
    return [*batch, *panel, *free, *tile] if order == "panels" else [*batch, *free, *tile, *panel]
