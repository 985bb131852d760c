"""Reductions whose vectors run along channels: depthwise convolutions, pooling, averages over space."""

from __future__ import annotations

import math

from ..ir.affine import AffineExpr, FloorDiv
from ..ir.lanes import vector_lanes
from ..ir.loop import Block, Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy
from .chains import reduction_loops
from .sketch import Decisions, Sketch
from .steps import cut_edges, same_axes, share, tile_at, trips
from .tiles import registers

_FEW_CHANNELS = 4
"""Up to this many vectors of channels, a thread is better off with all channels of some positions: those of one
position then lie in a few neighbouring cache lines, which are fetched together."""
_FEW_TAPS = 3
"""Up to this many taps along a tile, loads weigh more than arithmetic, and two neighbouring vectors are better."""
_GROUPED_STEPS = 32
"""Most steps in the box of a grouped convolution, each of which picks its own inputs: longer code is slower."""
_UNROLLED_TAPS = 9
"""Most taps that are all straight-line code: a loop over a few of them costs more than its test."""
PARTIAL_SUMS = 8
"""Independent partial results of a long sum over positions."""


def channelwise(func: LoopFunc, target: Target) -> Sketch | None:
    """Vectors along the last axis, a register tile of positions, taps unrolled along the tile."""
    parts = anatomy(func)
    if parts is None or len(parts.reductions) != 1 or not same_axes(parts):
        return None
    update = parts.reductions[0]
    data = [i for i in update.iters if i.kind == "data"]
    taps = [i for i in update.iters if i.kind == "reduce"]
    if not data or not taps or not along_channels(update, data[-1]):
        return None
    tile = data[-2] if len(data) > 1 else None
    lanes = vector_lanes(func, target)
    last = taps[-1].extent if taps[-1].extent <= 8 and (len(taps) > 1 or tile is not None) else 1
    grouped = any(r.index and _by_group(r.index[-1], data[-1].name) for r in reads(update.value))
    rows = position_tiles(tile, last, target, max(_GROUPED_STEPS // last, 1) if grouped else registers(target) // 2)
    vectors = tuple(v for v in (1, 2, 4, 8) if v == 1 or v * lanes <= data[-1].extent)
    wide = min(2, vectors[-1]) if tile is None or (last <= _FEW_TAPS and not grouped) else 1
    outer = data[:-2]
    orders = ("positions", "channels") if outer or tile else ("channels",)
    by_position = grouped or _by_position(data[-1], wide * lanes, lanes, target)
    default: dict[str, int | str] = {
        "rows": rows[0] if grouped else next((r for r in rows if r * wide <= registers(target) * 3 // 4), rows[-1]),
        "vectors": wide,
        "order": orders[0] if tile is not None and by_position else "channels",
    }
    choices: dict[str, tuple[int | str, ...]] = {"rows": rows, "vectors": vectors, "order": orders}
    if last > 1 and len(taps) > 1 and not grouped and math.prod(t.extent for t in taps) <= _UNROLLED_TAPS:
        choices["taps"] = ("unrolled", "looped")
        default["taps"] = "unrolled"
    return Sketch(
        "channelwise", choices, default, lambda d: _channelwise_trace(parts, update, data, taps, last, lanes, d, target)
    )


def _by_position(channel: Iter, width: int, lanes: int, target: Target) -> bool:
    """Whether positions are the outer loops: channels are few, or cut into too few parts to share evenly."""
    few = channel.extent <= _FEW_CHANNELS * lanes
    ragged = channel.extent % width != 0 and trips(channel, width) < 2 * target.threads
    return few or ragged


def along_channels(update: Block, channel: Iter) -> bool:
    """Whether a reduction reads neighbouring elements along its channels, each of one channel or group."""
    taps = {i.name for i in update.iters if i.kind == "reduce"}
    for read in reads(update.value):
        where = [n for n, e in enumerate(read.index) if channel.name in e.variables()]
        if where == [len(read.index) - 1] and _by_group(read.index[-1], channel.name):
            continue
        if where and (where != [len(read.index) - 1] or read.index[-1].coefficient(channel.name) != 1):
            return False
        if where and read.index[-1].variables() & taps:
            return False
    return any(channel.name in e.variables() for r in reads(update.value) for e in r.index)


def _by_group(index: AffineExpr, channel: str) -> bool:
    """Whether channels of a group read the same elements, ``channel // members * depth + r``."""
    quotients = [a for a, _ in index.terms if isinstance(a, FloorDiv) and a.operand.single_variable() == channel]
    return len(quotients) == 1 and index.coefficient(channel) == 0


def position_tiles(tile: Iter | None, taps: int, target: Target, most: int) -> tuple[int, ...]:
    """Numbers of positions that a register tile may hold, the fastest first, by counting instructions.

    Args:
        tile: the iterator along the tile.
        taps: values along the tile that each position is reduced from inside the box.
        target: the CPU.
        most: positions that a tile may have.
    """
    if tile is None:
        return (1,)
    count = registers(target)
    sizes = range(1, min(tile.extent, count // 2, most) + 1)  # the other half holds weights and inputs

    def cycles(rows: int) -> float:
        full, rest = divmod(tile.extent, rows)
        tiles = ((rows, full), (rest, 1)) if rest else ((rows, full),)
        return sum(n * (max(r * taps / 2, 4 * taps) + r + taps + 10) for r, n in tiles) + (10 if rest else 0)

    return tuple(sorted(sizes, key=lambda r: (cycles(r), -r)))[:8]


def _channelwise_trace(
    parts: Anatomy,
    update: Block,
    data: list[Iter],
    taps: list[Iter],
    last: int,
    lanes: int,
    d: Decisions,
    target: Target,
) -> Trace:
    root, channel = parts.root.name, data[-1]
    rows, width = int(d["rows"]), min(int(d["vectors"]) * lanes, channel.extent)
    tile = data[-2] if len(data) > 1 else None
    positions = [(i, 1) for i in data[:-2]]
    tiles = [(tile, rows)] if tile else []
    channels = [(channel, width)]
    loops = [*positions, *channels, *tiles] if d["order"] == "positions" else [*channels, *positions, *tiles]
    steps = [Step("split", root, (it.name, f)) for it, f in loops]
    steps += tile_at(parts, f"{root}.{loops[-1][0].name}", channel.name)
    steps += _packed_weights(parts, update, channel.name, width)
    in_box = last > 1
    if tile is None and taps[-1].extent >= 4 * PARTIAL_SUMS:
        steps += _partial_sums(update, taps)
    else:
        steps += reduction_loops(update, taps[:-1] if in_box else taps, 1)
    named = [(f"{root}.{it.name}", trips(it, f), it.extent % f != 0) for it, f in loops]
    shared = share(named, target.threads)
    steps += shared
    used = {a for s in shared for a in (s.target, *s.args)}
    edges = cut_edges(update, tiles, root, used, taps[:-1] if in_box else taps)
    if d.get("taps") == "unrolled":
        loops_left = [Step("unroll", f"{update.name}.{t.name}") for t in taps[:-1]]
        edges = [*loops_left, *(s for s in edges if s not in loops_left)]
    return (*steps, *edges)


def _packed_weights(parts: Anatomy, update: Block, channel: str, width: int) -> list[Step]:
    """Weights of grouped channels laid out in panels: rows of a power of two apart compete for lines of the cache."""
    if not any(r.index and _by_group(r.index[-1], channel) for r in reads(update.value)):
        return []
    constant = [r for r in reads(update.value) if parts.found[r.buffer].scope == "constant"]
    return [
        Step("pack", r.buffer, (len(r.index) - 1, width)) for r in constant if r.index[-1].single_variable() == channel
    ]


def _partial_sums(update: Block, taps: list[Iter]) -> list[Step]:
    """Independent partial results: a long sum in one register waits for its own latency and loses accuracy."""
    return [
        Step("rfactor", update.name, (taps[-1].name, PARTIAL_SUMS)),
        *(Step("split", f"{update.name}.p", (it.name, 1)) for it in taps),
        Step("set_scope", f"{update.write.buffer}.p", ("register",)),
    ]
