"""The box of a Block while its code is emitted: where iterators lie in tiles, and index expressions as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from ...ir.affine import AffineExpr, FloorDiv, Mod, Range, var
from ...ir.loop import Block
from .elementwise import Array

Labels = tuple[str | int | None, ...]
"""What each dimension of a tile runs along: an iterator (or an axis of a buffer), or None where it has one element."""


def relayout(tile: Array, labels: Labels, wanted: Labels) -> Array:
    """The tile with its dimensions in another order; labels that are not wanted belong to single elements."""
    sizes = {label: n for label, n in zip(labels, tile.shape, strict=True) if label is not None}
    shape = tuple(1 if label is None else sizes.get(label, 1) for label in wanted)
    here = [label for label in labels if label is not None and label in wanted]
    there = [label for label in wanted if label is not None and label in sizes]
    if here != there:
        compact = tile.reshape([sizes[label] for label in here])
        tile = jnp.transpose(compact, [here.index(label) for label in there])
    return tile if tile.shape == shape else tile.reshape(shape)


def evaluate(expr: AffineExpr, loops: Mapping[str, Any]) -> Any:
    """The value of an expression of loops: a number if it is constant, else traced."""
    total: Any = expr.const
    for atom, k in expr.terms:
        if isinstance(atom, str):
            value = loops[atom]
        else:
            inner = evaluate(atom.operand, loops)
            value = inner // atom.divisor if isinstance(atom, FloorDiv) else inner % atom.divisor
        total = _plus(total, value, k)
    return total


def _plus(total: Any, value: Any, factor: int) -> Any:
    """``total + value * factor`` without operations that do nothing: each would stand in the kernel."""
    if factor == -1:
        return total - value
    term = value if factor == 1 else value * factor
    return term if isinstance(total, int) and total == 0 else total + term


class Box:
    """The box of one Block.

    Iterators of one value are no dimensions: they are replaced by their value. The others are counted from 0.

    Args:
        block: the Block.
        loops: values of the loops around it, numbers or traced.
        ranges: their intervals.
    """

    def __init__(self, block: Block, loops: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
        self.extents = {i.name: i.extent for i in block.iters if i.extent > 1}
        self.reduced = frozenset(i.name for i in block.iters if i.kind == "reduce" and i.extent > 1)
        self.ranges = {**ranges, **{name: (0, n - 1) for name, n in self.extents.items()}}
        self._loops = loops
        self._env = {i.name: i.lower + var(i.name) if i.extent > 1 else i.lower for i in block.iters}
        limits = [i.limit - 1 - var(i.name) for i in block.iters if i.limit is not None]
        self.limits = tuple(map(self.resolve, limits))
        self.guard = tuple(map(self.resolve, block.guard))

    @property
    def labels(self) -> Labels:
        """The box's own layout: iterators in order, in at least two dimensions."""
        return padded(tuple(self.extents))

    def shape(self, labels: Labels) -> tuple[int, ...]:
        """Extents of a tile."""
        return tuple(self.extents.get(str(label), 1) for label in labels)

    def names(self, expr: AffineExpr) -> frozenset[str]:
        """The iterators that a resolved expression depends on."""
        return expr.variables() & self.extents.keys()

    def resolve(self, expr: AffineExpr) -> AffineExpr:
        """An expression of loops and iterators in terms of iterators that count from 0."""
        return expr.substitute(self._env).simplify(self.ranges)

    def always(self, condition: AffineExpr) -> bool:
        """Whether a resolved condition ``>= 0`` holds at every point of the whole box."""
        return condition.bounds(self.ranges)[0] >= 0

    def scalar(self, expr: AffineExpr) -> Any:
        """The value of an expression of loops: a number if it is constant, else traced."""
        return evaluate(expr, self._loops)

    def values(self, expr: AffineExpr, labels: Labels) -> Array:
        """A resolved expression at every point, as a tile of int32."""
        inside = AffineExpr(tuple(t for t in expr.terms if self._depends(t[0])))
        total: Any = self.scalar(expr - inside)
        for atom, k in inside.terms:
            total = _plus(total, self._atom(atom, labels), k)
        if not inside.terms:
            return jnp.full((1,) * len(labels), total, jnp.int32)
        return total

    def _depends(self, atom: Any) -> bool:
        return bool(AffineExpr(((atom, 1),)).variables() & self.extents.keys())

    def _atom(self, atom: str | FloorDiv | Mod, labels: Labels) -> Array:
        if isinstance(atom, str):
            axis = labels.index(atom)
            return lax.broadcasted_iota(jnp.int32, self.shape(tuple(n if n == atom else None for n in labels)), axis)
        inner = self.values(atom.operand, labels)
        return inner // atom.divisor if isinstance(atom, FloorDiv) else inner % atom.divisor

    def mask(self, conditions: Iterable[AffineExpr], labels: Labels) -> Array | None:
        """Where all resolved conditions ``>= 0`` hold; None where they hold everywhere."""
        mask: Array | None = None
        for condition in conditions:
            if self.always(condition):
                continue
            holds = self.values(condition, labels) >= 0
            mask = holds if mask is None else jnp.logical_and(mask, holds)
        return mask


def padded(names: Labels) -> Labels:
    """Labels of at least two dimensions."""
    return (None,) * (2 - len(names)) + names
