"""Loads and stores of one Block: whole vectors, parts of them, single lanes, and register tiles."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir import dtypes
from ...ir.affine import AffineExpr
from ...ir.loop import Block, Iter, Read
from .access import FlatAccess, Scopes, flatten
from .builder import Builder, VType, vtype
from .memory import CodegenError, Memory, Place

Value = tuple[str, VType]
Point = dict[str, int]
Key = tuple[str, AffineExpr, int, int]


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
    _flat: dict[int, FlatAccess] = field(default_factory=dict)
    _loaded: dict[Key, Value] = field(default_factory=dict)
    _live: dict[tuple[str, int], Value] = field(default_factory=dict)
    _splats: dict[str, str] = field(default_factory=dict)
    _memo: dict[int, Value] = field(default_factory=dict)
    _wide: Iter | None = None
    _forwards: bool = False

    def _active(self, point: Point) -> int:
        """Lanes in use at a point."""
        if self._wide is None:
            return 0
        return min(self.lanes, self._wide.extent - point[self._wide.name])

    def _mask(self, t: VType, point: Point) -> int | None:
        """How many lanes of a value of type ``t`` are in use, None for all."""
        active = self._active(point)
        return active if t.lanes and active < t.lanes else None

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

    def _flatten(self, expr: Read, place: Place) -> FlatAccess:
        known = self._flat.get(id(expr))
        if known is None:
            known = flatten(place.buffer, expr.index, self.scopes, frozenset(i.name for i in self.block.iters))
            self._flat[id(expr)] = known
        return known

    def _load_at(self, place: Place, flat: FlatAccess, point: Point) -> Value:
        dtype = place.buffer.dtype
        stride = self._stride(flat)
        if stride is None or (stride not in (0, 1)):
            return self._gather(place, flat, point)
        dynamic, offset = flat.at(point)
        t = vtype(dtype, self.lanes if stride == 1 else 0)
        if place.in_registers:
            return self._load_register(place, dynamic, offset, t)
        mask = self._mask(t, point)
        key = (place.buffer.name, dynamic, offset, t.lanes if mask is None else mask)
        known = self._loaded.get(key)
        if known is not None:
            return known
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        value = self.builder.load(t, pointer, self._align(place, dynamic, offset), mask)
        if place.buffer.name != self.block.write.buffer:
            self._loaded[key] = (value, t)
        return value, t

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

    def _gather(self, place: Place, flat: FlatAccess, point: Point) -> Value:
        """Lanes that are not next to each other, one load each."""
        b, wide = self.builder, self._wide
        assert wide is not None
        if place.in_registers:
            raise CodegenError(
                f"expected whole vectors of the register buffer {place.buffer.name} in {self.block.name}"
            )
        t = vtype(place.buffer.dtype, self.lanes)
        out = "zeroinitializer"
        for lane in range(self._active(point)):
            element = self._scalar(place, flat, {**point, wide.name: point[wide.name] + lane})
            out = b.insert(t, out, element, lane)
        return out, t

    def _scalar(self, place: Place, flat: FlatAccess, point: Point) -> str:
        dynamic, offset = flat.at(point)
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        return self.builder.load(vtype(place.buffer.dtype), pointer, self._align(place, dynamic, offset))

    def _target(self) -> tuple[Place, FlatAccess]:
        place = self.memory.places[self.block.write.buffer]
        known = self._flat.get(0)
        if known is None:
            known = flatten(
                place.buffer, self.block.write.index, self.scopes, frozenset(i.name for i in self.block.iters)
            )
            self._flat[0] = known
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
            self._live[(place.buffer.name, offset)] = (text, t)
            return
        pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
        mask = self._mask(t, point)
        self.builder.store(t, text, pointer, self._align(place, dynamic, offset), mask)
        if self._forwards:
            self._loaded[place.buffer.name, dynamic, offset, t.lanes if mask is None else mask] = (text, t)

    def _scatter(self, place: Place, flat: FlatAccess, point: Point, value: Value) -> None:
        wide = self._wide
        assert wide is not None
        if place.in_registers:
            raise CodegenError(
                f"expected whole vectors of the register buffer {place.buffer.name} in {self.block.name}"
            )
        scalar = vtype(place.buffer.dtype)
        for lane in range(self._active(point)):
            element = value[0] if not value[1].lanes else self.builder.extract(value[1], value[0], lane)
            dynamic, offset = flat.at({**point, wide.name: point[wide.name] + lane})
            pointer = self.scopes.pointer(place.buffer.name, place.base, place.element, dynamic, offset)
            self.builder.store(scalar, element, pointer, self._align(place, dynamic, offset))
