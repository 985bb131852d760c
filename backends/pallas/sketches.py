"""A first schedule for accelerators, without search: which loops become the grid, and tiles of fixed sizes.

Every Block that writes an output is tiled along the axes that all reductions before it share, so that each cell
computes whole results: both axes of a matrix product, the rows of a softmax. What the Block needs is computed in the
cell. Sums of products are accumulated over tiles of what they sum over.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.loop import Alloc, Apply, Block, Iter, LoopFunc, blocks, reads, walk
from ...passes.schedule import ScheduleError, Step, Trace, apply_step


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of tiles, in elements.

    Args:
        rows: of a tile of a matrix product, along the axis before the last one.
        columns: along the last axis.
        summed: along what is summed over.
        elements: about how many elements of each buffer a cell holds where there is no product.
        unit: what the number of rows is a multiple of.
        sequential: whether a sum is accumulated from cell to cell of the grid; else by a loop inside of each cell.
    """

    rows: int
    columns: int
    summed: int
    elements: int
    unit: int
    sequential: bool


TPU_TILES = Tiles(rows=256, columns=256, summed=512, elements=65536, unit=8, sequential=True)
GPU_TILES = Tiles(rows=64, columns=64, summed=32, elements=4096, unit=1, sequential=False)


def tiled(func: LoopFunc, tiles: Tiles = TPU_TILES) -> Trace:
    """The trace that makes kernels of a workload.

    Args:
        func: an unscheduled program.
        tiles: sizes; powers of two (times ``unit``) suit every route. Smaller ranges are one tile.

    Returns:
        A trace that `passes.schedule.replay` accepts. Outputs whose Blocks can't be tiled stay without a grid.
    """
    trace: list[Step] = []
    outputs = {b.name for b in func.outputs}
    for root in [b for b in blocks(func.body) if b.write.buffer in outputs and b.monoid is None]:
        if any(i.extent == 0 for b in blocks(func.body) for i in b.iters):
            continue
        try:
            func, steps = _Family(func, root, tiles).schedule()
        except ScheduleError:
            continue
        trace += steps
    return tuple(trace)


class _Family:
    """One Block that writes an output with the buffers that only it needs."""

    def __init__(self, func: LoopFunc, root: Block, tiles: Tiles) -> None:
        self.func = func
        self.root = root
        self.tiles = tiles
        self.own = _own(func, root)
        self.steps: list[Step] = []

    def do(self, primitive: str, target: str, *args: int | str) -> None:
        step = Step(primitive, target, args)
        self.func = apply_step(self.func, step)
        self.steps.append(step)

    def schedule(self) -> tuple[LoopFunc, list[Step]]:
        """Raises ScheduleError where a step does not apply."""
        writers = [b for b in blocks(self.func.body) if b.write.buffer in self.own]
        products = [b for b in writers if _is_product(b)]
        whole = [b for b in writers if b.monoid is not None and b not in products]
        axes = _shared_axes(self.func, self.root, self.own)
        if not axes:
            return self.func, []
        for it in axes:
            self.do("split", self.root.name, it.name, self.size(it, len(axes), products, whole))
        inner = f"{self.root.name}.{axes[-1].name}"
        for name in reversed(self.own):
            self.do("compute_at", name, inner)
        for it in axes:
            self.do("grid", f"{self.root.name}.{it.name}")
        for update in products:
            self.accumulate(update, alone=len(products) == 1)
        return self.func, self.steps

    def size(self, it: Iter, count: int, products: list[Block], whole: list[Block]) -> int:
        """The tile of one iterator of the root."""
        tiles, place = self.tiles, len(self.root.iters) - self.root.iters.index(it)
        if place > 2:
            return 1
        if whole:
            longest = max(_reduced(b) for b in whole)
            rows = max(tiles.unit, _power_below(tiles.elements // longest))
            return min(it.extent, rows if place == 2 else max(rows, tiles.columns))
        if products:
            return min(it.extent, tiles.columns if place == 1 else tiles.rows)
        if count == 1:
            return min(it.extent, max(tiles.columns, tiles.elements // 8))
        return min(it.extent, tiles.columns if place == 1 else max(tiles.unit, tiles.elements // tiles.columns))

    def accumulate(self, update: Block, alone: bool) -> None:
        """Cut the longest range that a product sums over."""
        reduced = [i for i in update.iters if i.kind == "reduce"]
        if not reduced:
            return
        longest = max(reduced, key=lambda i: i.extent)
        if longest.extent <= self.tiles.summed:
            return
        self.do("split", update.name, longest.name, self.tiles.summed)
        if self.tiles.sequential and alone:
            self.do("grid", f"{update.name}.{longest.name}")


def _is_product(block: Block) -> bool:
    return block.monoid == "sum" and isinstance(block.value, Apply) and block.value.op == "mul"


def _reduced(block: Block) -> int:
    count = 1
    for it in block.iters:
        count *= it.extent if it.kind == "reduce" else 1
    return count


def _power_below(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def _own(func: LoopFunc, root: Block) -> list[str]:
    """The allocated buffers that nothing but ``root`` needs, in the order in which they are computed."""
    allocated = {s.buffer.name for s in walk(func.body) if isinstance(s, Alloc)}
    own: list[str] = []
    everything = list(blocks(func.body))
    for name in reversed(list(dict.fromkeys(b.write.buffer for b in everything if b.write.buffer in allocated))):
        readers = [b for b in everything if any(r.buffer == name for r in reads(b.value))]
        if readers and all(b is root or b.write.buffer in (*own, name) for b in readers):
            own.append(name)
    return own[::-1]


def _shared_axes(func: LoopFunc, root: Block, own: list[str]) -> list[Iter]:
    """The iterators of the root along which every reduced buffer can be computed a part at a time."""
    axes: dict[str, list[str | None]] = {root.write.buffer: [e.single_variable() for e in root.write.index]}
    shared = [i for i in root.iters if i.kind == "data"]
    for block in reversed([b for b in blocks(func.body) if b is root or b.write.buffer in own]):
        known = axes.get(block.write.buffer, [])
        mine = {e.single_variable(): n for e, n in zip(block.write.index, known, strict=True)}
        if block.monoid is not None:
            shared = [i for i in shared if i.name in known]
        for read in reads(block.value):
            if read.buffer in own and read.buffer != block.write.buffer:
                found = [mine.get(e.single_variable()) for e in read.index]
                before = axes.setdefault(read.buffer, found)
                axes[read.buffer] = [n if n == m else None for n, m in zip(before, found, strict=True)]
    return shared
