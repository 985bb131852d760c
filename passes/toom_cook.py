"""The matrices of minimal filtering algorithms (Winograd, Arithmetic Complexity of Computations, 1980).

``F(m, r)``: m results of a filter with r taps from ``m + r - 1`` products, ``y = A^T [(G g) * (B^T d)]``. The
construction by evaluation and interpolation at points, one of them infinity, is Toom's and Cook's. Points decide how
much rounding errors grow (Barabasz et al., Error analysis and improving the accuracy of Winograd convolution for deep
neural networks, 2020); those here are numbers of few bits, so that the matrices for data are exact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
"""Finite points by the number of results, for filters with three taps. Those for four gave the smallest errors among
the symmetric ones with numerators and denominators below 10."""

TAPS = 3

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Filtering:
    """A minimal algorithm for one axis.

    Args:
        results: m.
        data: the matrix ``B^T``, exact in float32.
        back: the matrix ``A^T``, exact in float32.
        filter: the matrix ``G``.
    """

    results: int
    data: Matrix
    back: Matrix
    filter: Matrix

    @property
    def size(self) -> int:
        """Elements of data, and products."""
        return self.results + TAPS - 1

    def growth(self, matrix: Matrix) -> float:
        """How many times as large as its inputs an output of a matrix can be."""
        return max(sum(map(abs, row)) for row in matrix)


@functools.cache
def filtering(results: int) -> Filtering:
    """The algorithm for ``results`` results of three taps, 2 or 4."""
    points, size = _POINTS[results], results + TAPS - 1
    whole = functools.reduce(_times, ([-p, Fraction(1)] for p in points))
    data = [_padded(_product(points, skipped=p), size) for p in points] + [whole]
    back = [[p**i for p in points] + [Fraction(int(i == results - 1))] for i in range(results)]
    norms = [_value(_product(points, skipped=p), p) for p in points]
    taps = [[p**i / norm for i in range(TAPS)] for p, norm in zip(points, norms, strict=True)]
    taps.append([Fraction(int(i == TAPS - 1)) for i in range(TAPS)])
    return Filtering(results, _floats(data), _floats(back), _floats(taps))


def transformed_weights(weights: np.ndarray, algorithm: Filtering) -> np.ndarray:
    """``G g G^T`` for each pair of channels, computed in float64 and rounded once.

    Args:
        weights: float[3, 3, channels, results].
        algorithm: for both axes.

    Returns:
        float32[products, channels, results] with ``products`` the square of the algorithm's size, rows first.
    """
    matrix = np.array(algorithm.filter)
    once = np.tensordot(matrix, weights.astype(np.float64), axes=(1, 0))
    twice = np.tensordot(matrix, once, axes=(1, 1)).swapaxes(0, 1)
    return np.ascontiguousarray(twice.reshape(algorithm.size**2, *weights.shape[2:]).astype(np.float32))


def _product(points: tuple[Fraction, ...], skipped: Fraction) -> list[Fraction]:
    """Coefficients of the product of ``x - p`` over all points but one, lowest first."""
    return functools.reduce(_times, ([-p, Fraction(1)] for p in points if p != skipped), [Fraction(1)])


def _times(left: list[Fraction], right: list[Fraction]) -> list[Fraction]:
    out = [Fraction(0)] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            out[i + j] += a * b
    return out


def _value(polynomial: list[Fraction], at: Fraction) -> Fraction:
    return sum((c * at**i for i, c in enumerate(polynomial)), Fraction(0))


def _padded(row: list[Fraction], size: int) -> list[Fraction]:
    return [*row, *[Fraction(0)] * (size - len(row))]


def _floats(matrix: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(float(x) for x in row) for row in matrix)
