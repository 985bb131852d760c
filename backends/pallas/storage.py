"""Where buffers live inside a kernel: behind references that Pallas gives, or as values that Blocks hand on.

Both are read and written in slices: along each axis of the buffer a range that runs with one iterator of the Block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ...ir import dtypes
from ...ir.affine import AffineExpr, constant, var
from ...ir.loop import Buffer
from .box import Box, Labels, relayout
from .elementwise import Array
from .errors import PallasError
from .routes import Route
from .windows import Dims, Ends, Window, arrange_shape


@dataclass(frozen=True, slots=True)
class Slice:
    """The elements ``start + step * n`` of an axis for ``0 <= n < count``.

    Args:
        start: an expression of loops.
        count: how many.
        step: distance, at least 1.
        name: the iterator that runs along them, None for a single element.
        reversed: whether the iterator runs from the last one to the first.
    """

    start: AffineExpr
    count: int
    step: int = 1
    name: str | None = None
    reversed: bool = False

    @property
    def span(self) -> int:
        """Elements from the first to the last one, both included."""
        return (self.count - 1) * self.step + 1

    def position(self) -> AffineExpr:
        """The index in the buffer, in terms of the iterator."""
        if self.name is None:
            return self.start
        if self.reversed:
            return self.start + (self.count - 1) * self.step - var(self.name) * self.step
        return self.start + var(self.name) * self.step


class Storage(Protocol):
    """A buffer inside a kernel."""

    def load(self, slices: Sequence[Slice], labels: Labels, box: Box) -> Array:
        """A tile in the layout ``labels``."""
        ...

    def store(
        self, slices: Sequence[Slice], tile: Array, labels: Labels, box: Box, conditions: Iterable[AffineExpr]
    ) -> None:
        """Write a tile of layout ``labels`` where all conditions hold."""
        ...


class Memory:
    """A buffer behind a reference.

    Args:
        ref: the reference.
        buffer: the buffer.
        dims: which axis each dimension of the reference holds.
        window: which part of the buffer it shows; None for memory that the kernel owns.
        ends: last defined indices; conditions that only exclude what lies behind them are dropped.
        route: how it is accessed.
    """

    def __init__(self, ref: Any, buffer: Buffer, dims: Dims, window: Window | None, ends: Ends, route: Route) -> None:
        self._ref = ref
        self._buffer = buffer
        self._dims = dims
        self._window = window
        self._ends = ends
        self._route = route

    def load(self, slices: Sequence[Slice], labels: Labels, box: Box) -> Array:
        """A tile in the layout ``labels``; what lies outside of the buffer is undefined."""
        named = _labels(slices, self._dims)
        inside = _inside(slices, self._buffer) if self._route.masked_memory else []
        tile = self._route.load(self._ref, self._index(slices, box), _whole_mask(inside, named, box))
        return relayout(_flip(tile, slices, self._dims), named, labels)

    def store(
        self, slices: Sequence[Slice], tile: Array, labels: Labels, box: Box, conditions: Iterable[AffineExpr]
    ) -> None:
        """Write a tile of layout ``labels`` where all conditions hold."""
        named = _labels(slices, self._dims)
        mask = _whole_mask(_needed(conditions, slices, self._ends), named, box)
        self._route.store(self._ref, self._index(slices, box), _spread(tile, labels, named, box), mask)

    def _index(self, slices: Sequence[Slice], box: Box) -> Any:
        """What to index the reference with."""
        index: list[Any] = []
        for axis, size in zip(self._dims, self._shape(), strict=True):
            if axis is None:
                index.append(slice(None))
                continue
            cut = slices[axis]
            offset = cut.start if self._window is None else cut.start - self._window.axes[axis].start
            offset = offset.simplify(box.ranges)
            _check_inside(self._buffer, offset, cut.span, size, box)
            whole = offset == constant(0) and cut.count == size
            index.append(slice(None) if whole else pl.ds(box.scalar(offset), cut.count, cut.step))
        return ... if all(isinstance(i, slice) for i in index) else tuple(index)

    def _shape(self) -> tuple[int, ...]:
        return arrange_shape(self._buffer.shape, self._dims) if self._window is None else self._window.block


class Value:
    """A private buffer as a tile.

    Args:
        buffer: the buffer.
        dims: which axis each dimension of the tile holds.
        ends: last defined indices, as for `Memory`.

    Attributes:
        tile: what was written last, None before that.
    """

    def __init__(self, buffer: Buffer, dims: Dims, ends: Ends) -> None:
        self._buffer = buffer
        self._dims = dims
        self._ends = ends
        self.tile: Array | None = None

    def settled(self) -> Array:
        """The tile, zeros if nothing was written yet."""
        if self.tile is not None:
            return self.tile
        return jnp.zeros(arrange_shape(self._buffer.shape, self._dims), dtypes.to_numpy(self._buffer.dtype))

    def load(self, slices: Sequence[Slice], labels: Labels, box: Box) -> Array:
        """A tile in the layout ``labels``."""
        tile = self.settled()
        if not self._all(slices):
            spans = [1 if a is None else slices[a].span for a in self._dims]
            tile = lax.dynamic_slice(tile, self._starts(slices, box), spans)
            steps = [1 if a is None else slices[a].step for a in self._dims]
            tile = tile[tuple(slice(None, None, step) for step in steps)]
        return relayout(_flip(tile, slices, self._dims), _labels(slices, self._dims), labels)

    def store(
        self, slices: Sequence[Slice], tile: Array, labels: Labels, box: Box, conditions: Iterable[AffineExpr]
    ) -> None:
        """Write a tile of layout ``labels`` where all conditions hold."""
        named = _labels(slices, self._dims)
        tile = _spread(tile, labels, named, box)
        whole = self._all(slices)
        mask = None
        if self.tile is not None or not whole:
            mask = _whole_mask(_needed(conditions, slices, self._ends), named, box)
        if mask is not None:
            tile = jnp.where(mask, tile, self.load(slices, named, box))
        self.tile = tile if whole else lax.dynamic_update_slice(self.settled(), tile, self._starts(slices, box))

    def _all(self, slices: Sequence[Slice]) -> bool:
        whole = zip(slices, self._buffer.shape, strict=True)
        return all(c.start == constant(0) and c.count == n and c.step == 1 and not c.reversed for c, n in whole)

    def _starts(self, slices: Sequence[Slice], box: Box) -> list[Any]:
        """First element of each dimension."""
        for cut, size in zip(slices, self._buffer.shape, strict=True):
            _check_inside(self._buffer, cut.start, cut.span, size, box)
        return [0 if a is None else box.scalar(slices[a].start) for a in self._dims]


def _labels(slices: Sequence[Slice], dims: Dims) -> Labels:
    return tuple(None if a is None else slices[a].name for a in dims)


def _flip(tile: Array, slices: Sequence[Slice], dims: Dims) -> Array:
    turned = [d for d, a in enumerate(dims) if a is not None and slices[a].reversed]
    return jnp.flip(tile, turned) if turned else tile


def _spread(tile: Array, labels: Labels, named: Labels, box: Box) -> Array:
    """The whole tile in another layout; it may have had one element where all are the same."""
    return jnp.broadcast_to(relayout(tile, labels, named), box.shape(named))


def _whole_mask(conditions: Iterable[AffineExpr], named: Labels, box: Box) -> Array | None:
    mask = box.mask(conditions, named)
    return None if mask is None else jnp.broadcast_to(mask, box.shape(named))


def _inside(slices: Sequence[Slice], buffer: Buffer) -> list[AffineExpr]:
    """Conditions for slices to be inside a buffer, for tiles in the order of memory."""
    found = [(replace(cut, reversed=False).position(), size) for cut, size in zip(slices, buffer.shape, strict=True)]
    return [c for at, size in found for c in (at, constant(size - 1) - at)]


def _needed(conditions: Iterable[AffineExpr], slices: Sequence[Slice], ends: Ends) -> list[AffineExpr]:
    """The conditions that exclude more than what lies behind the ends."""
    bounds = [end - slices[axis].position() for axis, end in ends.items()]

    def implied(condition: AffineExpr) -> bool:
        return any((condition - bound).is_constant and (condition - bound).const >= 0 for bound in bounds)

    return [c for c in conditions if not implied(c)]


def _check_inside(buffer: Buffer, start: AffineExpr, span: int, size: int, box: Box) -> None:
    """Refuse a slice that may reach too far: it would be moved."""
    low, high = start.bounds(box.ranges)
    if low < 0 or high + span > size:
        raise PallasError(
            f"expected tiles surely inside the {size} elements of {buffer.name} that are there, found {start}..+{span}"
        )
