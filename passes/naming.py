"""Equal names for the iterators of axes that belong together, whatever shapes the operations had that made them.

A convolution of ``(1, 64, 56, 56)`` whose bias is added after its first axis is dropped has iterators ``i1, i2, i3``
in one Block and ``i0, i1, i2`` in the other. What compares Blocks goes by names, so they are made the same.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import var
from ..ir.loop import Block, LoopFunc, Stmt, buffers, map_block_indices, rewrite

_Prefix = tuple[int, ...]


def align_names(func: LoopFunc) -> LoopFunc:
    """Name each data iterator as the first Block does that writes an axis behind axes of the same extents."""
    shapes = {name: b.shape for name, b in buffers(func).items()}
    usual: dict[_Prefix, str] = {}

    def visit(s: Stmt) -> Stmt:
        return _renamed(s, shapes[s.write.buffer], usual) if isinstance(s, Block) else s

    body = rewrite(func.body, visit)
    assert body is not None
    return replace(func, body=body)


def _renamed(block: Block, shape: tuple[int, ...], usual: dict[_Prefix, str]) -> Block:
    names = [e.single_variable() for e in block.write.index]
    if any(n is None or block.iterator(n) is None for n in names) or len(set(names)) != len(names):
        return block
    prefixes = [shape[: n + 1] for n in range(len(shape))]
    wanted = {old: usual.get(p, old) for p, old in zip(prefixes, names, strict=True) if old is not None}
    after = [wanted.get(i.name, i.name) for i in block.iters]
    if len(set(after)) != len(after):
        return block
    usual.update({p: wanted[old] for p, old in zip(prefixes, names, strict=True) if old is not None})
    if all(old == new for old, new in wanted.items()):
        return block
    env = {old: var(new) for old, new in wanted.items()}
    iters = tuple(replace(i, name=name) for i, name in zip(block.iters, after, strict=True))
    return map_block_indices(replace(block, iters=iters), lambda e: e.substitute(env))
