"""Which workloads are chains of stages: each a convolution or product with its epilogue, read by the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.loop import Block, Iter, LoopFunc, Read, reads
from .anatomy import Anatomy, Product, anatomy, axis_of, product
from .channelwise import along_channels


@dataclass(frozen=True, slots=True)
class Stage:
    """One reduction with the elementwise work on its result.

    Args:
        root: the Block that writes what the next stage reads.
        init: the Block that starts the reduction.
        update: the Block that reduces.
        locals: buffers that nothing but this stage uses, its accumulator first.
        members: its Blocks, in program order.
        match: the reduction as a product with constant or contiguous panels; None where vectors run along channels of
            both operands (depthwise convolutions, pooling).
    """

    root: Block
    init: Block
    update: Block
    locals: tuple[str, ...]
    members: tuple[Block, ...]
    match: Product | None

    @property
    def axes(self) -> tuple[Iter, ...]:
        """Iterators along the axes of what it writes, in their order; vectors run along the last one."""
        own = {it.name: it for it in self.root.iters}
        return tuple(own[e.single_variable() or ""] for e in self.root.write.index)

    @property
    def reduce(self) -> tuple[Iter, ...]:
        """Iterators that are reduced over."""
        return tuple(it for it in self.update.iters if it.kind == "reduce")

    @property
    def steps(self) -> int:
        """Values that each result is reduced from."""
        return math.prod(it.extent for it in self.reduce)


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages in order; the last one writes the output.

    Args:
        parts: the workload.
        stages: at least two.
        stored: for each stage but the last, the buffer that it writes.
    """

    parts: Anatomy
    stages: tuple[Stage, ...]
    stored: tuple[str, ...]


def find_chain(func: LoopFunc) -> Chain | None:
    """A workload as a chain; None if it is something else."""
    parts = anatomy(func)
    if parts is None or len(parts.reductions) < 2:
        return None
    stored = _stored(parts)
    stages: list[Stage] = []
    members: list[Block] = []
    for block in parts.all_blocks:
        members.append(block)
        if block.monoid is None and (block.write.buffer in stored or block is parts.root):
            stage = _stage(parts, tuple(members), stored)
            if stage is None:
                return None
            stages.append(stage)
            members = []
    if len(stages) < 2 or members or not _in_order(stages, stored):
        return None
    if len({len(s.axes) for s in stages}) != 1:
        return None
    return Chain(parts, tuple(stages), stored)


def _stored(parts: Anatomy) -> tuple[str, ...]:
    """Temporaries that a reduction reads elsewhere than where it writes: what one stage leaves for the next."""
    found: dict[str, None] = {}
    for update in parts.reductions:
        for read in reads(update.value):
            if read.buffer in parts.temporaries and read.index != update.write.index:
                found[read.buffer] = None
    return tuple(name for name in parts.temporaries if name in found)


def _in_order(stages: list[Stage], stored: tuple[str, ...]) -> bool:
    """Whether each stage but the last writes one buffer of its own, and reads only those of the stages before."""
    known: set[str] = set()
    for stage in stages:
        used = {r.buffer for b in stage.members for r in reads(b.value)} & set(stored)
        if not used <= known or (known and not {r.buffer for r in reads(stage.update.value)} & known):
            return False
        known.add(stage.root.write.buffer)
    return tuple(s.root.write.buffer for s in stages[:-1]) == stored


def _stage(parts: Anatomy, members: tuple[Block, ...], stored: tuple[str, ...]) -> Stage | None:
    updates = [b for b in members if b.monoid is not None]
    root = members[-1]
    names = tuple(e.single_variable() for e in root.write.index)
    if len(updates) != 1 or len(names) < 2 or None in names or names != tuple(i.name for i in root.iters):
        return None
    update = updates[0]
    inits = [b for b in members if b.write.buffer == update.write.buffer and b is not update]
    own = tuple(dict.fromkeys(b.write.buffer for b in members if b is not root))
    if len(inits) != 1 or own[0] != update.write.buffer or set(own) & set(stored):
        return None
    shape = parts.found[root.write.buffer].shape
    for block in members:
        if tuple(e.single_variable() for e in block.write.index) != names or block.guard:
            return None
    for name in own:
        readers = [(b, r) for b in parts.all_blocks for r in reads(b.value) if r.buffer == name]
        in_place = all(b in members and tuple(e.single_variable() for e in r.index) == names for b, r in readers)
        if parts.found[name].shape != shape or not in_place:
            return None
    return _reducing(parts, Stage(root, inits[0], update, own, members, None))


def _reducing(parts: Anatomy, stage: Stage) -> Stage | None:
    """The stage with its reduction recognised; None if no register tile serves it."""
    match, taps = product(stage.update), stage.reduce
    if not taps:
        return None
    if match is not None and not match.by_channel:
        panel = parts.found[match.panel.buffer]
        axis = axis_of(match.panel, match.vector.name)
        lies = panel.scope == "constant" or (panel.scope == "global" and axis == len(match.panel.index) - 1)
        if axis is None or not lies or match.panel.guard or match.panel.buffer in parts.temporaries:
            return None
        return Stage(stage.root, stage.init, stage.update, stage.locals, stage.members, match)
    return stage if along_channels(stage.update, stage.axes[-1]) else None


def read_of(stage: Stage, buffer: str) -> Read | None:
    """How a stage's reduction reads a buffer; None if it does not, or in several ways."""
    found = [r for r in reads(stage.update.value) if r.buffer == buffer]
    return found[0] if len({r.index for r in found}) == 1 else None
