"""Emission of one Block: its box as operations on tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ...ir import dtypes
from ...ir.affine import AffineExpr, Range
from ...ir.loop import Access, Apply, Block, Const, Expr, IndexValue, Read
from ...ir.monoid import MONOIDS
from . import elementwise
from .box import Box, Labels, padded
from .elementwise import Array
from .errors import PallasError
from .products import Product, match, multiply
from .routes import Route
from .separate import separated
from .storage import Slice, Storage


def run_block(
    block: Block, loops: Mapping[str, Any], ranges: Mapping[str, Range], memory: Mapping[str, Storage], route: Route
) -> None:
    """Emit one Block.

    Args:
        block: the Block.
        loops: values of the loops around it.
        ranges: their intervals.
        memory: storage of every buffer that it uses.
        route: the compiler that the code is meant for.

    Raises:
        PallasError: it reads or writes what no tile holds.
    """
    for part in separated(block, ranges):
        _Emission(part, Box(part, loops, ranges), memory, route).run()


class _Emission:
    def __init__(self, block: Block, box: Box, memory: Mapping[str, Storage], route: Route) -> None:
        self.block = block
        self.box = box
        self.memory = memory
        self.route = route
        self.numbers: dict[int, int] = {}
        self.meanings: dict[Any, int] = {}
        self.done: dict[tuple[int, Labels], Array] = {}

    def run(self) -> None:
        if self.block.monoid is None:
            self.plain()
        else:
            self.reduction(self.block.monoid)

    def plain(self) -> None:
        block, box = self.block, self.box
        labels = box.labels
        tile = self.value(block.value, labels)
        conditions = list(box.limits)
        if block.guard_mode == "zero":
            holds = box.mask(box.guard, labels)
            tile = tile if holds is None else jnp.where(holds, tile, jnp.zeros((), tile.dtype))
        else:
            conditions += box.guard
        self.memory[block.write.buffer].store(self.slices(block.write), tile, labels, box, conditions)

    def reduction(self, monoid: str) -> None:
        block, box = self.block, self.box
        everywhere = [*box.limits, *box.guard]
        data = [c for c in everywhere if not box.names(c) & box.reduced]
        inside = [c for c in everywhere if box.names(c) & box.reduced and not box.always(c)]
        product = match(block, box, inside, self.route)
        if product is not None:
            tile, labels = self.product(product, inside)
        else:
            tile, labels = self.reduced(monoid, inside)
        slices, storage = self.slices(block.write), self.memory[block.write.buffer]
        old = storage.load(slices, labels, box)
        tile = elementwise.apply(MONOIDS[monoid].combine, [old, tile], block.value.dtype)
        storage.store(slices, tile, labels, box, data)

    def reduced(self, monoid: str, inside: list[AffineExpr]) -> tuple[Array, Labels]:
        """The value combined over the reduce iterators, excluded points replaced by the identity."""
        box = self.box
        labels = box.labels
        dtype = self.block.value.dtype
        tile = jnp.broadcast_to(self.value(self.block.value, labels), box.shape(labels))
        mask = box.mask(inside, labels)
        if mask is not None:
            identity = jnp.asarray(MONOIDS[monoid].identity(dtype), dtypes.to_numpy(dtype))
            tile = jnp.where(mask, tile, identity)
        axes = tuple(n for n, label in enumerate(labels) if label in box.reduced)
        if axes:
            tile = elementwise.reduce(monoid, tile, axes)
        return tile, tuple(None if label in box.reduced else label for label in labels)

    def product(self, product: Product, inside: list[AffineExpr]) -> tuple[Array, Labels]:
        """A sum of products on the matrix unit; excluded terms are zero on both sides, so that none is NaN."""
        sides: list[Array] = []
        for expr, names in (product.left, product.right):
            labels = padded(names)
            tile = jnp.broadcast_to(self.value(expr, labels), self.box.shape(labels))
            mask = self.box.mask(inside, labels)
            sides.append(tile if mask is None else jnp.where(mask, tile, jnp.zeros((), tile.dtype)))
        return multiply(product, sides[0], sides[1], self.block.value.dtype)

    # ---- expressions

    def value(self, expr: Expr, labels: Labels) -> Array:
        """An expression as a tile in a layout; it has one element along iterators that it does not depend on."""
        key = (self.number(expr), labels)
        if key not in self.done:
            self.done[key] = self.computed(expr, labels)
        return self.done[key]

    def number(self, expr: Expr) -> int:
        """The same number for expressions that mean the same: trees repeat what they share."""
        known = self.numbers.get(id(expr))
        if known is None:
            match expr:
                case Const():
                    key: Any = (repr(expr.value), expr.dtype)
                case IndexValue():
                    key = (expr.expr, expr.dtype)
                case Read():
                    key = (expr.buffer, expr.index, expr.guard, repr(expr.otherwise))
                case Apply():
                    key = (expr.op, tuple(map(self.number, expr.args)), expr.dtype, expr.params)
            known = self.numbers[id(expr)] = self.meanings.setdefault(key, len(self.meanings))
        return known

    def computed(self, expr: Expr, labels: Labels) -> Array:
        match expr:
            case Const():
                return jnp.full((1,) * len(labels), expr.value, dtypes.to_numpy(expr.dtype))
            case IndexValue():
                return self.box.values(self.box.resolve(expr.expr), labels).astype(dtypes.to_numpy(expr.dtype))
            case Read():
                return self.read(expr, labels)
            case Apply():
                args = [self.value(a, labels) for a in expr.args]
                return elementwise.apply(expr.op, args, expr.dtype, expr.params)

    def read(self, read: Read, labels: Labels) -> Array:
        tile = self.memory[read.buffer].load(self.slices(read), labels, self.box)
        holds = self.box.mask([self.box.resolve(g) for g in read.guard], labels)
        if holds is None:
            return tile
        return jnp.where(holds, tile, jnp.asarray(read.otherwise, tile.dtype))

    def slices(self, access: Access | Read) -> Sequence[Slice]:
        return [self.slice(self.box.resolve(e), access.buffer) for e in access.index]

    def slice(self, index: AffineExpr, buffer: str) -> Slice:
        names = self.box.names(index)
        if not names:
            return Slice(index, 1)
        (name,) = names
        step, count = index.coefficient(name), self.box.extents[name]
        rest = AffineExpr(tuple(t for t in index.terms if t[0] != name), index.const)
        if not step or self.box.names(rest):
            raise PallasError(f"expected an index of {buffer} that moves along one iterator, found {index}")
        if step > 0:
            return Slice(rest, count, step, name)
        return Slice(rest + (count - 1) * step, count, -step, name, reversed=True)
