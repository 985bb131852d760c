"""Steps that several sketch rules take: tiles in registers, shared loops, edges without padding."""

from __future__ import annotations

from ..ir.loop import Block, Iter, reads
from ..passes.schedule import Step
from .anatomy import Anatomy

MIN_CHUNKS_PER_THREAD = 4
"""A loop with fewer iterations per thread is fused with the next one before it is shared."""


def trips(it: Iter, factor: int) -> int:
    """Iterations of the loop that a split by ``factor`` makes."""
    return -(-it.extent // factor)


def same_axes(parts: Anatomy) -> bool:
    """Whether every temporary has the output's axes, read and written in place: one tile serves all Blocks."""
    shape = parts.found[parts.root.write.buffer].shape
    names = tuple(i.name for i in parts.root.iters)
    for name in parts.temporaries:
        if parts.found[name].shape != shape:
            return False
    for block in parts.all_blocks:
        if tuple(e.single_variable() for e in block.write.index) != names:
            return False
        for read in reads(block.value):
            if read.buffer in parts.temporaries and tuple(e.single_variable() for e in read.index) != names:
                return False
    return True


def tile_at(parts: Anatomy, loop: str, vector: str) -> list[Step]:
    """Compute every temporary at a tile of the root, in registers, with one vectorised axis."""
    steps = [Step("compute_at", name, (loop,)) for name in reversed(parts.temporaries)]
    steps += [Step("set_scope", name, ("register",)) for name in parts.temporaries]
    return steps + [Step("vectorize", b.name, (vector,)) for b in parts.all_blocks]


def share(loops: list[tuple[str, int, bool]], threads: int) -> list[Step]:
    """Make the outermost loop parallel, fused with the next ones where it alone has too few iterations.

    Args:
        loops: name, trip count and whether the last iteration is cut, outermost first.
        threads: of the target.
    """
    steps: list[Step] = []
    name, trips, cut = loops[0]
    for inner, count, inner_cut in loops[1:]:
        if trips >= MIN_CHUNKS_PER_THREAD * threads or cut or inner_cut:
            break
        steps.append(Step("fuse", name, (inner,)))
        name, trips = f"{name}_{inner}", trips * count
    return [*steps, Step("parallel", name)]


def cut_edges(
    update: Block, tile: Iter | None, rows: int, root: str, shared: set[int | str], looped: list[Iter]
) -> list[Step]:
    """Where padding is read along the tile: unroll the taps there and cut the loop so that the middle has no guards."""
    if tile is None:
        return []
    guards = [g for r in reads(update.value) for g in r.guard if tile.name in g.variables()]
    if not guards:
        return []
    taps = [i for i in looped if any(i.name in g.variables() for g in guards)]
    steps = [Step("unroll", f"{update.name}.{i.name}") for i in taps]
    loop, count = f"{root}.{tile.name}", trips(tile, rows)
    if loop in shared or count == 1:
        return steps
    return [*steps, Step("partition" if count > 2 else "unroll", loop)]
