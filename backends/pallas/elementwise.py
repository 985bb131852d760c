"""The functions of scalar expressions as `jax.lax` operations on tiles, and reductions along axes of tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from ...ir import dtypes
from ...ir.elementwise import SIGNATURES
from . import integers
from .errors import PallasError
from .integers import Array

_RENAMED: dict[str, Callable[..., Array]] = {
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
    "not": lax.bitwise_not,
    "larger": lambda x, y: jnp.where(y > x, y, x),
    "decay": lax.exp,
}
_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "sum": jnp.sum,
    "prod": jnp.prod,
    "max": jnp.max,
    "larger": jnp.nanmax,
    "min": jnp.min,
    "and": jnp.bitwise_and.reduce,
    "or": jnp.bitwise_or.reduce,
}


def apply(op: str, args: Sequence[Array], dtype: str, params: Sequence[int | str] = ()) -> Array:
    """Apply an elementwise function to tiles, which are broadcast to a common shape.

    Args:
        op: its `jax.lax` name (see `ir.elementwise`).
        args: the operands, of one rank.
        dtype: element type of the result.
        params: static parameters.

    Raises:
        PallasError: the function is not known.
    """
    shape = jnp.broadcast_shapes(*(a.shape for a in args))
    args = [a if a.shape == shape else jnp.broadcast_to(a, shape) for a in args]
    match op:
        case "copy":
            return args[0]
        case "convert_element_type":
            if dtypes.is_integer(dtype) and jnp.issubdtype(args[0].dtype, jnp.floating):
                return integers.from_float(args[0], dtype)
            return args[0].astype(dtypes.to_numpy(dtype))
        case "div" | "rem" if jnp.issubdtype(args[0].dtype, jnp.integer):
            return integers.divide(op, *args)
        case "shift_left" | "shift_right_logical" | "shift_right_arithmetic":
            return integers.shift(op, *args)
        case "bitcast_convert_type":
            return lax.bitcast_convert_type(args[0], dtypes.to_numpy(dtype))
        case "integer_pow":
            return lax.integer_pow(args[0], int(params[0]))
        case "round":
            return lax.round(args[0], lax.RoundingMethod(int(params[0])))
    function = _RENAMED.get(op) or (getattr(lax, op, None) if op in SIGNATURES else None)
    if function is None:
        raise PallasError(f"expected an elementwise function of jax.lax, found {op!r}")
    return function(*args)


def reduce(monoid: str, tile: Array, axes: tuple[int, ...]) -> Array:
    """Combine a tile along axes, which stay with one element.

    Args:
        monoid: name of a monoid of `ir.monoid`.
        tile: what to reduce.
        axes: of the tile.
    """
    if tile.dtype == jnp.bool_:
        return (jnp.all if monoid in ("and", "min", "prod") else jnp.any)(tile, axis=axes, keepdims=True)
    extra = {"dtype": tile.dtype} if monoid in ("sum", "prod") else {}
    return _REDUCTIONS[monoid](tile, axis=axes, keepdims=True, **extra)
