"""Windows over a constant: how many values an average over padded borders counts."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..ir import dtypes
from ..ir.graph import Op
from .manager import Rewriter

_EXACT = 1 << 24
"""Sums of integers below this are exact in float32 in any order."""


def window_of_constant(value: float | int | bool | None, op: Op, r: Rewriter) -> int | None:
    """The sum of one number over windows, as a small constant that is spread over the other axes.

    Args:
        value: the number that every element of the operand is, or None.
        op: a ``reduce_window_sum``.
        r: the graph that is rewritten.

    Returns:
        The new value, or None: not a whole number, sums that could round, or windows with gaps between inputs.
    """
    whole = value is not None and math.isfinite(value) and value == int(value)
    if value is None or not whole or op.type.dtype not in ("float32", "int32"):
        return None
    sizes, padding = op.params["window_dimensions"], op.params["padding"]
    if any(d != 1 for d in op.params["base_dilation"]) or abs(value) * np.prod(sizes, dtype=float) >= _EXACT:
        return None
    source = r.graph.types[op.operands[0]].shape
    settings = zip(sizes, op.params["window_strides"], op.params["window_dilation"], padding, strict=True)
    moved = [axis for axis, (size, pad) in enumerate(zip(sizes, padding, strict=True)) if size != 1 or any(pad)]
    counts = [_count(n, out, *s) for n, out, s in zip(source, op.type.shape, settings, strict=True)]
    product = functools.reduce(np.multiply.outer, [counts[axis] for axis in moved], np.asarray(1))
    table = (product * int(value)).astype(dtypes.to_numpy(op.type.dtype))
    constant = r.builder.constant(table)
    return r.add1("broadcast_in_dim", constant, shape=op.type.shape, broadcast_dimensions=tuple(moved))


def _count(inputs: int, outputs: int, size: int, stride: int, dilation: int, pad: tuple[int, int]) -> np.ndarray:
    """int[outputs], inputs inside each window along one axis."""
    places = np.arange(outputs)[:, None] * stride + np.arange(size)[None] * dilation - pad[0]
    return ((places >= 0) & (places < inputs)).sum(axis=1)
