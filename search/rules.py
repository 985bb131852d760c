"""Sketch rules: which family of traces fits a workload.

Each rule looks at a fresh workload and answers with a `Sketch` or None. Rules match structure (a sum of products, a
reduction over channels, rows that are reduced and rescaled), never the name of a network or operation.
"""

from __future__ import annotations

from ..ir.affine import linearize
from ..ir.loop import Block, Iter, LoopFunc, blocks, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, Product, anatomy, axis_of, product
from .sketch import Decisions, Sketch, SketchRule
from .tiles import register_tiles, registers

MIN_CHUNKS_PER_THREAD = 4
PARTIAL_SUMS = 8
_MAX_TILES = 24


def _trips(it: Iter, factor: int) -> int:
    return -(-it.extent // factor)


def _same_axes(parts: Anatomy) -> bool:
    """Whether every temporary has the output's axes, read and written in place: one tile serves all Blocks."""
    shape = parts.found[parts.root.write.buffer].shape
    names = tuple(i.name for i in parts.root.iters)
    for name in parts.temporaries:
        if parts.found[name].shape != shape:
            return False
    for block in parts.all_blocks:
        if tuple(e.single_variable() for e in block.write.index) != names:
            return False
        for read in reads(block.value):
            if read.buffer in parts.temporaries and tuple(e.single_variable() for e in read.index) != names:
                return False
    return True


def _tile_at(parts: Anatomy, loop: str, vector: str) -> list[Step]:
    """Compute every temporary at a tile of the root, in registers, with one vectorised axis."""
    steps = [Step("compute_at", name, (loop,)) for name in reversed(parts.temporaries)]
    steps += [Step("set_scope", name, ("register",)) for name in parts.temporaries]
    return steps + [Step("vectorize", b.name, (vector,)) for b in parts.all_blocks]


def _share(loops: list[tuple[str, int, bool]], threads: int) -> list[Step]:
    """Make the outermost loop parallel, fused with the next ones where it alone has too few iterations.

    Args:
        loops: name, trip count and whether the last iteration is cut, outermost first.
        threads: of the target.
    """
    steps: list[Step] = []
    name, trips, cut = loops[0]
    for inner, count, inner_cut in loops[1:]:
        if trips >= MIN_CHUNKS_PER_THREAD * threads or cut or inner_cut:
            break
        steps.append(Step("fuse", name, (inner,)))
        name, trips = f"{name}_{inner}", trips * count
    return [*steps, Step("parallel", name)]


# ---- sums of products with a panel operand: matrix products, dense and grouped convolutions


def contraction(func: LoopFunc, target: Target) -> Sketch | None:
    """Register tile of rows and vectors, panels of the second operand packed, loops ordered by traffic."""
    parts = anatomy(func)
    if parts is None or len(parts.reductions) != 1 or not _same_axes(parts):
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
    panels = _trips(match.vector, width)
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
    steps += _tile_at(parts, inner, match.vector.name)
    if match.tile is not None and rows * vectors + vectors + 1 > registers(target):
        others = [i.name for i in match.update.iters if i is not match.vector]
        steps.append(Step("reorder", update, (match.vector.name, *others)))
    if copied:
        steps += _copied_panel(match.panel.buffer, f"{root}.{match.vector.name}", axis, panel_width)
    for it in match.reduce[:-1]:
        steps.append(Step("split", update, (it.name, 1)))
    steps.append(Step("split", update, (match.reduce[-1].name, int(decisions["unroll"]))))
    named = [(f"{root}.{it.name}", _trips(it, f), it.extent % f != 0) for it, f in loops]
    if copied:  # the copy stands between the loop over panels and those inside it
        named = named[: [it for it, _ in loops].index(match.vector) + 1]
    shared = _share(named, target.threads)
    steps += shared
    used = {a for s in shared for a in (s.target, *s.args)}
    return (*steps, *_edges(match.update, match.tile, rows, root, used, list(match.reduce)))


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


def _edges(
    update: Block, tile: Iter | None, rows: int, root: str, shared: set[int | str], looped: list[Iter]
) -> list[Step]:
    """Where padding is read along the tile: unroll the taps there and cut the loop so that the middle has no guards."""
    if tile is None:
        return []
    guards = [g for r in reads(update.value) for g in r.guard if tile.name in g.variables()]
    if not guards:
        return []
    taps = [i for i in looped if any(i.name in g.variables() for g in guards)]
    steps = [Step("unroll", f"{update.name}.{i.name}") for i in taps]
    loop, trips = f"{root}.{tile.name}", _trips(tile, rows)
    if loop in shared or trips == 1:
        return steps
    return [*steps, Step("partition" if trips > 2 else "unroll", loop)]


# ---- reductions whose vectors run along channels: depthwise convolutions, pooling, averages over space


def channelwise(func: LoopFunc, target: Target) -> Sketch | None:
    """Vectors along the last axis, a register tile of positions, taps unrolled along the tile."""
    parts = anatomy(func)
    if parts is None or len(parts.reductions) != 1 or not _same_axes(parts):
        return None
    update = parts.reductions[0]
    data = [i for i in update.iters if i.kind == "data"]
    taps = [i for i in update.iters if i.kind == "reduce"]
    if not data or not taps or not _along_channels(parts, update, data[-1]):
        return None
    tile = data[-2] if len(data) > 1 else None
    lanes = target.vector_bits // 32
    last = taps[-1].extent if taps[-1].extent <= 8 and (len(taps) > 1 or tile is not None) else 1
    rows = _position_tiles(tile, last, target)
    vectors = tuple(v for v in (1, 2, 4, 8) if v == 1 or v * lanes <= data[-1].extent)
    wide = min(2, vectors[-1]) if tile is None else 1
    outer = data[:-2]
    orders = ("positions", "channels") if outer or tile else ("channels",)
    default: Decisions = {"rows": rows[0], "vectors": wide, "order": "channels"}
    choices = {"rows": rows, "vectors": vectors, "order": orders}
    return Sketch(
        "channelwise", choices, default, lambda d: _channelwise_trace(parts, update, data, taps, last, d, target)
    )


def _along_channels(parts: Anatomy, update: Block, channel: Iter) -> bool:
    for read in reads(update.value):
        where = [n for n, e in enumerate(read.index) if channel.name in e.variables()]
        if where and (where != [len(read.index) - 1] or read.index[-1].coefficient(channel.name) != 1):
            return False
    return any(channel.name in e.variables() for r in reads(update.value) for e in r.index)


def _position_tiles(tile: Iter | None, taps: int, target: Target) -> tuple[int, ...]:
    if tile is None:
        return (1,)
    count = registers(target)
    sizes = range(1, min(tile.extent, count // 2) + 1)  # the other half holds weights and inputs

    def cycles(rows: int) -> float:
        full, rest = divmod(tile.extent, rows)
        tiles = ((rows, full), (rest, 1)) if rest else ((rows, full),)
        return sum(n * (max(r * taps / 2, 4 * taps) + r + taps + 10) for r, n in tiles) + (10 if rest else 0)

    return tuple(sorted(sizes, key=lambda r: (cycles(r), -r)))[:8]


def _channelwise_trace(
    parts: Anatomy, update: Block, data: list[Iter], taps: list[Iter], last: int, d: Decisions, target: Target
) -> Trace:
    lanes = target.vector_bits // 32
    root, channel = parts.root.name, data[-1]
    rows, width = int(d["rows"]), min(int(d["vectors"]) * lanes, channel.extent)
    tile = data[-2] if len(data) > 1 else None
    positions = [(i, 1) for i in data[:-2]]
    tiles = [(tile, rows)] if tile else []
    channels = [(channel, width)]
    loops = [*positions, *channels, *tiles] if d["order"] == "positions" else [*channels, *positions, *tiles]
    steps = [Step("split", root, (it.name, f)) for it, f in loops]
    steps += _tile_at(parts, f"{root}.{loops[-1][0].name}", channel.name)
    in_box = last > 1
    if tile is None and len(taps) == 1 and taps[0].extent >= 4 * PARTIAL_SUMS:
        steps += _partial_sums(update, taps[0])
    else:
        steps += [Step("split", update.name, (it.name, 1)) for it in (taps[:-1] if in_box else taps)]
    named = [(f"{root}.{it.name}", _trips(it, f), it.extent % f != 0) for it, f in loops]
    shared = _share(named, target.threads)
    steps += shared
    used = {a for s in shared for a in (s.target, *s.args)}
    return (*steps, *_edges(update, tile, rows, root, used, taps[:-1] if in_box else taps))


# ---- rows: normalisations and softmax


def rows(func: LoopFunc, target: Target) -> Sketch | None:
    """One row at a time: every temporary computed at the row, reductions split over vector lanes."""
    parts = anatomy(func)
    if parts is None or not parts.reductions or len(parts.root.iters) < 2:
        return None
    leading = _shared_rows(parts)
    if not leading:
        return None
    lanes = target.vector_bits // 32
    default: Decisions = {"lanes": 4 * lanes}
    choices = {"lanes": (lanes, 2 * lanes, 4 * lanes, 8 * lanes)}
    return Sketch("rows", choices, default, lambda d: _rows_trace(parts, leading, int(d["lanes"]), lanes, target))


def _shared_rows(parts: Anatomy) -> list[Iter]:
    """Leading iterators of the root that every Block has as its own leading data iterators."""
    shared: list[Iter] = []
    for axis, it in enumerate(parts.root.iters):
        for block in parts.all_blocks:
            if len(block.iters) <= axis or block.iters[axis] != it or len(block.write.index) <= axis:
                return shared
            if block.write.index[axis].single_variable() != it.name:
                return shared
            for read in reads(block.value):
                if read.buffer in parts.temporaries and read.index[axis].single_variable() != it.name:
                    return shared
        shared.append(it)
    return shared


def _rows_trace(parts: Anatomy, leading: list[Iter], wide: int, lanes: int, target: Target) -> Trace:
    root = parts.root.name
    steps = [Step("split", root, (it.name, 1)) for it in leading]
    inner = f"{root}.{leading[-1].name}"
    steps += [Step("compute_at", name, (inner,)) for name in reversed(parts.temporaries)]
    names = {i.name for i in leading}
    for block in parts.all_blocks:
        own = [i for i in block.iters if i.name not in names]
        if not own:
            continue
        last = own[-1]
        if block.monoid is not None and last.kind == "reduce":
            steps += _lane_reduction(block, last, wide, lanes)
        else:
            steps.append(Step("vectorize", block.name, (last.name,)))
    named = [(f"{root}.{it.name}", it.extent, False) for it in leading]
    return (*steps, *_share(named, target.threads))


def _partial_sums(update: Block, taps: Iter) -> list[Step]:
    """Independent partial results: a long sum in one register waits for its own latency and loses accuracy."""
    return [
        Step("rfactor", update.name, (taps.name, PARTIAL_SUMS)),
        Step("split", f"{update.name}.p", (taps.name, 1)),
        Step("set_scope", f"{update.write.buffer}.p", ("register",)),
    ]


def _lane_reduction(block: Block, last: Iter, most: int, lanes: int) -> list[Step]:
    """Partial results in the lanes of a few vectors, as many as divide the range where that is possible."""
    most = min(most, last.extent // lanes * lanes)
    if most == 0:
        return []
    wide = next((w for w in range(most, 0, -lanes) if last.extent % w == 0), most)
    lane = f"{last.name}.l"
    steps = [
        Step("rfactor", block.name, (last.name, wide)),
        Step("vectorize", f"{block.name}.p_init", (lane,)),
        Step("split", f"{block.name}.p", (last.name, 1)),
        Step("vectorize", f"{block.name}.p", (lane,)),
        Step("vectorize", block.name, (lane,)),
        Step("set_scope", f"{block.write.buffer}.p", ("register",)),
    ]
    if last.extent % wide:
        steps.append(Step("vectorize", f"{block.name}.rest", (last.name,)))
    return steps


# ---- elementwise


def elementwise(func: LoopFunc, target: Target) -> Sketch | None:
    """Long runs of vectors, shared among threads."""
    parts = anatomy(func)
    if parts is None or parts.reductions or not parts.root.iters or not _same_axes(parts):
        return None
    lanes = target.vector_bits // 32
    last = parts.root.iters[-1]
    wide = min(4 * lanes, last.extent)
    grain = max(wide, min(16384, last.extent // (2 * MIN_CHUNKS_PER_THREAD * target.threads) // wide * wide))
    default: Decisions = {"grain": grain, "vectors": 4}
    choices = {"grain": tuple(sorted({grain, wide, 2 * grain, 4 * grain})), "vectors": (1, 2, 4, 8)}
    return Sketch("elementwise", choices, default, lambda d: _elementwise_trace(parts, d, lanes, target))


def _elementwise_trace(parts: Anatomy, d: Decisions, lanes: int, target: Target) -> Trace:
    root = parts.root.name
    *outer, last = parts.root.iters
    wide = min(int(d["vectors"]) * lanes, last.extent)
    loops = [(i, 1) for i in outer]
    grain = min(int(d["grain"]), last.extent)
    grain -= grain % wide
    steps = [Step("split", root, (i.name, 1)) for i in outer]
    named = [(f"{root}.{i.name}", i.extent, False) for i, _ in loops]
    if not outer and grain > wide:
        steps.append(Step("split", root, (last.name, grain)))
        named.append((f"{root}.{last.name}", _trips(last, grain), last.extent % grain != 0))
    elif not outer:
        steps.append(Step("split", root, (last.name, wide)))
        named.append((f"{root}.{last.name}", _trips(last, wide), last.extent % wide != 0))
    inner = named[-1][0]
    steps += [Step("compute_at", name, (inner,)) for name in reversed(parts.temporaries)]
    steps += [Step("vectorize", b.name, (last.name,)) for b in parts.all_blocks]
    return (*steps, *_share(named, target.threads))


# ---- anything else


def plain(func: LoopFunc, target: Target) -> Sketch | None:
    """No loops moved, only the last axis that is written contiguously vectorised."""
    steps: list[Step] = []
    for block in blocks(func.body):
        name = block.write.index[-1].single_variable() if block.write.index else None
        if name is not None:
            steps.append(Step("vectorize", block.name, (name,)))
    return Sketch("plain", {}, {}, lambda _: tuple(steps))


RULES: tuple[SketchRule, ...] = (contraction, channelwise, rows, elementwise, plain)
