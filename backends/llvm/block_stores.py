"""Stores of one Block: whole vectors, parts of them, register tiles, and tiles that are stored transposed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir import dtypes
from ...ir.affine import AffineExpr
from ...ir.loop import Expr, Iter
from .access import FlatAccess, flatten
from .block_memory import BlockMemory, Point, Value
from .builder import VType, vtype
from .lanes import Mask, prefix
from .memory import CodegenError, Place
from .transpose import interleaved, row


@dataclass(slots=True)
class BlockStores(BlockMemory):
    """What a Block writes."""

    def _target(self) -> tuple[Place, FlatAccess]:
        place = self.memory.places[self.block.write.buffer]
        known = self._flat.get((0, ()))
        if known is None:
            known = flatten(
                place.buffer, self.block.write.index, self.scopes, frozenset(i.name for i in self.block.iters)
            )
            self._flat[0, ()] = known
        return place, known

    def _load_written(self, point: Point) -> Value:
        place, flat = self._target()
        return self._load_at(place, flat, point)

    def _store(self, point: Point, value: Value) -> None:
        place, flat = self._target()
        stride = self._stride(flat)
        if stride is None or stride not in (0, 1):
            self._scatter(place, flat, point, value)
            return
        if self._wide is not None and stride == 0:
            raise CodegenError(f"expected the vectorised {self._wide.name} in what {self.block.name} writes")
        t = vtype(place.buffer.dtype, self.lanes)
        text = self._widen(value, t)
        dynamic, offset = flat.at(point)
        if place.in_registers:
            if dynamic.terms:
                self._load_register(place, dynamic, offset, t)
            self._live[(place.buffer.name, offset)] = (self._kept(place, flat, point, text, t), t)
            return
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        mask = self._mask(t, point)
        align = self._align(place, dynamic, offset)
        self._store_lanes(place, pointer, text, t, align, mask)
        if self._forwards:
            self._loaded[place.buffer.name, dynamic, offset, t, mask, 0] = (text, t)

    def _kept(self, place: Place, flat: FlatAccess, point: Point, new: str, t: VType) -> str:
        """The new value of a register, with the old one in lanes that the Block's guard leaves alone."""
        if self._allowed is None:
            return new
        old = self._load_at(place, flat, point)
        return self.builder.select(t, self._allowed.text(self.builder), new, old[0])

    def _scatter(self, place: Place, flat: FlatAccess, point: Point, value: Value) -> None:
        """One store per lane."""
        wide, b = self._wide, self.builder
        assert wide is not None
        if place.in_registers:
            raise CodegenError(
                f"expected whole vectors of the register buffer {place.buffer.name} in {self.block.name}"
            )
        scalar = vtype(place.buffer.dtype)
        mask = self._mask(vtype(place.buffer.dtype, self.lanes), point) or prefix(self.lanes, self.lanes)
        bits = mask.text(b) if mask.value else ""
        for lane in (n for n, used in enumerate(mask.lanes) if used):
            element = value[0] if not value[1].lanes else b.extract(value[1], value[0], lane)
            dynamic, offset = flat.at({**point, wide.name: point[wide.name] + lane})
            if not bits:
                pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
                b.store(scalar, element, pointer, self._align(place, dynamic, offset))
                continue
            inside, after = b.fresh_label("write"), b.fresh_label("next")
            b.cond_br(b.extract(vtype("bool", self.lanes), bits, lane), inside, after)
            b.label(inside)
            self.scopes.push()
            pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
            b.store(scalar, element, pointer, self._align(place, dynamic, offset))
            self.scopes.pop()
            b.br(after)
            b.label(after)

    # ---- transposed tiles

    def _across(self) -> Iter | None:
        """The iterator along which neighbours are written where the vectorised one strides; None to scatter lanes."""
        block, wide = self.block, self._wide
        if wide is None or wide.kind != "data" or block.monoid is not None or block.guard:
            return None
        place, flat = self._target()
        if place.in_registers or flat.irregular is not None or self._stride(flat) in (0, 1):
            return None
        if self.lanes & (self.lanes - 1):
            return None
        return next((i for i in block.iters if flat.steps.get(i.name) == 1 and i.extent > 1), None)

    def _store_transposed(self, across: Iter) -> None:
        """The whole box, a square of vectors at a time."""
        for corner in self._corners(across):
            count = min(self.lanes, across.extent - corner[across.name])
            t = vtype(self.block.value.dtype, self.lanes)
            values = [self._column({**corner, across.name: corner[across.name] + n}, t) for n in range(count)]
            missing = (1 << (count - 1).bit_length()) - count
            self._store_rows(corner, self._interleaved(t, values, missing), count, t)

    def _interleaved(self, t: VType, values: list[str], missing: int) -> list[str]:
        """Values interleaved with each other; booleans as bytes, since masks have no shuffles."""
        b = self.builder
        if t.dtype != "bool":
            return interleaved(b, t, values + ["poison"] * missing)
        bytewise = t.with_dtype("int8")
        numbers = [b.cast("zext", v, t, bytewise) for v in values] + ["poison"] * missing
        return [b.compare("ne", bytewise, v, "zeroinitializer") for v in interleaved(b, bytewise, numbers)]

    def _corners(self, across: Iter) -> Iterator[Point]:
        assert self._wide is not None
        steps = {self._wide.name: self.lanes, across.name: self.lanes}
        spans = [range(0, i.extent, steps.get(i.name, 1)) for i in self.block.iters]
        for values in itertools.product(*spans):
            yield dict(zip((i.name for i in self.block.iters), values, strict=True))

    def _column(self, point: Point, t: VType) -> str:
        self._memo.clear()
        return self._widen(self._eval(self.block.value, point), t)

    def _eval(self, expr: Expr, point: Point) -> Value:
        raise NotImplementedError

    def _store_rows(self, corner: Point, found: list[str], count: int, t: VType) -> None:
        place, flat = self._target()
        b, wide = self.builder, self._wide
        assert wide is not None
        step = flat.steps[wide.name]
        rows = self._active(corner)
        if step == count == len(found):  # the rows lie one after the other
            for number, value in enumerate(found):
                active = min(rows * count - number * self.lanes, self.lanes)
                if active > 0:
                    dynamic, offset = flat.at(corner)
                    self._store_row(place, dynamic, offset + number * self.lanes, value, active, t)
            return
        for lane in range(rows):
            dynamic, offset = flat.at({**corner, wide.name: corner[wide.name] + lane})
            self._store_row(place, dynamic, offset, row(b, t, found, lane, count), count, t)

    def _store_row(self, place: Place, dynamic: AffineExpr, offset: int, value: str, active: int, t: VType) -> None:
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        mask = None if active == t.lanes else prefix(active, t.lanes)
        self._store_lanes(place, pointer, value, t, self._align(place, dynamic, offset), mask)

    def _store_lanes(self, place: Place, pointer: str, value: str, t: VType, align: int, mask: Mask | None) -> None:
        """Store a vector, or those lanes of it that a mask leaves.

        A single lane is stored by itself: of a masked store with one constant lane LLVM 22 makes a scalar store, and
        where the vector was truncated before, one of the wide element, over its neighbours in memory.
        """
        b = self.builder
        if mask is None:
            b.store(t, value, pointer, align, nontemporal=place.past_caches(t, align))
        elif mask.value or sum(mask.lanes) != 1:
            b.store(t, value, pointer, align, mask.text(b))
        else:
            lane = mask.first
            at = pointer if lane == 0 else b.gep(place.element, pointer, lane)
            b.store(t.scalar, b.extract(t, value, lane), at, dtypes.itemsize(t.dtype))
