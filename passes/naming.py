"""Equal names for the iterators of axes that belong together, whatever shapes the operations had that made them.

A convolution of ``(1, 64, 56, 56)`` whose bias is added after its first axis is dropped has iterators ``i1, i2, i3``
in one Block and ``i0, i1, i2`` in the other. What compares Blocks goes by names, so they are made the same.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import var
from ..ir.loop import Block, LoopFunc, Stmt, buffers, map_block_indices, reads, rewrite

_Prefix = tuple[int, ...]


def align_names(func: LoopFunc) -> LoopFunc:
    """Name each data iterator as the first Block does that writes an axis behind axes of the same extents.

    Where a Block reads the results of a reduction that lack some of its axes, the axes they have are named as there.
    """
    shapes = {name: b.shape for name, b in buffers(func).items()}
    inputs = {b.name for b in func.inputs}
    usual: dict[_Prefix, str] = {}
    writers: dict[str, tuple[str | None, ...]] = {}

    def visit(s: Stmt) -> Stmt:
        if not isinstance(s, Block):
            return s
        lacking = {n: names for n, names in writers.items() if n not in inputs}
        s = _renamed(s, shapes[s.write.buffer], usual, _as_read(s, lacking))
        writers.setdefault(s.write.buffer, tuple(e.single_variable() for e in s.write.index))
        return s

    body = rewrite(func.body, visit)
    assert body is not None
    return replace(func, body=body)


def _as_read(block: Block, writers: dict[str, tuple[str | None, ...]]) -> dict[str, str]:
    """What the axes of smaller buffers that a Block reads are called where they are written, by its own iterators."""
    data = {i.name for i in block.iters if i.kind == "data"}
    found: dict[str, str] = {}
    for read in reads(block.value):
        if len(read.index) >= len(data):
            continue
        for expr, name in zip(read.index, writers.get(read.buffer, ()), strict=False):
            own = expr.single_variable()
            if own in data and own is not None and name is not None and name not in found.values():
                found.setdefault(own, name)
    return found


def _renamed(block: Block, shape: tuple[int, ...], usual: dict[_Prefix, str], as_read: dict[str, str]) -> Block:
    names = [e.single_variable() for e in block.write.index]
    if any(n is None or block.iterator(n) is None for n in names) or len(set(names)) != len(names):
        return block
    prefixes = [shape[: n + 1] for n in range(len(shape))]
    wanted = {old: usual.get(p, old) for p, old in zip(prefixes, names, strict=True) if old is not None}
    wanted = _without_clashes(wanted, as_read)
    after = [wanted.get(i.name, i.name) for i in block.iters]
    if len(set(after)) != len(after):
        return block
    if not as_read:
        usual.update({p: wanted[old] for p, old in zip(prefixes, names, strict=True) if old is not None})
    if all(old == new for old, new in wanted.items()):
        return block
    env = {old: var(new) for old, new in wanted.items()}
    iters = tuple(replace(i, name=name) for i, name in zip(block.iters, after, strict=True))
    return map_block_indices(replace(block, iters=iters), lambda e: e.substitute(env))


def _without_clashes(wanted: dict[str, str], fixed: dict[str, str]) -> dict[str, str]:
    """``wanted`` names, with some of them fixed; who loses its name to one of those gets one that became free."""
    taken = set(fixed.values())
    free = iter([n for n in (*wanted.values(), *wanted) if n not in taken])
    rest = {old: new for old, new in wanted.items() if old not in fixed}
    kept = {old: new for old, new in rest.items() if new not in taken}
    spare = (n for n in free if n not in kept.values())
    return {**fixed, **kept, **{old: next(spare, old) for old in rest if old not in kept}}
