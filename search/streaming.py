"""Products whose rows are reduced by a softmax or a log-sum-exp, and possibly multiplied again: attention."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..ir.loop import Block, LoopFunc, Read, reads
from ..ir.target import Target
from ..passes.schedule import ScheduleError, Step, Trace
from ..passes.stream_masked import MASKED, skips
from .anatomy import axis_of
from .chains import reduction_loops
from .sketch import Decisions, Sketch
from .steps import share, trips
from .streaming_form import Form, find_form, reads_of
from .tiles import fits, registers

_TILES = (24, 32, 64, 96, 128)
"""Lengths of a tile of the streamed axis: long enough that repairs cost little, short enough for the nearest cache."""
_USUAL_TILE = 64
_MOST_VECTORS = 4
_LEAST_VECTORS = 2
"""A register tile of one vector would read an element for every multiply-add."""
_STEPS = (1, 2, 4, 6, 8, 12)
_ROWS = (1, 2, 4, 8)
_MOST_ROWS = 256
"""Rows for which a tile of the axis is usually read once: the nearest cache hardly holds the scores of more."""
_REDUCED = 4
"""Scores per row that one iteration of a maximum or a plain sum takes in."""


def streaming(func: LoopFunc, target: Target) -> Sketch | None:
    """Vectors along rows; scores for a tile of the axis, reduced and multiplied before the next ones are computed.

    Both products are register tiles whose vectors lie along rows: of the streamed operands single elements are read,
    as they lie, and only the one that stays is transposed.
    """
    form = find_form(func)
    if form is None:
        return None
    lanes = target.vector_bits // 32
    most = min(_MOST_VECTORS if registers(target) >= 32 else 2, -(-form.row.extent // lanes))
    vectors = _usual_vectors(form, most, target)
    tiles = tuple(n for n in _TILES if n <= form.axis.extent) or (form.axis.extent,)
    steps = tuple(n for n in _STEPS if n <= tiles[0] and fits(n, 1, registers(target)))
    tile = min(tiles, key=lambda n: abs(n - _USUAL_TILE))
    usual = max(n for n in steps if tile % n == 0 and fits(n, vectors, registers(target)))
    default: Decisions = {
        "vectors": vectors,
        "tile": tile,
        "keys": usual,
        "features": usual,
        "unroll": 1,
        "rows": _usual_rows(form, vectors * lanes, target),
    }
    choices = {
        "vectors": tuple(sorted({n for n in (1, 2, 4) if n < most} | {most, vectors})),
        "tile": tiles,
        "keys": steps,
        "features": steps if form.result is not None else (usual,),
        "unroll": (1, 2),
        "rows": _ROWS if form.result is None else (1,),
    }
    return Sketch("streaming", choices, default, lambda d: _Builder(form, d, target).trace())


def _usual_vectors(form: Form, most: int, target: Target) -> int:
    """Vectors along the rows of a register tile: fewer, if the nearest cache would not hold its rows of what stays."""
    width_bytes = _depth(form) * target.vector_bits // 8
    return max(
        n for n in (1, 2, 4, most) if n <= most and (n <= _LEAST_VECTORS or 2 * n * width_bytes <= target.l1_bytes)
    )


def _usual_rows(form: Form, width: int, target: Target) -> int:
    """Register tiles of rows for which a tile of the axis is read once: many, if nothing but sums is kept of them."""
    if form.result is not None:
        return 1
    share = -(-form.row.extent // width) // target.threads
    held = min(target.l2_bytes // 2 // (4 * _depth(form)), _MOST_ROWS) // width
    return max(n for n in _ROWS if n <= max(min(share, held), 1))


def _depth(form: Form) -> int:
    """How many products make a score."""
    return math.prod(i.extent for i in form.scores.iters if i.kind == "reduce")


# ---- the trace


@dataclass(slots=True)
class _Builder:
    """Puts the steps of one point of the space together."""

    form: Form
    decisions: Decisions
    target: Target
    steps: list[Step] = field(default_factory=list)

    def trace(self) -> Trace:
        """The schedule."""
        form = self.form
        loops = self._tiles()
        self._transposed_query(loops[-1][0])
        key = form.axis.key
        self._do("stream", key.name, form.axis.along[key.name], self._number("tile"))
        self._transposed_addends()
        self._panel()
        self._copies()
        self._scores()
        self._reductions()
        self._vectors()
        self._masked()
        self._layouts()
        self._weights()
        return (*form.prefix, *self.steps, *share(loops, self.target.threads))

    def _do(self, primitive: str, target: str, *args: int | str) -> None:
        self.steps.append(Step(primitive, target, args))

    def _number(self, decision: str) -> int:
        return int(self.decisions[decision])

    @property
    def _lanes(self) -> int:
        return self.target.vector_bits // 32

    @property
    def _width(self) -> int:
        """Rows of a register tile."""
        return min(self._number("vectors") * self._lanes, self.form.row.extent)

    @property
    def _rows(self) -> int:
        """Rows of one iteration of the loops around the stream: whole register tiles."""
        most = -(-self.form.row.extent // self._width)
        return min(self._width * min(self._number("rows"), most), self.form.row.extent)

    # ---- loops over tiles of rows

    def _tiles(self) -> list[tuple[str, int, bool]]:
        """Loops over everything but columns of the result, all temporaries inside."""
        form = self.form
        root, row = form.parts.root, form.row
        column = form.feature.get(root.name)
        outer = [i for i in root.iters if i is not row and i.name != column]
        for it in outer:
            self._do("split", root.name, it.name, 1)
        self._do("split", root.name, row.name, self._rows)
        inner = f"{root.name}.{row.name}"
        for name in reversed(form.parts.temporaries):
            self._do("compute_at", name, inner)
        loops = [(f"{root.name}.{i.name}", i.extent, False) for i in outer]
        return [*loops, (inner, trips(row, self._rows), row.extent % self._rows != 0)]

    def _transposed_query(self, inner: str) -> None:
        """A copy of the tile's rows of the operand that stays, its vectors along the rows."""
        form, query = self.form, self.form.query
        axis = axis_of(query, form.rows[form.scores.name])
        assert axis is not None
        if query.buffer in form.parts.temporaries:
            return
        ways = [r.index for b in form.parts.all_blocks for r in reads(b.value) if r.buffer == query.buffer]
        ways = list(dict.fromkeys(ways))
        self._do("cache_read", query.buffer, inner, *((ways.index(query.index),) if len(ways) > 1 else ()))
        self._rows_last(query.buffer, axis, len(query.index) - 1, form.parts.found[query.buffer].shape[-1])

    def _transposed_addends(self) -> None:
        """A copy of the tile of whatever has both rows and the axis, a bias or a mask, its vectors along the rows."""
        form = self.form
        loop = f"{form.axis.key.name}.{form.axis.along[form.axis.key.name]}"
        for buffer in (b for b in form.parts.found if b not in form.parts.temporaries):
            ways = {
                self._lying(block, r)
                for block in form.parts.all_blocks
                for r in reads(block.value)
                if r.buffer == buffer
            }
            row = ways.pop() if len(ways) == 1 else None
            last = len(form.parts.found[buffer].shape) - 1
            if row is not None and row != last:
                self._do("cache_read", buffer, loop)
                self._rows_last(buffer, row, last, self._number("tile"))

    def _panel(self) -> None:
        """A copy of the tile of the streamed operand, if it lies along the axis: its steps are then far apart."""
        form = self.form
        panel = next(r for r in reads(form.scores.value) if r is not form.query)
        last = len(panel.index) - 1
        if axis_of(panel, form.axis.along[form.scores.name]) != last or last == 0:
            return
        readers = [b for b in form.parts.all_blocks if reads_of(b, panel.buffer)]
        if panel.buffer not in form.parts.temporaries and readers == [form.scores]:
            loop = f"{form.axis.key.name}.{form.axis.along[form.axis.key.name]}"
            self._do("cache_read", panel.buffer, loop)
            self._do("vectorize", f"{panel.buffer}.copy", f"{panel.buffer}.copy{last}")

    def _lying(self, block: Block, read: Read) -> int | None:
        """The axis of a read that goes along the rows, if another one goes along the streamed axis."""
        names = (self.form.rows.get(block.name), self.form.axis.along.get(block.name))
        row, along = (None if n is None else axis_of(read, n) for n in names)
        return row if along is not None and not read.guard else None

    def _rows_last(self, buffer: str, row: int, last: int, length: int) -> None:
        """Lay a copy out with its rows as the last axis; ``length`` is that of what is the last axis before."""
        copy = f"{buffer}.copy"
        self._do("vectorize", copy, f"{copy}{last}")
        self._by_width(copy, f"{copy}{row}")
        if row != last:
            self._do("pack", f"{buffer}.c", row, self._width)
            self._do("split", copy, f"{copy}{last}", min(self._lanes, length))

    # ---- inside a tile

    def _copies(self) -> None:
        """What is only read and written again, once factors that wait are left out, is read where it is needed."""
        axis = self.form.axis
        for block in axis.items:
            if isinstance(block, Block) and block.name in axis.along and block.monoid is None:
                value = axis.values[block.name]
                if isinstance(value, Read) and value.buffer in axis.axes and block is not self.form.stored:
                    self._do("compute_inline", block.write.buffer)

    def _scores(self) -> None:
        form = self.form
        stored, scores = form.stored, form.scores
        along = form.axis.along[stored.name]
        tile, keys = self._number("tile"), self._number("keys")
        most = keys if form.result is None else max(keys, self._number("features"))
        if not fits(most, self._number("vectors"), registers(self.target)):
            raise ScheduleError(f"expected a tile of registers, found {most} by {self._number('vectors')} vectors")
        if form.axis.extent % tile and tile % keys:
            raise ScheduleError(f"expected register tiles that divide a tile of {tile} that is cut, found {keys}")
        self._by_width(stored.name, form.rows[stored.name])
        self._do("split", stored.name, along, keys)
        self._do("compute_at", scores.write.buffer, f"{stored.name}.{along}")
        self._do("set_scope", scores.write.buffer, "register")
        self.steps += reduction_loops(scores, [i for i in scores.iters if i.kind == "reduce"], self._number("unroll"))

    def _by_width(self, block: str, row: str) -> None:
        """A loop over register tiles of rows around a Block, where there is more than one."""
        if self._rows > self._width:
            self._do("split", block, row, self._width)

    def _reductions(self) -> None:
        """Each tile's maxima and sums are made in registers."""
        form = self.form
        for block in form.axis.reductions:
            tile, join = f"{block.write.buffer}.t", f"{block.name}.join"
            if block is form.result:
                column = form.feature[block.name]
                self._do("split", join, column, min(self._number("features"), self._columns))
                self._do("compute_at", tile, f"{join}.{column}")
            elif self._rows > self._width:
                self._by_width(join, form.rows[block.name])
                self._do("compute_at", tile, f"{join}.{form.rows[block.name]}")
            self._do("set_scope", tile, "register")
            steps = self._number("unroll") if block is form.result else _REDUCED
            self._do("split", block.name, form.axis.along[block.name], min(steps, self._number("tile")))

    @property
    def _columns(self) -> int:
        form = self.form
        assert form.result is not None
        found = form.result.iterator(form.feature[form.result.name])
        assert found is not None
        return found.extent

    def _vectors(self) -> None:
        """Vectors along rows everywhere, as the last iterator of every box."""
        form = self.form
        for name, (block, row) in self._vectorized().items():
            self._do("vectorize", name, row)
            data = block.iters if name in form.rows else [i for i in block.iters if i.kind == "data"]
            if data[-1].name != row:
                self._do("reorder", name, *(i.name for i in data if i.name != row), row)
        root, column = form.parts.root, form.feature.get(form.parts.root.name)
        if column is not None:
            found = root.iterator(column)
            assert found is not None
            self._do("split", root.name, column, min(self._lanes, found.extent))

    def _vectorized(self) -> dict[str, tuple[Block, str]]:
        """Every Block that has rows, also those that the stream makes; what makes the query is left as it lies."""
        form = self.form
        inlined = {s.target for s in self.steps if s.primitive == "compute_inline"}
        found: dict[str, tuple[Block, str]] = {}
        for block in form.parts.all_blocks:
            if block.name not in form.rows or block.write.buffer in inlined:
                continue
            row = form.rows[block.name]
            made = [block.name]
            if block in form.axis.reductions:
                made += [f"{block.name}.t_init", *(f"{block.name}.join{m}" for m in self._joinings)]
                made += [f"{block.name}.end"] if block.write.buffer in form.axis.scaled else []
            if block is form.axis.key:
                made += self._of_key(block.name)
            lying = block.write.buffer == form.query.buffer
            found |= {name: (block, _last(block) if lying else row) for name in made}
        return found

    @property
    def _joinings(self) -> tuple[str, ...]:
        """Suffixes of what joins partial results: those of tiles, and that of all masked ones."""
        return ("", MASKED) if skips(self.form.axis) else ("",)

    def _of_key(self, name: str) -> list[str]:
        """What goes with the maximum, by the name of its Block or buffer."""
        made = [f"{name}.{n}{m}" for m in self._joinings for n in ("old", "safe", "repair")]
        return [*made, f"{name}.last", *([f"{name}.weight{MASKED}"] if skips(self.form.axis) else [])]

    def _masked(self) -> None:
        """Sums over what is masked, of which all rows of a tile have one."""
        form = self.form
        if not skips(form.axis):
            return
        key = form.axis.key.name
        self._do("vectorize", f"{key}.count{MASKED}", form.axis.along[key])
        for block in form.axis.reductions:
            name, along = f"{block.name}.sum{MASKED}", form.axis.along[block.name]
            if block is form.result:
                self._do("vectorize", name, form.feature[block.name])
            elif block is not form.axis.key:
                self._do("vectorize", name, along)

    def _layouts(self) -> None:
        """Rows become the last axis of everything that has them."""
        form = self.form
        inlined = {s.target for s in self.steps if s.primitive == "compute_inline"}
        for name in (n for n in form.parts.temporaries if n in form.row_axes and n not in inlined):
            axis, rank = form.row_axes[name], len(form.parts.found[name].shape)
            made = [name]
            made += [f"{name}.t" for b in form.axis.reductions if b.write.buffer == name]
            if form.axis.key.write.buffer == name:
                made += self._of_key(name)
            if axis != rank - 1:
                for each in made:
                    self._do("pack", each, axis, self._width)

    def _weights(self) -> None:
        """Exponentials take the place of the scores that they are made of."""
        form, kept = self.form, self.form.stored.write
        inlined = {s.target for s in self.steps if s.primitive == "compute_inline"}
        found = [b for b in form.axis.items if isinstance(b, Block) and reads_of(b, kept.buffer)]
        last = next((b for b in reversed(found) if b.write.buffer not in inlined), None)
        if last is None or last.monoid is not None or last.write.buffer not in form.axis.axes:
            return
        rows = (form.row_axes.get(last.write.buffer), form.row_axes.get(kept.buffer))
        alike = form.parts.found[last.write.buffer].shape == form.parts.found[kept.buffer].shape
        if (
            alike
            and rows[0] == rows[1]
            and all(r.index == last.write.index for r in reads(last.value) if r.buffer == kept.buffer)
        ):
            self._do("in_place", last.write.buffer, kept.buffer)


def _last(block: Block) -> str:
    return block.write.index[-1].single_variable() or block.iters[-1].name
