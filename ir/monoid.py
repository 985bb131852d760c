"""Monoids: what a reduction combines with.

A reduction may be tiled, split across threads and fused with its producer because ``combine`` is associative with an
identity; all monoids here are commutative too. Floating point sums are associative up to rounding, which the accuracy
contract covers. ``larger`` is the maximum that passes over NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import dtypes


@dataclass(frozen=True, slots=True)
class Monoid:
    """An associative, commutative combination with an identity.

    Args:
        name: how Blocks name it.
        combine: the binary elementwise operation (a ``jax.lax`` name).
    """

    name: str
    combine: str

    def identity(self, dtype: str) -> float | int | bool:
        """The value that leaves the other operand as it is, for ``dtype``."""
        match self.name:
            case "sum":
                return 0
            case "prod":
                return 1
            case "or":
                return False if dtype == dtypes.BOOL else 0
            case "and":
                return True if dtype == dtypes.BOOL else _all_ones(dtype)
            case _:
                return _extreme(dtype, lowest=self.name in ("max", "larger"))


def _all_ones(dtype: str) -> int:
    return int(np.iinfo(dtype).max) if dtype in dtypes.UNSIGNED else -1


def _extreme(dtype: str, *, lowest: bool) -> float | int | bool:
    if dtype == dtypes.BOOL:
        return not lowest
    if dtypes.is_float(dtype):
        return float("-inf") if lowest else float("inf")
    info = np.iinfo(dtype)
    return int(info.min if lowest else info.max)


MONOIDS = {
    m.name: m
    for m in (
        Monoid("sum", "add"),
        Monoid("prod", "mul"),
        Monoid("max", "max"),
        Monoid("larger", "larger"),
        Monoid("min", "min"),
        Monoid("and", "and"),
        Monoid("or", "or"),
    )
}
