"""Loads and stores of one Block: whole vectors, parts of them, single lanes, and register tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir import dtypes
from ...ir.affine import AffineExpr, var
from ...ir.loop import Block, Index, Iter, Read
from . import read_ahead
from .access import FlatAccess, Scopes, flatten
from .builder import Builder, VType, vtype
from .lanes import Mask, guarded_lanes, prefix
from .memory import CodegenError, Memory, Place
from .read_ahead import LINE_BYTES
from .strided import MAX_STRIDE, Window, picked, scattered, windows

_MAX_WINDOWS = 2
"""Lanes at irregular distances are picked from this many vectors, else loaded one by one."""
_MAX_BLENDED = 2
"""Vectors of this many different elements, far from each other, are blended from a vector of each."""

Value = tuple[str, VType]
Point = dict[str, int]
Key = tuple[str, AffineExpr, int, VType, Mask | None, float | int | bool]


@dataclass(slots=True)
class BlockMemory:
    """The memory accesses of one Block.

    Args:
        builder: gets the instructions.
        scopes: values of loop variables.
        memory: places of buffers.
        block: a legalised Block: box from 0, no limits.
        lanes: values per vector, 0 where nothing is vectorised.
    """

    builder: Builder
    scopes: Scopes
    memory: Memory
    block: Block
    lanes: int = 0
    _flat: dict[tuple[int, tuple[str, ...]], FlatAccess] = field(default_factory=dict)
    _loaded: dict[Key, Value] = field(default_factory=dict)
    _live: dict[tuple[str, int], Value] = field(default_factory=dict)
    _splats: dict[str, str] = field(default_factory=dict)
    _memo: dict[int, Value] = field(default_factory=dict)
    _wide: Iter | None = None
    _forwards: bool = False
    _lane_guards: Index = ()
    _allowed: Mask | None = None
    _aliases: tuple[str, ...] = ()

    def _active(self, point: Point) -> int:
        """Lanes in use at a point, as far as the end of the box goes."""
        if self._wide is None:
            return 0
        return min(self.lanes, self._wide.extent - point[self._wide.name])

    def _mask(self, t: VType, point: Point, guard: Mask | None = None) -> Mask | None:
        """Which lanes of a value of type ``t`` touch memory at a point; None for all.

        Args:
            t: the type.
            point: the point.
            guard: lanes that a guard of the access leaves, beside the Block's own.
        """
        if not t.lanes:
            return None
        active = self._active(point)
        if active == t.lanes and self._allowed is None and guard is None:
            return None
        mask = prefix(active, t.lanes)
        for other in (self._allowed, guard):
            mask = mask if other is None else mask.both(other, self.builder)
        return None if mask.full else mask

    def _lanes_of(self, conditions: Index, point: Point) -> Mask:
        """The lanes in which conditions hold at a point."""
        wide = self._wide
        assert wide is not None
        others = {n: AffineExpr((), v) for n, v in point.items() if n != wide.name}
        exprs = [c.substitute(others) for c in conditions]
        return guarded_lanes(self.builder, self.scopes, exprs, wide.name, point[wide.name], self.lanes)

    def _at(self, expr: AffineExpr, point: Point) -> AffineExpr:
        return self.scopes.resolve(expr).substitute({n: AffineExpr((), v) for n, v in point.items()})

    def _flush(self) -> None:
        """Write register values back and forget everything that may not dominate what follows."""
        for (name, offset), (value, t) in self._live.items():
            slot = self.memory.places[name].slot(self.builder, offset, t)
            self.builder.emit(f"store {t.text} {value}, ptr {slot}")
        self._live.clear()
        self._loaded.clear()
        self._splats.clear()
        self._memo.clear()

    def _widen(self, value: Value, t: VType) -> str:
        """The value with as many lanes as ``t``."""
        if value[1].lanes == t.lanes:
            return value[0]
        if value[1].lanes:
            raise CodegenError(f"expected a scalar where {self.block.name} needs {t.text}, found {value[1].text}")
        known = self._splats.get(value[0] + t.text)
        if known is None:
            known = self.builder.splat(value[0], t)
            self._splats[value[0] + t.text] = known
        return known

    # ---- loads

    def _flatten(self, expr: Read, place: Place) -> FlatAccess:
        key = (id(expr), self._aliases)
        known = self._flat.get(key)
        if known is None:
            known = flatten(place.buffer, expr.index, self.scopes, frozenset(i.name for i in self.block.iters))
            self._flat[key] = known
        return known

    def _load_at(self, place: Place, flat: FlatAccess, point: Point) -> Value:
        """A vector along the vectorised iterator, or a scalar where that does not move the access."""
        stride = self._stride(flat)
        if stride not in (0, 1):
            return self._load_strided(place, flat, point, stride)
        dynamic, offset = flat.at(point)
        t = vtype(place.buffer.dtype, self.lanes if stride == 1 else 0)
        if place.in_registers:
            return self._load_register(place, dynamic, offset, t)
        return self._load_memory(place, dynamic, offset, t, self._mask(t, point))

    def _load_memory(
        self,
        place: Place,
        dynamic: AffineExpr,
        offset: int,
        t: VType,
        mask: Mask | None,
        otherwise: float | int | bool = 0,
    ) -> Value:
        key = (place.buffer.name, dynamic, offset, t, mask, otherwise)
        known = self._loaded.get(key)
        if known is not None:
            return known
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        align = self._align(place, dynamic, offset)
        if mask is None:
            value = self.builder.load(t, pointer, align)
        else:
            other = self.builder.const(otherwise, t) if otherwise and t.dtype != "bool" else "zeroinitializer"
            value = self.builder.load(t, pointer, align, mask.text(self.builder), other)
        if place.buffer.name != self.block.write.buffer:
            self._loaded[key] = (value, t)
        self._fetch(place, dynamic, offset, t)
        return value, t

    def _fetch(self, place: Place, dynamic: AffineExpr, offset: int, t: VType) -> None:
        """Fetch what a load of a whole vector will read in later iterations of a loop, once per line of the cache."""
        size = dtypes.itemsize(place.buffer.dtype)
        if not t.lanes or offset * size % LINE_BYTES >= t.lanes * size:
            return
        for hint in self.block.fetches:
            if hint.buffer == place.buffer.name and hint.loop in dynamic.variables():
                later = dynamic.substitute({hint.loop: var(hint.loop) + hint.distance})
                moved = AffineExpr(later.terms)
                pointer = self.scopes.pointer(hint.buffer, place.base, place.element, moved, offset + later.const)
                read_ahead.fetch(self.builder, pointer)

    def _load_register(self, place: Place, dynamic: AffineExpr, offset: int, t: VType) -> Value:
        if dynamic.terms:
            raise CodegenError(
                f"expected constant indices into the register buffer {place.buffer.name}, found {dynamic} + {offset} "
                f"in {self.block.name}: unroll those loops, compute the buffer further in, or keep it in the cache"
            )
        name = place.buffer.name
        known = self._live.get((name, offset))
        if known is not None and known[1] == t:
            return known
        slot = place.slot(self.builder, offset, t)
        return self.builder.effect(f"load {t.text}, ptr {slot}"), t

    def _stride(self, flat: FlatAccess) -> int | None:
        """Elements between neighbouring lanes; None if it is not constant."""
        if self._wide is None:
            return 0
        if flat.irregular is not None and self._wide.name in flat.irregular.variables():
            return None
        return flat.steps.get(self._wide.name, 0)

    def _align(self, place: Place, dynamic: AffineExpr, offset: int) -> int:
        """Bytes that the address is surely a multiple of."""
        size = dtypes.itemsize(place.buffer.dtype)
        align = place.align
        for step in (offset, *(k for _, k in dynamic.terms)):
            while step * size % align:
                align //= 2
        return max(align, size)

    def _load_strided(
        self, place: Place, flat: FlatAccess, point: Point, stride: int | None, guard: Mask | None = None
    ) -> Value:
        """Lanes that are not next to each other: picked from the vectors they lie in, else one load each."""
        if place.in_registers:
            raise CodegenError(
                f"expected whole vectors of the register buffer {place.buffer.name} in {self.block.name}"
            )
        t = vtype(place.buffer.dtype, self.lanes)
        mask = self._mask(t, point, guard)
        if stride is None:
            return self._load_scattered(place, flat, point, mask), t
        if not 1 < abs(stride) <= MAX_STRIDE:
            return self._gather(place, flat, point, mask), t
        found = windows(mask or prefix(self.lanes, self.lanes), stride, self.builder)
        return picked(self.builder, t, found, lambda w: self._window(place, flat, point, t, w)), t

    def _window(self, place: Place, flat: FlatAccess, point: Point, t: VType, window: Window) -> str:
        """One of the vectors that hold the elements of a strided access."""
        dynamic, offset = flat.at(point)
        return self._load_memory(place, dynamic, offset + window.start, t, window.mask)[0]

    def _load_scattered(self, place: Place, flat: FlatAccess, point: Point, mask: Mask | None) -> str:
        """Lanes at irregular distances that are known in advance: picked or blended where that takes few loads."""
        wide, t = self._wide, vtype(place.buffer.dtype, self.lanes)
        assert wide is not None
        used = mask.lanes if mask is not None else (True,) * self.lanes
        at = [flat.at({**point, wide.name: point[wide.name] + n}) if u else None for n, u in enumerate(used)]
        distinct = list(dict.fromkeys(filter(None, at)))
        starts = {dynamic for dynamic, _ in distinct}
        offsets = [offset for _, offset in distinct]
        if mask is not None and mask.value:
            return self._gather(place, flat, point, mask)
        far = len(starts) != 1 or max(offsets) - min(offsets) >= self.lanes
        if len(distinct) == 1 or (far and len(distinct) <= _MAX_BLENDED):
            return self._blended(place, at, distinct, t)
        if len(starts) != 1:
            return self._gather(place, flat, point, mask)
        (dynamic,) = starts
        size = math.prod(place.buffer.shape)
        whole = all(n % self.lanes == 0 for n in (size, *(k for _, k in dynamic.terms)))
        found = scattered([None if a is None else a[1] for a in at], whole)
        if len(found.windows) > _MAX_WINDOWS:
            return self._gather(place, flat, point, mask)

        def load(window: Window) -> str:
            return self._load_memory(place, dynamic, window.start, t, window.mask)[0]

        return picked(self.builder, t, found, load)

    def _blended(
        self,
        place: Place,
        at: list[tuple[AffineExpr, int] | None],
        distinct: list[tuple[AffineExpr, int]],
        t: VType,
    ) -> str:
        """Few elements, each in many lanes: one vector of each, put together."""
        out = "zeroinitializer"
        for number, (dynamic, offset) in enumerate(distinct):
            element = self._load_memory(place, dynamic, offset, t.scalar, None)
            splat = self._widen(element, t)
            lanes = [a == (dynamic, offset) for a in at]
            chosen = self.builder.lanes(lanes, vtype("bool", self.lanes))
            out = self.builder.select(t, chosen, splat, out) if number else splat
        return out

    def _gather(self, place: Place, flat: FlatAccess, point: Point, mask: Mask | None) -> str:
        """One load per lane, under a branch where it is not known in advance whether the lane is in use."""
        b, wide = self.builder, self._wide
        assert wide is not None
        t = vtype(place.buffer.dtype, self.lanes)
        used = mask.lanes if mask is not None else (True,) * self.lanes
        bits = mask.text(b) if mask is not None and mask.value else ""
        # Lanes that are not in use are computed with all the same, and dividing by poison is undefined.
        out = "zeroinitializer"
        for lane in (n for n, u in enumerate(used) if u):
            at = {**point, wide.name: point[wide.name] + lane}
            if bits:
                holds = b.extract(vtype("bool", self.lanes), bits, lane)
                element = self._where(holds, lambda at=at: self._scalar(place, flat, at), 0)[0]
            else:
                element = self._scalar(place, flat, at)[0]
            out = b.insert(t, out, element, lane)
        return out

    def _where(self, holds: str, load: Callable[[], Value], otherwise: float | int | bool) -> Value:
        """What is loaded where a condition holds, else a constant, without touching memory."""
        b = self.builder
        before = b.block
        inside, after = b.fresh_label("read"), b.fresh_label("join")
        b.cond_br(holds, inside, after)
        b.label(inside)
        self.scopes.push()
        loaded, splats = dict(self._loaded), dict(self._splats)
        value, t = load()
        self._loaded, self._splats = loaded, splats
        self.scopes.pop()
        end = b.block
        b.br(after)
        b.label(after)
        out = b.phi(t.text, value, end)
        b.add_incoming(out, b.const(otherwise, t), before)
        return out, t

    def _scalar(self, place: Place, flat: FlatAccess, point: Point) -> Value:
        dynamic, offset = flat.at(point)
        t = vtype(place.buffer.dtype)
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        return self.builder.load(t, pointer, self._align(place, dynamic, offset)), t

    def _load_lanes(self, expr: Read, point: Point, guard: Mask) -> Value:
        """A read whose guard differs between lanes: memory is touched only for the lanes that it lets through."""
        b, place = self.builder, self.memory.places[expr.buffer]
        flat = self._flatten(expr, place)
        stride = self._stride(flat)
        t = vtype(expr.dtype, self.lanes)
        if place.in_registers:
            value = self._widen(self._load_at(place, flat, point), t)
        elif stride == 1:
            dynamic, offset = flat.at(point)
            value, _ = self._load_memory(place, dynamic, offset, t, self._mask(t, point, guard), expr.otherwise)
            if not expr.otherwise or t.dtype != "bool":
                return value, t
        elif stride == 0:
            value = self._widen(self._once(place, flat, point, t, guard), t)
        else:
            value = self._load_strided(place, flat, point, stride, guard)[0]
        return b.select(t, guard.text(b), value, b.const(expr.otherwise, t)), t

    def _once(self, place: Place, flat: FlatAccess, point: Point, t: VType, guard: Mask) -> Value:
        """One element for all lanes, loaded if any of them is in use."""
        mask = self._mask(t, point, guard)
        if mask is not None and mask.value:
            return self._where(mask.any(self.builder), lambda: self._load_at(place, flat, point), 0)
        if mask is not None and mask.empty:
            return self.builder.const(0, t.scalar), t.scalar
        return self._load_at(place, flat, point)
