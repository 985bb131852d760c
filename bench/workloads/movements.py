"""Rows that are all memory traffic, the stencil, and the one that is all dispatch."""

from __future__ import annotations

from . import counting as count
from .base import Array, Workload


def gelu(name: str, rows: int, columns: int) -> Workload:
    """The tanh form."""
    array = Array((rows, columns))
    return Workload(name, "memory", "gelu", (array,), (array,), count.GELU_TANH * array.size)


def elementwise(name: str, rows: int, columns: int) -> Workload:
    """Twelve operations on each element, one after the other."""
    array = Array((rows, columns))
    return Workload(name, "memory", "elementwise", (array,), (array,), 12 * array.size)


def transpose(name: str, rows: int, columns: int) -> Workload:
    """A matrix turned round; no arithmetic."""
    return Workload(name, "memory", "transpose", (Array((rows, columns)),), (Array((columns, rows)),), 0)


def concatenate(name: str, rows: int, columns: int, parts: int) -> Workload:
    """Matrices side by side; no arithmetic."""
    inputs = (Array((rows, columns)),) * parts
    return Workload(name, "memory", "concatenate", inputs, (Array((rows, columns * parts)),), 0)


def jacobi(name: str, size: int, steps: int) -> Workload:
    """Relaxation of a square grid with a fixed border: each point becomes the mean of its four neighbours."""
    array = Array((size, size))
    flops = 4 * steps * (size - 2) ** 2
    return Workload(name, "stencil", "jacobi", (array,), (array,), flops, parameters={"steps": steps})


def dispatch(name: str, size: int) -> Workload:
    """A layer so small that only the cost of a call is seen."""
    array = Array((size, size))
    flops = count.matmul(size, size, size) + 2 * array.size
    return Workload(name, "dispatch", "dispatch", (array, array, Array((size,))), (array,), flops)
