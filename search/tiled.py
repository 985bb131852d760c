"""Workloads that come as loops over tiles: their loops are shared, their innermost axes are vectors."""

from __future__ import annotations

from ..ir.loop import For, LoopFunc, Stmt, blocks, walk
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .sketch import Sketch
from .steps import share


def tiled(func: LoopFunc, target: Target) -> Sketch | None:
    """Vectors along the last axis that each Block writes; the outermost loops shared among threads."""
    if not any(isinstance(s, For) for s in walk(func.body)):
        return None
    return Sketch("tiled", {}, {}, lambda _: _trace(func, target))


def _trace(func: LoopFunc, target: Target) -> Trace:
    steps: list[Step] = []
    for block in blocks(func.body):
        variables = block.write.index[-1].variables() if block.write.index else frozenset[str]()
        last = [i.name for i in block.iters if i.name in variables]
        if last:
            steps.append(Step("vectorize", block.name, (last[-1],)))
    nest = _perfect_nest(func.body)
    if nest:
        steps += share([(loop.name, loop.upper[0].const, False) for loop in nest], target.threads)
    return tuple(steps)


def _perfect_nest(stmt: Stmt) -> list[For]:
    """The loops that contain nothing but each other, from the outermost on."""
    found: list[For] = []
    while isinstance(stmt, For):
        found.append(stmt)
        stmt = stmt.body
    return found
