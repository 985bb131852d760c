"""Arithmetic of the workloads: a multiply-add counts two, any other operation, function or comparison one.

Counts are of the algorithm as it is usually written down; a faster algorithm for the same thing then shows as a higher
rate. Windows of convolutions count as whole, also at padded borders.
"""

from __future__ import annotations

import math

# Per element: maximum, difference, exponential, sum, quotient.
SOFTMAX = 5
# Per element: sum, difference, square, sum, product with the inverse deviation, scale, shift.
LAYER_NORM = 7
# Per element: square, sum, product with the inverse root, scale.
RMS_NORM = 4
# Per element: x^3 (2), factor, sum, factor, tanh, 1 + ., 0.5 * x, product.
GELU_TANH = 9
# Per element: x / sqrt(2), erf, 1 + ., 0.5 * x, product.
GELU_ERF = 5
# Per element: maximum, difference, exponential, sum.
LOG_SUM_EXP = 4


def matmul(m: int, n: int, k: int) -> int:
    """`(m, k) @ (k, n)`."""
    return 2 * m * n * k


def convolution(results: int, taps: int, inputs_per_group: int) -> int:
    """A convolution with that many results, each of a window of `taps` pixels."""
    return 2 * results * taps * inputs_per_group


def attention(pairs: int, features: int) -> int:
    """Scores, softmax and weighted sums of that many (query, key) pairs, summed over heads and batch."""
    return pairs * (4 * features + SOFTMAX)


def causal_pairs(sequence: int) -> int:
    """(query, key) pairs of one head where no query sees a later key."""
    return sequence * (sequence + 1) // 2


def real_fft(length: int) -> int:
    """A Fourier transform of `length` real values: half of the usual 5 n log2(n)."""
    return round(2.5 * length * math.log2(length))


def sort(length: int) -> int:
    """Comparisons of sorting: n log2(n)."""
    return round(length * math.log2(length))
