"""Windows: which block of an array one cell of the grid sees, as a Pallas `BlockSpec` can say it.

Along each axis, what a cell touches is either a whole number of tiles from the start of the array, so that the window
moves with the grid, or the window is the whole axis and the kernel cuts its part out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.affine import AffineExpr, Range, constant, var
from ...ir.loop import Block, Buffer, Stmt, blocks, reads, rewrite
from ...passes.footprint import Extent, footprint
from ...passes.schedule import ScheduleError
from .errors import PallasError
from .nest import Kernel
from .prepare import loop_ranges, without_limits

Ends = Mapping[int, AffineExpr]
"""For some axes of a buffer, the last index that is defined."""
Dims = tuple[int | None, ...]
"""For each axis of an array inside a kernel, the axis of the buffer it holds; None for an axis of one element."""


@dataclass(frozen=True, slots=True)
class WindowAxis:
    """One axis of a window.

    Args:
        block: its extent.
        index: which block it is, an expression of grid loops.
        start: the buffer's index of the window's first element, an expression of grid loops.
        before: elements that the array is padded with in front, so that no guarded index is negative.
        after: likewise behind, so that the window is not larger than the array.
    """

    block: int
    index: AffineExpr
    start: AffineExpr
    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a buffer that one cell sees, one `WindowAxis` per axis of the buffer."""

    axes: tuple[WindowAxis, ...]
    dims: Dims

    @property
    def block(self) -> tuple[int, ...]:
        """Shape of the block, in the array's dimensions."""
        return tuple(1 if a is None else self.axes[a].block for a in self.dims)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """How the array is padded, in its dimensions."""
        return tuple((0, 0) if a is None else (self.axes[a].before, self.axes[a].after) for a in self.dims)

    def variables(self) -> frozenset[str]:
        """The loops that the window moves with."""
        return frozenset().union(*(axis.index.variables() for axis in self.axes))

    def array(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the padded array whose buffer has that shape."""
        return tuple(
            n + low + high for n, (low, high) in zip(arrange_shape(shape, self.dims), self.padding, strict=True)
        )


def arrange_shape(shape: tuple[int, ...], dims: Dims) -> tuple[int, ...]:
    """The shape with its axes placed as the dimensions say."""
    return tuple(1 if a is None else shape[a] for a in dims)


def dims_of(buffer: Buffer, root: Stmt) -> Dims:
    """How a buffer lies in arrays inside a kernel: in at least two dimensions, as vector units want.

    A buffer of one axis is a column where an iterator that is not its Block's last one runs along it.
    """
    rank = len(buffer.shape)
    if rank >= 2:
        return tuple(range(rank))
    if rank == 0:
        return (None, None)
    for block in blocks(root):
        names = [i.name for i in block.iters if i.extent > 1]
        for access in (block.write, *reads(block.value)):
            if access.buffer == buffer.name and access.index[0].variables() & set(names[:-1]):
                return (0, None)
    return (None, 0)


def private_ends(root: Stmt, buffer: Buffer) -> Ends:
    """Where all writers of a private buffer stop along an axis: what lies behind is undefined and may be written.

    Args:
        root: all code that touches the buffer.
        buffer: the buffer.
    """
    found: list[Ends] = []
    for block in blocks(root):
        if block.write.buffer != buffer.name:
            continue
        mine: dict[int, AffineExpr] = {}
        for axis, index in enumerate(block.write.index):
            for it in block.iters:
                if it.limit is not None and index.coefficient(it.name) == 1:
                    mine[axis] = it.limit - 1 - var(it.name) + index
        found.append(mine)
    axes = range(len(buffer.shape)) if found else ()
    return {a: found[0][a] for a in axes if a in found[0] and all(e.get(a) == found[0][a] for e in found)}


def window(kernel: Kernel, buffer: Buffer, *, pad_after: bool) -> Window:
    """The window of a buffer.

    Args:
        kernel: what touches it.
        buffer: the buffer.
        pad_after: whether a window that is larger than the array needs a larger array.

    Raises:
        PallasError: what a cell touches is no box, or the buffer has no elements.
    """
    if 0 in buffer.shape:
        raise PallasError(f"expected elements in {buffer.name}, which statements use, found its shape {buffer.shape}")
    grid = loop_ranges(kernel.grid)
    whole = _footprint(kernel, buffer, frozenset())
    if whole is None:
        raise PallasError(f"expected accesses to {buffer.name} that cover a box, found others")
    moving = _footprint(kernel, buffer, frozenset(grid))
    axes: list[WindowAxis] = []
    for axis, size in enumerate(buffer.shape):
        found = None if moving is None else _moving(moving[axis], size, grid)
        axes.append(found or _whole(whole[axis], size, pad_after))
    return Window(tuple(axes), dims_of(buffer, kernel.root))


def _footprint(kernel: Kernel, buffer: Buffer, outer: frozenset[str]) -> tuple[Extent, ...] | None:
    root = rewrite(kernel.root, lambda s: without_limits(s) if isinstance(s, Block) else s)
    assert root is not None
    try:
        return footprint(root, buffer.name, outer)
    except ScheduleError:
        return None


def _moving(extent: Extent, size: int, grid: Mapping[str, Range]) -> WindowAxis | None:
    """The window of tiles from the start of the axis, if that is what the cells touch."""
    lower = extent.lower
    aligned = lower.const % extent.size == 0 and all(k % extent.size == 0 for _, k in lower.terms)
    if not aligned or (lower.is_constant and extent.size != size):
        return None
    low, high = lower.bounds(grid)
    if low < 0 or high >= size:
        return None
    index = AffineExpr(tuple((a, k // extent.size) for a, k in lower.terms), lower.const // extent.size)
    return WindowAxis(extent.size, index, lower)


def _whole(extent: Extent, size: int, pad_after: bool) -> WindowAxis:
    low = extent.lower.const
    before = max(0, -low)
    end = max(size, low + extent.size)
    return WindowAxis(before + end, constant(0), constant(-before), before, end - size if pad_after else 0)
