"""Operations on integers that give what JAX defines for every operand.

The compilers below Pallas leave division by zero, shifts by the width or more and conversions of floats that are too
large undefined. JAX does not, and Pallas' interpreter would not show the difference.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from ...ir import dtypes

Array = Any
"""A traced array inside a kernel."""


def divide(op: str, dividend: Array, divisor: Array) -> Array:
    """``lax.div`` or ``lax.rem`` of integers.

    Args:
        op: which.
        dividend: a tile.
        divisor: another one; by zero, the quotient has all bits set and the remainder is the dividend.
    """
    limits = jnp.iinfo(dividend.dtype)
    zero = divisor == 0
    unsafe = zero
    if limits.min < 0:
        # The quotient does not fit: it wraps around, as if the divisor were 1.
        unsafe = zero | ((dividend == limits.min) & (divisor == -1))
    safe = jnp.where(unsafe, jnp.ones_like(divisor), divisor)
    if op == "rem":
        return jnp.where(zero, dividend, lax.rem(dividend, safe))
    return jnp.where(zero, jnp.full_like(dividend, -1 if limits.min < 0 else limits.max), lax.div(dividend, safe))


def shift(op: str, value: Array, amount: Array) -> Array:
    """A shift of integers.

    Args:
        op: its `jax.lax` name.
        value: what is shifted.
        amount: by how much; a negative one, or the width and more, shifts all bits out.
    """
    last = jnp.iinfo(value.dtype).bits - 1
    inside = (amount >= 0) & (amount <= last)
    if op == "shift_right_arithmetic":
        return lax.shift_right_arithmetic(value, jnp.where(inside, amount, jnp.full_like(amount, last)))
    shifted = getattr(lax, op)(value, jnp.where(inside, amount, jnp.zeros_like(amount)))
    return jnp.where(inside, shifted, jnp.zeros_like(shifted))


def from_float(value: Array, dtype: str) -> Array:
    """A conversion to integers.

    Args:
        value: floats; NaN becomes 0, what is too large the largest integer, what is too small the smallest.
        dtype: an integer type.
    """
    limits = jnp.iinfo(dtypes.to_numpy(dtype))
    # In float32 both bounds are exact: the smallest integer and the power of two behind the largest one.
    wide = value.astype(jnp.float32) if value.dtype.itemsize < 4 else value
    large, small = wide >= float(limits.max + 1), wide <= float(limits.min)
    inside = ~(large | small | (wide != wide))
    found = jnp.where(inside, wide, jnp.zeros_like(wide)).astype(limits.dtype)
    found = jnp.where(large, jnp.full_like(found, limits.max), found)
    return jnp.where(small, jnp.full_like(found, limits.min), found)
