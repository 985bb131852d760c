"""What may go wrong between the cells of a grid, and between the threads of one cell; here it is ruled out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...ir.loop import Buffer, For, LoopFunc, Stmt, blocks, reads, rewrite
from ...ir.sites import program
from ...ir.verify_memory import no_races
from .errors import PallasError
from .nest import Kernel
from .windows import Window


def independent(kernel: Kernel, func: LoopFunc, written: Sequence[Window], masked: bool) -> list[bool]:
    """For each dimension of the grid, whether its cells surely may run in any order.

    Args:
        kernel: what runs.
        func: the program that it is a part of.
        written: windows of its outputs.
        masked: whether memory is written element by element, so that cells may share a block.

    Returns:
        A flag per dimension; cells that it is true for share no element and no block, and wait for no other cell.
    """
    found: list[bool] = []
    for depth, (loop, trips) in enumerate(zip(kernel.grid, kernel.trips, strict=True)):
        waits = any(phase.when != "every" and phase.depth <= depth for phase in kernel.phases)
        own = masked or all(loop.name in window.variables() for window in written)
        found.append(trips == 1 or (own and not waits and not list(no_races(program(_shared(func, loop))))))
    return found


def _shared(func: LoopFunc, loop: For) -> LoopFunc:
    def visit(s: Stmt) -> Stmt:
        return replace(s, kind="parallel") if isinstance(s, For) and s.name == loop.name else s

    body = rewrite(func.body, visit)
    assert body is not None
    return replace(func, body=body)


def check_revisits(kernel: Kernel, outputs: Sequence[Buffer], windows: Mapping[str, Window]) -> None:
    """A block of an output is complete when the grid leaves it: it is not returned to.

    Args:
        kernel: what runs, cell after cell.
        outputs: what it writes.
        windows: what a cell sees of each buffer.

    Raises:
        PallasError: the grid returns to a block.
    """
    for buffer in outputs:
        moving = windows[buffer.name].variables()
        resting: str | None = None
        for loop, trips in zip(kernel.grid, kernel.trips, strict=True):
            if trips == 1:
                continue
            if loop.name not in moving:
                resting = loop.name
            elif resting is not None:
                raise PallasError(
                    f"expected the loops along which {buffer.name} stays the same innermost, found {resting} around "
                    f"{loop.name}"
                )


def check_exchange(kernel: Kernel) -> None:
    """Threads of a cell hand nothing to each other through memory: nothing makes one wait for what another stores.

    Args:
        kernel: what runs.

    Raises:
        PallasError: it reads a buffer from outside of the grid that it writes, or writes one in several Blocks.
    """
    inside = list(blocks(kernel.root))
    read = {r.buffer for b in inside for r in reads(b.value)} | {b.write.buffer for b in inside if b.monoid is not None}
    writers = Counter(b.write.buffer for b in inside)
    for name in kernel.outputs:
        if name in read:
            raise PallasError(
                f"expected no buffer that one kernel writes and reads, found {name}; compute it inside of the grid"
            )
        if writers[name] > 1:
            raise PallasError(f"expected one Block to write {name}, found {writers[name]}; give each a grid of its own")
