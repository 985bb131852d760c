"""Normal form of a fresh workload: axes of size 1 dropped, axes that are always used together merged.

A 1x1 convolution over ``(1, 56, 56, 64)`` becomes a contraction over ``(3136, 64)``, so that one schedule serves both
and equal work has one digest. Buffers keep their row-major order of elements, so parameters need no conversion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..ir.affine import AffineExpr, constant
from ..ir.loop import (
    Access,
    Alloc,
    Block,
    Buffer,
    Expr,
    Index,
    IndexValue,
    Iter,
    LoopFunc,
    Read,
    Stmt,
    Where,
    blocks,
    buffers,
    map_block_indices,
    map_expr,
    reads,
    rewrite,
    subexpressions,
)


def collapse(func: LoopFunc) -> LoopFunc:
    """Drop unit axes and merge axes; the result computes the same from arrays of the new shapes."""
    func = _drop_units(func)
    changed = True
    while changed:
        changed = False
        for buffer in func.params:
            for axis in range(len(buffer.shape) - 1):
                merged = _try_merge(func, buffer.name, axis)
                if merged is not None:
                    func, changed = merged, True
                    break
            if changed:
                break
    return func


def _drop_units(func: LoopFunc) -> LoopFunc:
    found = buffers(func)

    def kept(name: str, index: Index) -> Index:
        return tuple(e for e, n in zip(index, found[name].shape, strict=True) if n != 1)

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Alloc):
            return replace(s, buffer=_without_units(s.buffer))
        if not isinstance(s, Block):
            return s
        env = {i.name: constant(0) for i in s.iters if i.extent == 1}
        s = map_block_indices(replace(s, iters=tuple(i for i in s.iters if i.extent != 1)), lambda e: e.substitute(env))
        value = map_expr(s.value, lambda e: replace(e, index=kept(e.buffer, e.index)) if isinstance(e, Read) else e)
        return replace(s, write=Access(s.write.buffer, kept(s.write.buffer, s.write.index)), value=value)

    body = rewrite(func.body, visit)
    assert body is not None
    return replace(func, params=tuple(map(_without_units, func.params)), body=body)


def _without_units(buffer: Buffer) -> Buffer:
    return replace(buffer, shape=tuple(n for n in buffer.shape if n != 1))


@dataclass(slots=True)
class _Merge:
    """Pairs that have to merge together: axes of buffers, and iterators of Blocks."""

    axes: dict[str, int] = field(default_factory=dict)
    iters: dict[str, tuple[str, str]] = field(default_factory=dict)


def _try_merge(func: LoopFunc, buffer: str, axis: int) -> LoopFunc | None:
    """Merge ``axis`` with the next one, with all that this entails elsewhere; None if something speaks against it."""
    merge = _Merge({buffer: axis})
    all_blocks = list(blocks(func.body))
    size = -1
    while size != len(merge.axes) + len(merge.iters):
        size = len(merge.axes) + len(merge.iters)
        if not all(_entail(block, merge, buffers(func)) for block in all_blocks):
            return None
    return _apply(func, merge)


def _accesses(block: Block) -> list[tuple[str, Index, bool]]:
    found = [(r.buffer, r.index, bool(r.guard)) for r in reads(block.value)]
    return [*found, (block.write.buffer, block.write.index, bool(block.guard))]


def _entail(block: Block, merge: _Merge, found: dict[str, Buffer]) -> bool:
    accesses = _accesses(block)
    for name, index, _ in accesses:
        if name in merge.axes:
            axis = merge.axes[name]
            pair = (index[axis].single_variable(), index[axis + 1].single_variable())
            if not _mergeable(block, pair, found[name].shape[axis : axis + 2]):
                return False
            if merge.iters.setdefault(block.name, pair) != pair:  # type: ignore[arg-type]
                return False
    if block.name not in merge.iters:
        return True
    first, second = merge.iters[block.name]
    for name, index, guarded in accesses:
        where = [n for n, e in enumerate(index) if e.variables() & {first, second}]
        if not where:
            continue
        if guarded or len(where) != 2 or where[1] != where[0] + 1:
            return False
        if (index[where[0]].single_variable(), index[where[1]].single_variable()) != (first, second):
            return False
        if merge.axes.setdefault(name, where[0]) != where[0]:
            return False
    return not _used_elsewhere(block, {first, second})


def _mergeable(block: Block, pair: tuple[str | None, str | None], shape: tuple[int, ...]) -> bool:
    iters = [block.iterator(name) if name else None for name in pair]
    if any(i is None for i in iters) or pair[0] == pair[1]:
        return False
    order = [i.name for i in block.iters]
    if order.index(pair[1] or "") != order.index(pair[0] or "") + 1:
        return False
    kinds = {i.kind for i in iters if i is not None}
    return len(kinds) == 1 and all(i is not None and i.extent == n for i, n in zip(iters, shape, strict=True))


def _used_elsewhere(block: Block, names: set[str]) -> bool:
    """Whether guards, choices, or values made of indices, use one of the iterators."""
    return any(e.variables() & names for e in (*block.guard, *_conditions(block.value)))


def _conditions(value: Expr) -> Iterator[AffineExpr]:
    for expr in subexpressions(value):
        match expr:
            case Read():
                yield from expr.guard
            case IndexValue():
                yield expr.expr
            case Where():
                yield expr.condition
            case _:
                pass


def _apply(func: LoopFunc, merge: _Merge) -> LoopFunc:
    def shape(buffer: Buffer) -> Buffer:
        axis = merge.axes.get(buffer.name)
        if axis is None:
            return buffer
        both = buffer.shape[axis] * buffer.shape[axis + 1]
        return replace(buffer, shape=(*buffer.shape[:axis], both, *buffer.shape[axis + 2 :]))

    def index(name: str, old: Index) -> Index:
        axis = merge.axes.get(name)
        if axis is None:
            return old
        return (*old[:axis], old[axis], *old[axis + 2 :])

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Alloc):
            return replace(s, buffer=shape(s.buffer))
        if not isinstance(s, Block):
            return s
        value = map_expr(s.value, lambda e: replace(e, index=index(e.buffer, e.index)) if isinstance(e, Read) else e)
        s = replace(s, write=Access(s.write.buffer, index(s.write.buffer, s.write.index)), value=value)
        pair = merge.iters.get(s.name)
        return s if pair is None else replace(s, iters=_merged(s.iters, pair))

    body = rewrite(func.body, visit)
    assert body is not None
    return replace(func, params=tuple(map(shape, func.params)), body=body)


def _merged(iters: tuple[Iter, ...], pair: tuple[str, str]) -> tuple[Iter, ...]:
    second = next(i for i in iters if i.name == pair[1])
    return tuple(
        replace(i, extent=i.extent * second.extent) if i.name == pair[0] else i for i in iters if i is not second
    )
