"""Sums of products: which reductions go to the matrix unit, and how."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from ...ir import dtypes
from ...ir.affine import AffineExpr
from ...ir.loop import Apply, Block, Expr, IndexValue, Read, reads
from .box import Box, Labels
from .elementwise import Array
from .routes import Route

_NARROW = ("bfloat16", "float16")
_MULTIPLIED = ("float32", "bfloat16", "float16", "int32")

Side = tuple[Expr, tuple[str, ...]]
"""A factor and the iterators that it depends on, in the order in which its memory runs along them."""


@dataclass(frozen=True, slots=True)
class Product:
    """A sum of products of two factors.

    Args:
        left: the first factor.
        right: the second one.
        batch: data iterators that both depend on.
        summed: reduce iterators, which both depend on.
    """

    left: Side
    right: Side
    batch: tuple[str, ...]
    summed: tuple[str, ...]


def match(block: Block, box: Box, conditions: list[AffineExpr], route: Route) -> Product | None:
    """See a Block as a product of tiles.

    Args:
        block: a reduction.
        box: its box.
        conditions: those that exclude points along reduce iterators.
        route: says which products the matrix unit takes.

    Returns:
        The product, or None if the Block is no sum of products of two factors that share every reduce iterator, if an
        excluded point is not excluded for whole rows and columns, or if the route does not take such a product.
    """
    value = block.value
    if block.monoid != "sum" or not isinstance(value, Apply) or value.op != "mul" or not box.reduced:
        return None
    if value.dtype not in _MULTIPLIED or any(box.names(c) - box.reduced for c in conditions):
        return None
    first, second = _narrowed(value.args[0], value.args[1])
    left, right = (first, _order(first, box)), (second, _order(second, box))
    shared = set(left[1]) & set(right[1])
    if not box.reduced <= shared:
        return None
    batch = tuple(n for n in left[1] if n in shared and n not in box.reduced)
    summed = tuple(n for n in left[1] if n in box.reduced)
    found = Product(left, right, batch, summed)
    return found if _taken(found, box, route) else None


def _narrowed(left: Expr, right: Expr) -> tuple[Expr, Expr]:
    """The factors before they were widened: products of narrow numbers are exact in float32."""
    inner: list[Expr] = []
    for side in (left, right):
        if not isinstance(side, Apply) or side.op != "convert_element_type" or side.dtype != "float32":
            return left, right
        inner.append(side.args[0])
    narrow = inner[0].dtype == inner[1].dtype and inner[0].dtype in _NARROW
    return (inner[0], inner[1]) if narrow else (left, right)


def _order(expr: Expr, box: Box) -> tuple[str, ...]:
    """The iterators of a factor, those of its first read first."""
    found: dict[str, None] = {}
    for read in reads(expr):
        for index in read.index:
            found.update(dict.fromkeys(sorted(box.names(box.resolve(index)))))
    used = _used(expr, box)
    return (*found, *(n for n in box.extents if n in used and n not in found))


def _used(expr: Expr, box: Box) -> set[str]:
    match expr:
        case Read():
            return {n for e in (*expr.index, *expr.guard) for n in box.names(box.resolve(e))}
        case IndexValue():
            return set(box.names(box.resolve(expr.expr)))
        case Apply():
            return set().union(*(_used(a, box) for a in expr.args))
        case _:
            return set()


def _taken(product: Product, box: Box, route: Route) -> bool:
    if route.flat_products and (product.batch or any(len(names) > 2 for _, names in (product.left, product.right))):
        return False
    sizes = [box.extents[n] for n in (*product.left[1], *product.right[1]) if n not in product.batch]
    unit = any(set(names) == set(product.summed) for _, names in (product.left, product.right))
    return min([1, *sizes] if unit else sizes) >= route.least_product


def multiply(product: Product, left: Array, right: Array, dtype: str) -> tuple[Array, Labels]:
    """Multiply two tiles laid out as the product's factors.

    Args:
        product: what to multiply.
        left: the first factor, in at least two dimensions.
        right: the second one.
        dtype: element type of the sum.

    Returns:
        The product and what its dimensions run along.
    """
    sides = [(None,) * (2 - len(names)) + names for _, names in (product.left, product.right)]
    contract = tuple(tuple(labels.index(n) for n in product.summed) for labels in sides)
    batch = tuple(tuple(labels.index(n) for n in product.batch) for labels in sides)
    shared = (*product.batch, *product.summed)
    free = [n for labels in sides for n in labels if n not in shared]
    wide = left.dtype == jnp.float32
    tile = lax.dot_general(
        left,
        right,
        ((contract[0], contract[1]), (batch[0], batch[1])),
        precision=lax.Precision.HIGHEST if wide else None,
        preferred_element_type=jnp.int32 if dtype == "int32" else jnp.float32,
    )
    return tile.astype(dtypes.to_numpy(dtype)), (*product.batch, *free)
