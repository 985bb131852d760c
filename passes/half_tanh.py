"""Hyperbolic tangents moved and scaled to lie between 0 and 1 become logistic functions, which are cheaper.

    c (1 + tanh(u))  ->  2 c logistic(2 u)

GELU's usual approximation is written so. Where the tangent is close to -1 the sum cancels, and the logistic function is
the more accurate of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir import dtypes
from ..ir.graph import Graph, Op
from .manager import Rewriter, RewriteRule, apply_rules
from .simplify import scalar


_TYPES = frozenset(("bfloat16", "float32", "float64"))
_MOST = 1e30
"""Factors up to this can be doubled in all of them. In float16 a factor may overflow that the product does not."""


@dataclass(frozen=True, slots=True)
class HalfTanh:
    """Applies `RULES` until none fits."""

    name: str = "half-tanh"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        return apply_rules(graph, RULES) if any(op.opcode == "tanh" for op in graph.ops) else graph


def _scaled(op: Op, r: Rewriter) -> int | None:
    """``c (1 + tanh(u))``"""
    for factor, value in (op.operands, op.operands[::-1]):
        number, inner = scalar(factor, r), r.producer(value)
        if number is None or abs(number) > _MOST or inner is None or not r.only_user(value):
            continue
        found = _logistic(inner, r)
        if found is not None:
            return found if number == 0.5 else _times(2 * float(number), found, op, r)
    return None


def _moved(op: Op, r: Rewriter) -> int | None:
    """``1 + tanh(u)``"""
    found = _logistic(op, r)
    return None if found is None else _times(2.0, found, op, r)


def _logistic(op: Op, r: Rewriter) -> int | None:
    """``logistic(2 u)`` of an operation that is ``1 + tanh(u)``."""
    if op.opcode != "add" or op.type.dtype not in _TYPES:
        return None
    for one, value in (op.operands, op.operands[::-1]):
        inner = r.producer(value)
        fits = inner is not None and inner.opcode == "tanh" and r.only_user(value) and inner.type.shape == op.type.shape
        doubled = _doubled(inner.operands[0], inner, r) if inner is not None and fits and scalar(one, r) == 1 else None
        if inner is not None and doubled is not None:
            return r.builder.add("logistic", (doubled,), inner.params, [op.type])[0]
    return None


def _doubled(value: int, like: Op, r: Rewriter) -> int | None:
    """``2 u``; a factor of u takes it up, which is exact. None if that might overflow."""
    op = r.producer(value)
    for factor, other in (op.operands, op.operands[::-1]) if op is not None and op.opcode == "mul" else ():
        number = scalar(factor, r)
        if number is not None and r.graph.types[other].shape == like.type.shape:
            return _times(2 * float(number), other, like, r) if abs(number) <= _MOST else None
    return _times(2.0, value, like, r)


def _times(number: float, value: int, like: Op, r: Rewriter) -> int:
    constant = r.builder.constant(np.asarray(number, dtypes.to_numpy(like.type.dtype)), like.type.with_shape(()))
    return r.builder.add("mul", (constant, value), {}, [like.type])[0]


RULES: tuple[RewriteRule, ...] = (
    RewriteRule("scaled-tanh", frozenset(("mul",)), _scaled),
    RewriteRule("moved-tanh", frozenset(("add",)), _moved),
)
"""The rules, in the order in which they are tried."""
