"""Which programs call LAPACK, whose threads go on spinning for a while after a call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from ..ir.graph import Graph
from .avals import type_of
from .jaxpr import JaxOp

_LAPACK = frozenset(
    "cholesky cholesky_update eig eigh geqp3 geqrf hessenberg householder_product lu ormqr qr schur svd "
    "triangular_solve tridiagonal".split()
)
"""Primitives that factorise their first operand or solve with it."""
_SMALL = 96 * 96
"""Elements of a matrix below which LAPACK computes on the calling thread."""


def uses_solver_threads(graph: Graph) -> bool:
    """Whether a program factorises or solves with matrices that are large enough for LAPACK's own threads."""
    seen: set[int] = set()
    for op in graph.ops:
        if op.opcode in _LAPACK and _is_large(graph.types[op.operands[0]].shape):
            return True
        if isinstance(op.ref, JaxOp) and any(_solves(eqn) for eqn in _nested(op.ref.params, seen)):
            return True
    return False


def _solves(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in _LAPACK and _is_large(type_of(eqn.invars[0].aval).shape)


def _is_large(shape: tuple[int, ...]) -> bool:
    return math.prod(shape[-2:]) >= _SMALL


def _nested(params: dict[str, Any], seen: set[int]) -> Iterator[JaxprEqn]:
    """The equations of functions that are parameters, and of those in them, each function once."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = part.jaxpr if isinstance(part, ClosedJaxpr) else part
            if isinstance(jaxpr, Jaxpr) and id(jaxpr) not in seen:
                seen.add(id(jaxpr))
                for eqn in jaxpr.eqns:
                    yield eqn
                    yield from _nested(eqn.params, seen)
