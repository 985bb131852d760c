"""Chains of convolutions and products, computed band by band: what lies between two stages never leaves the cache.

A band of rows of the output is computed by all stages before the next one: each earlier stage for as many rows as the
stage after it reads, those on the border of two bands twice. Where the last stage is a product over channels that the
stages before it compute one by one (an inverted residual: expand, depthwise, project), a band may also be computed by
chunks of channels, over which the last product adds up. Each stage is the register tile that it would be alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ..costmodel.anatomy import dissect
from ..costmodel.banded import banded_seconds
from ..ir.affine import Range
from ..ir.loop import Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import padded_along
from .banded_form import Chain, Stage, find_chain, read_of
from .chains import reduction_loops
from .channelwise import position_tiles
from .contraction import packed
from .sketch import Decisions, Sketch
from .steps import cut_edges, join_rows, share, trips
from .tiles import JOINED, Box, joined_tiles, register_tiles, registers, tile_size

_TILES = 2
"""Register tiles of each stage that are worth trying."""
_MOST_BANDS = 8
"""A band of this part of the rows is the smallest one beside those of a few rows."""
_FEW_ROWS = (1, 2, 4)
_CHUNKS = 1
"""Sizes of chunks that are worth trying, the largest ones: each more adds up once more."""
_TAPS_IN_BOX = 8


def banded(func: LoopFunc, target: Target) -> Sketch | None:
    """Bands of rows shared among threads; inside, each stage in register tiles of its own."""
    chain = find_chain(func)
    if chain is None:
        return None
    form = _Form(chain, target)
    bands = form.bands()
    if not bands:
        return None
    chunks = form.chunks()
    tiles = {f"tile{n}": form.tiles(stage) for n, stage in enumerate(chain.stages)}
    choices: dict[str, tuple[int | str, ...]] = {"rows": bands, "chunk": chunks, **tiles}
    preferred = {name: found[0] for name, found in tiles.items()}

    def build(d: Decisions) -> Trace:
        return _Builder(form, d).trace()

    return Sketch("banded", choices, _cheapest(func, target, bands, chunks, preferred, build), build)


def _cheapest(
    func: LoopFunc,
    target: Target,
    bands: tuple[int, ...],
    chunks: tuple[int, ...],
    tiles: Decisions,
    build: Callable[[Decisions], Trace],
) -> Decisions:
    """The size of bands and chunks that is predicted to be the fastest."""
    work = dissect(func)
    found: list[Decisions] = [{"rows": rows, "chunk": chunk, **tiles} for chunk in chunks for rows in bands]
    return min(found, key=lambda d: banded_seconds(work, build(d), target) or math.inf)


@dataclass(frozen=True, slots=True)
class _Form:
    """A chain on a machine.

    Args:
        chain: the chain.
        target: the CPU.
    """

    chain: Chain
    target: Target

    @property
    def lanes(self) -> int:
        """Values per vector; contractions are float32."""
        return self.target.vector_bits // 32

    @property
    def last(self) -> Stage:
        """The stage that writes the output."""
        return self.chain.stages[-1]

    @property
    def axis(self) -> int:
        """Number of the axis that is cut into bands: the one before the axis of register tiles, if there is one."""
        return max(len(self.last.axes) - 3, 0)

    def tile_axis(self, stage: Stage) -> Iter:
        """The iterator whose values are the rows of a stage's register tiles."""
        return stage.axes[-2]

    def read_along(self, axis: int) -> dict[str, int]:
        """How many places along an axis later stages read of what each stage writes, by the buffer's name.

        Windows that move by more than one place may leave some at the end that nothing reads.
        """
        parts, last = self.chain.parts, self.last
        found: dict[str, Range] = {last.root.write.buffer: (0, last.axes[axis].extent - 1)}
        for stage in reversed(self.chain.stages):
            for block in stage.members:
                ranges = {it.name: (0, it.extent - 1) for it in block.iters}
                ranges[stage.axes[axis].name] = found[stage.root.write.buffer]
                for read in (r for r in reads(block.value) if r.buffer in self.chain.stored):
                    low, high = read.index[axis].bounds(ranges)
                    most = parts.found[read.buffer].shape[axis] - 1
                    known = found.get(read.buffer, (most, 0))
                    found[read.buffer] = (min(known[0], max(low, 0)), max(known[1], min(high, most)))
        return {name: high - low + 1 for name, (low, high) in found.items()}

    # ---- what may be decided

    def bands(self) -> tuple[int, ...]:
        """Numbers of rows that a band may have; empty where none can be scheduled."""
        extent = self.last.axes[self.axis].extent
        if len(self.last.axes) == 2:  # tiles are cut out of bands, so neither may leave a rest that the other cuts
            return () if self.halo() else tuple(n for n in range(8, min(extent, 513)) if extent % n == 0)
        few = {n for n in _FEW_ROWS if n <= extent}
        return tuple(sorted(few | {-(-extent // n) for n in range(1, _MOST_BANDS + 1)}))

    def chunks(self) -> tuple[int, ...]:
        """Channels that are computed at a time, 0 for all of them."""
        if not self._by_channel():
            return (0,)
        extent = self.chain.stages[-2].axes[-1].extent
        sizes = [n * self.lanes for n in range(1, extent // self.lanes)]
        return (0, *[n for n in sizes if extent % n == 0][-_CHUNKS:])

    def _by_channel(self) -> bool:
        """Whether the last stage reduces channels that all stages before it compute one by one."""
        _, *between, last = self.chain.stages
        source = self.chain.stored[-1]
        read = read_of(last, source)
        own = last.reduce
        if read is None or len(own) != 1 or read.index[-1].single_variable() != own[0].name:
            return False
        if any(stage.match is not None or not self._keeps_channels(stage) for stage in between):
            return False
        used = [(b, r.buffer) for b in last.members for r in reads(b.value) if r.buffer in self.chain.stored]
        return all(block is last.update and buffer == source for block, buffer in used)

    def _keeps_channels(self, stage: Stage) -> bool:
        """Whether a stage reads of those before it the very channel that it computes."""
        found = [r for b in stage.members for r in reads(b.value) if r.buffer in self.chain.stored]
        return all(r.index[-1].single_variable() == stage.axes[-1].name for r in found)

    def tiles(self, stage: Stage) -> tuple[str, ...]:
        """Register tiles of a stage, positions by vectors, the fastest first, at least one without joined rows."""
        channel, tile = stage.axes[-1], self.tile_axis(stage)
        if stage.match is not None:
            usual = register_tiles(self._box(stage), self.target)[:_TILES]
            joined = joined_tiles(self._box(stage), self.target)[:1] if self._joins(stage) else []
            named = [*((c, f"{r}x{v}") for c, (r, v) in usual), *((c, f"{r}x{v}{JOINED}") for c, (r, v) in joined)]
            return tuple(name for _, name in sorted(named, key=lambda item: item[0])[:_TILES])
        wide = min(2, -(-channel.extent // self.lanes))
        rows = position_tiles(tile, self._in_box(stage), self.target, registers(self.target) // 2)
        found = [(r, v) for r in rows[:_TILES] for v in (wide, 1)[:wide]][:_TILES]
        return tuple(f"{rows}x{vectors}" for rows, vectors in found)

    def _joins(self, stage: Stage) -> bool:
        """Whether rows of a product's tiles may be joined: rows that nothing else cuts, and none of them padding."""
        tile, match = self.tile_axis(stage), stage.match
        if match is None or match.tile is None or match.tile.name != tile.name:
            return False
        return stage.axes[self.axis] is not tile and not padded_along(match.other, tile.name)

    def _box(self, stage: Stage) -> Box:
        return Box(self.tile_axis(stage).extent, stage.axes[-1].extent, stage.steps)

    def _in_box(self, stage: Stage) -> int:
        """Taps of a channelwise stage that its box holds."""
        last = stage.reduce[-1].extent
        return last if last <= _TAPS_IN_BOX else 1

    def halo(self) -> bool:
        """Whether a stage has to compute more rows than the one after it."""
        blocks = [b for stage in self.chain.stages for b in stage.members]
        found = [r.index[self.axis] for b in blocks for r in reads(b.value) if r.buffer in self.chain.stored]
        return any(index.single_variable() is None for index in found)


# ---- the trace


@dataclass(slots=True)
class _Builder:
    """Puts the steps of one point of the space together."""

    form: _Form
    decisions: Decisions
    steps: list[Step] = field(default_factory=list)
    loops: dict[str, int] = field(default_factory=dict)
    cuts: list[Step] = field(default_factory=list)

    def trace(self) -> Trace:
        """The schedule."""
        chain, last = self.form.chain, self.form.last
        self._pack()
        outer = [(it, 1) for it in last.axes[: self.form.axis]]
        bands = [*outer, (last.axes[self.form.axis], int(self.decisions["rows"]))]
        named = [(self._split(last.root.name, it, size), trips(it, size), it.extent % size != 0) for it, size in bands]
        place = named[-1][0]
        chunk = int(self.decisions["chunk"])
        if chunk:
            self._do("compute_at", last.locals[0], place)
            place = self._split(last.update.name, last.reduce[0], chunk)
        for name in reversed(chain.parts.temporaries):
            if not chunk or name not in last.locals:
                self._do("compute_at", name, place)
        for number, stage in enumerate(chain.stages):
            tile = str(self.decisions[f"tile{number}"])
            if chunk and tile.endswith(JOINED):  # the channels of a chunk are a part of a row
                tile = next(t for t in self.form.tiles(stage) if not t.endswith(JOINED))
            if chunk and stage is last:
                self._added_up(stage, tile_size(tile), chunk)
            else:
                self._tiled(stage, tile_size(tile), chunk, tile.endswith(JOINED))
        return (*self.steps, *share(named, self.form.target.threads), *self.cuts)

    def _do(self, primitive: str, target: str, *args: int | str) -> None:
        self.steps.append(Step(primitive, target, args))

    def _split(self, block: str, it: Iter, size: int) -> str:
        """Split an iterator; the name of the new loop."""
        self._do("split", block, it.name, size)
        name = f"{block}.{it.name}"
        count = self.loops[name] = self.loops.get(name, -1) + 1
        return f"{name}.{count}" if count else name

    def _pack(self) -> None:
        """Constant panels in the order in which register tiles read them."""
        parts, done = self.form.chain.parts, set[str]()
        for number, stage in enumerate(self.form.chain.stages):
            match = stage.match
            if match is None or parts.found[match.panel.buffer].scope != "constant" or match.panel.buffer in done:
                continue
            done.add(match.panel.buffer)
            _, vectors = tile_size(str(self.decisions[f"tile{number}"]))
            self.steps += packed(parts, match.panel, match.vector.name, vectors * self.form.lanes, match.reduce)

    def _tiled(self, stage: Stage, size: tuple[int, int], chunk: int, joined: bool) -> None:
        """A stage as register tiles of its root, all of its own temporaries inside."""
        inner, positions = self._tiles(stage, stage.root.name, size, chunk)
        tile = self.form.tile_axis(stage)
        for name in reversed(stage.locals):
            self._do("compute_at", name, inner)
        if joined:
            self.steps += join_rows(stage.members, stage.locals, tile.name, stage.axes[-1].name)
        else:
            for name in stage.locals:
                self._do("set_scope", name, "register")
            for block in stage.members:
                self._do("vectorize", block.name, stage.axes[-1].name)
        looped = self._reduced(stage, size, joined)
        self.cuts += cut_edges(stage.update, [(tile, positions)], stage.root.name, set(), looped)

    def _tiles(self, stage: Stage, block: str, size: tuple[int, int], chunk: int) -> tuple[str, int]:
        """Loops over register tiles around a Block; the innermost one, and how many positions a tile has."""
        form, channel, tile = self.form, stage.axes[-1], self.form.tile_axis(stage)
        written = stage.root.write.buffer
        channels = chunk if chunk and stage is not form.last else form.read_along(-1)[written]
        positions = form.read_along(-2)[written]
        if stage.axes[form.axis] is tile:
            positions = min(positions, int(self.decisions["rows"]))
        for it in stage.axes[: form.axis] if block != form.last.root.name else ():
            self._split(block, it, 1)
        width = min(size[1] * form.lanes, channels)
        if chunk and stage is not form.last:  # a chunk is whole vectors, and so are the tiles that it is cut into
            width = max(n for n in range(form.lanes, width + 1, form.lanes) if channels % n == 0)
        self._split(block, channel, width)
        if stage.axes[form.axis] is not tile:
            self._split(block, stage.axes[form.axis], 1)
        positions = min(size[0], positions)
        return self._split(block, tile, positions), positions

    def _reduced(self, stage: Stage, size: tuple[int, int], joined: bool) -> list[Iter]:
        """Loops over what a stage reduces; the iterators that became loops."""
        looped = list(stage.reduce)
        if stage.match is None and looped[-1].extent <= _TAPS_IN_BOX:
            looped.pop()
        rows, vectors = size
        if not joined and rows * vectors + vectors + 1 > registers(self.form.target):
            others = [i.name for i in stage.update.iters if i.name != stage.axes[-1].name]
            self._do("reorder", stage.update.name, stage.axes[-1].name, *others)
        self.steps += reduction_loops(stage.update, looped, 1)
        return looped

    def _added_up(self, stage: Stage, size: tuple[int, int], chunk: int) -> None:
        """The last product, a chunk of channels at a time: register tiles that are added to the band's sums."""
        update, own = stage.update.name, stage.reduce[0]
        self._tiles(stage, update, size, 0)
        whole = self._split(update, own, chunk)
        self._split(update, own, 1)
        self._do("accumulate", update, whole)
        self._do("set_scope", f"{stage.locals[0]}.a", "register")
        inner, _ = self._tiles(stage, stage.root.name, size, 0)
        for name in reversed(stage.locals[1:]):
            self._do("compute_at", name, inner)
            self._do("set_scope", name, "register")
        self._tiles(stage, stage.init.name, size, 0)
        names = [b.name for b in stage.members]
        for name in (*names, f"{update}.a_init", f"{update}.a"):
            self._do("vectorize", name, stage.axes[-1].name)
