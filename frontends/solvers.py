"""Which programs call LAPACK, whose threads go on spinning for a while after a call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from ..ir.graph import Graph, Op
from .jaxpr import JaxOp

_LAPACK = frozenset(
    "cholesky cholesky_update eig eigh geqp3 geqrf hessenberg householder_product lu ormqr qr schur svd "
    "triangular_solve tridiagonal".split()
)
_SMALL = 96 * 96
"""Elements of a matrix below which LAPACK computes on the calling thread."""


def uses_solver_threads(graph: Graph) -> bool:
    """Whether a program factorises or solves with matrices that are large enough for LAPACK's own threads."""
    return any(_is_large(graph, op) and _calls_lapack(op) for op in graph.ops if op.opaque)


def _is_large(graph: Graph, op: Op) -> bool:
    return any(math.prod(graph.types[value].shape[-2:]) >= _SMALL for value in op.operands)


def _calls_lapack(op: Op) -> bool:
    if op.body is not None:
        return uses_solver_threads(op.body)
    ref = op.ref
    return op.opcode in _LAPACK or (isinstance(ref, JaxOp) and any(name in _LAPACK for name in _nested(ref.params)))


def _nested(params: dict[str, Any]) -> Iterator[str]:
    """Names of the primitives in the functions that are parameters of an operation."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = part.jaxpr if isinstance(part, ClosedJaxpr) else part
            if isinstance(jaxpr, Jaxpr):
                for eqn in jaxpr.eqns:
                    yield eqn.primitive.name
                    yield from _nested(eqn.params)
