"""Values that need no memory: constants and masks that are functions of their indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.affine import AffineExpr, constant
from ..ir.graph import Graph
from ..ir.infer import COMPARE
from ..ir.loop import Const, Expr, Index, IndexValue

VIEWS_OF_INDICES = frozenset("reshape squeeze transpose broadcast_in_dim slice rev".split())
_CHEAP = COMPARE | frozenset("and or not xor add sub mul neg max min select_n convert_element_type copy".split())
_MOST = 1 << 62
"""Smaller integers, and their differences, are exact as indices."""


def closed_form(array: np.ndarray[Any, Any], dtype: str, index: Index) -> Expr | None:
    """One element of a constant as an expression of its index, without the array; None if it has no such form.

    Args:
        array: the constant.
        dtype: its element type.
        index: one expression per axis.

    Returns:
        A number if all elements are equal, an index value if integers grow evenly along every axis.
    """
    steps = _steps(array, dtype)
    if steps is None:
        return None
    if not any(steps):
        return Const(array.reshape(-1)[0].item(), dtype)
    place: AffineExpr = constant(int(array.reshape(-1)[0]))
    for step, i in zip(steps, index, strict=True):
        place = place + i * step
    return IndexValue(place, dtype)


def has_closed_form(array: np.ndarray[Any, Any], dtype: str) -> bool:
    """Whether `closed_form` finds one."""
    return _steps(array, dtype) is not None


def _steps(array: np.ndarray[Any, Any], dtype: str) -> tuple[int, ...] | None:
    """By how much elements grow along each axis, if that is the same everywhere."""
    if not array.size:
        return None
    first = np.asarray(array.reshape(-1)[:1])
    if array.size == 1 or _all_are(array, first):
        return (0,) * array.ndim
    if not dtypes.is_integer(dtype) or max(abs(int(array.min())), abs(int(array.max()))) >= _MOST:
        return None
    corner = (0,) * array.ndim
    steps = tuple(
        int(array[(*corner[:a], 1, *corner[a + 1 :])]) - int(array[corner]) if n > 1 else 0
        for a, n in enumerate(array.shape)
    )
    grown = np.full(array.shape, int(array[corner]), np.int64)
    for axis, step in enumerate(steps):
        shape = [1] * array.ndim
        shape[axis] = -1
        grown += (np.arange(array.shape[axis], dtype=np.int64) * step).reshape(shape)
    return steps if np.array_equal(grown, array) else None


def _all_are(array: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> bool:
    """Whether all elements are the first one, to the last bit."""
    return bool(
        np.all(np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1) == first.view(np.uint8))
    )


def of_indices(graph: Graph) -> frozenset[int]:
    """Values that a few instructions compute from their indices alone, like a causal mask.

    They are computed wherever they are read instead of being stored.
    """
    found: set[int] = set()
    for op in graph.ops:
        cheap = op.opcode == "iota" or op.opcode in _CHEAP | VIEWS_OF_INDICES
        if cheap and not op.opaque and not op.effects and all(v in found or _formed(graph, v) for v in op.operands):
            found.update(op.results)
    return frozenset(found)


def _formed(graph: Graph, value: int) -> bool:
    array = graph.constant(value)
    return array is not None and has_closed_form(array, graph.types[value].dtype)
