"""Random rows: computations of the kernel suite with drawn shapes and options, so that no shape is a chosen one.

A draw is decided by its name alone, which holds the seed and a number. Sizes are drawn on a logarithmic scale, about
half of them rounded to a multiple of eight. Draws whose amount of work lies outside of a range are drawn again: the
range is what `jax.jit` does in about 0.05 to 30 ms on a few cores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from .base import Workload
from .contractions import encoder_layer, linear, matmul, mlp_block
from .convolutions import bottleneck, conv, conv_transposed, convnext_block, inverted_residual, pool
from .movements import concatenate, elementwise, gelu, transpose
from .reductions import (
    argmax,
    attention,
    batch_norm,
    cross_entropy,
    grouped_attention,
    layer_norm,
    log_sum_exp,
    rms_norm,
    softmax,
)

_NAME = re.compile(r"draw-(\d{1,9})-(\d{1,6})")

# Multiply-adds (counted as two) that take about 0.05 to 30 ms: of dense products, and of windows of single channels,
# of which XLA does a hundredth in the same time.
_DENSE = (2e7, 3e9)
_SPARSE = (1e6, 4e7)
# Elements of the largest array of a row that is traffic.
_ELEMENTS = (3e5, 1.2e7)


class _Dice:
    """Draws sizes and options.

    Args:
        rng: Source of randomness.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def size(self, low: int, high: int) -> int:
        """A size within bounds."""
        drawn = round(math.exp(self._rng.uniform(math.log(low), math.log(high))))
        rounded = drawn // 8 * 8
        return rounded if rounded >= low and self._rng.random() < 0.5 else drawn

    def one_of(self, *choices: int) -> int:
        """One of some numbers."""
        return int(self._rng.choice(choices))

    def chance(self, probability: float = 0.5) -> bool:
        """Yes or no."""
        return bool(self._rng.random() < probability)


def _matmul(name: str, dice: _Dice) -> Workload:
    m, n, k = (dice.size(8, 2048) for _ in range(3))
    if dice.chance(0.3):
        return matmul(name, m, n, k, batch=(dice.size(2, 64),))
    return matmul(name, m, n, k, transposed=dice.chance(0.3))


def _linear(name: str, dice: _Dice) -> Workload:
    return linear(name, dice.size(1, 64), dice.size(256, 8192), dice.size(256, 8192))


def _mlp_block(name: str, dice: _Dice) -> Workload:
    features = dice.size(64, 1024)
    return mlp_block(name, dice.size(8, 1024), features, 4 * features)


def _encoder_layer(name: str, dice: _Dice) -> Workload:
    heads, size = dice.one_of(4, 8, 12), dice.one_of(32, 48, 64)
    return encoder_layer(name, dice.size(16, 512), heads * size, heads, 4 * heads * size)


def _conv(name: str, dice: _Dice) -> Workload:
    rank, stride = dice.one_of(1, 2, 2, 2, 3), dice.one_of(1, 1, 2)
    sizes = [dice.size(*{1: (64, 8192), 2: (7, 128), 3: (5, 32)}[rank]) for _ in range(rank)]
    kind = dice.one_of(0, 0, 1, 2)  # dense, in groups, depthwise
    if kind == 2:
        channels = dice.size(8, 512)
        return conv(name, sizes, channels, channels, dice.one_of(3, 5, 7), stride, channels)
    groups = dice.one_of(2, 4, 8) if kind == 1 else 1
    channels, features = (groups * dice.size(max(4, 16 // groups), 512 // groups) for _ in range(2))
    return conv(name, sizes, channels, features, dice.one_of(1, 3, 3, 5), stride, groups)


def _conv_transposed(name: str, dice: _Dice) -> Workload:
    return conv_transposed(name, dice.size(4, 64), dice.size(16, 256), dice.size(8, 256), dice.one_of(2, 4), 2)


def _pool(name: str, dice: _Dice) -> Workload:
    window = dice.one_of(2, 3, 5)
    stride = dice.one_of(1, 2, window)
    return pool(name, dice.size(14, 224), dice.size(8, 512), window, stride, "max" if dice.chance() else "average")


def _inverted_residual(name: str, dice: _Dice) -> Workload:
    channels = dice.size(8, 160)
    return inverted_residual(name, dice.size(7, 112), channels, channels * dice.one_of(3, 4, 6))


def _bottleneck(name: str, dice: _Dice) -> Workload:
    hidden = dice.size(16, 256)
    return bottleneck(name, dice.size(7, 56), 4 * hidden, hidden)


def _convnext_block(name: str, dice: _Dice) -> Workload:
    return convnext_block(name, dice.size(7, 56), dice.size(16, 384))


def _attention(name: str, dice: _Dice) -> Workload:
    heads, features, keys = dice.size(1, 16), dice.one_of(32, 40, 64, 80, 128), dice.size(16, 4096)
    if dice.chance(0.2):
        return attention(name, heads, 1, keys, features)
    kind = dice.one_of(0, 1, 2, 3)  # plain, causal, masked, grouped
    if kind == 3:
        key_heads = dice.one_of(1, 2, 4)
        return grouped_attention(name, key_heads * dice.one_of(2, 4), key_heads, keys, keys, features)
    queries = keys if kind == 1 else dice.size(16, 4096)
    return attention(name, heads, queries, keys, features, causal=kind == 1, masked=kind == 2)


def _cross_entropy(name: str, dice: _Dice) -> Workload:
    return cross_entropy(name, dice.size(16, 512), dice.size(64, 512), dice.size(1000, 32000))


def _batch_norm(name: str, dice: _Dice) -> Workload:
    return batch_norm(name, dice.size(2, 64), dice.size(4, 64), dice.size(16, 512))


def _of_rows(make: Callable[[str, int, int], Workload]) -> Callable[[str, _Dice], Workload]:
    """Draws for a row that takes a matrix."""
    return lambda name, dice: make(name, dice.size(1, 16384), dice.size(16, 16384))


def _concatenate(name: str, dice: _Dice) -> Workload:
    return concatenate(name, dice.size(16, 8192), dice.size(8, 4096), dice.size(2, 6))


_FAMILIES: tuple[tuple[Callable[[str, _Dice], Workload], ...], ...] = (
    (_matmul, _matmul, _linear, _mlp_block, _encoder_layer),
    (_conv, _conv, _conv, _conv_transposed, _pool, _inverted_residual, _bottleneck, _convnext_block),
    (
        _attention,
        _attention,
        _of_rows(softmax),
        _of_rows(layer_norm),
        _of_rows(rms_norm),
        _of_rows(log_sum_exp),
        _of_rows(argmax),
        _batch_norm,
        _cross_entropy,
    ),
    (_of_rows(gelu), _of_rows(elementwise), _of_rows(transpose), _concatenate),
)


def draw_name(seed: int, number: int) -> str:
    """Name of a draw."""
    return f"draw-{seed}-{number:03d}"


def drawn_workload(name: str) -> Workload:
    """The row with that name.

    Draws take turns through the families, so that a few of them hold all.

    Raises:
        ValueError: It is no name of a draw.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"expected a draw like {draw_name(0, 7)}, found {name!r}")
    seed, number = (int(part) for part in found.groups())
    rng = np.random.default_rng([seed, number])
    makers = _FAMILIES[number % len(_FAMILIES)]
    make = makers[rng.integers(len(makers))]
    while True:
        workload = make(name, _Dice(rng))
        if _measurable(workload):
            return workload


def _measurable(workload: Workload) -> bool:
    """Whether `jax.jit` takes about 0.05 to 30 ms."""
    arrays = (*workload.inputs, *workload.outputs, *workload.weights.values())
    largest = max(array.size for array in arrays)
    if workload.expression in ("inverted_residual", "convnext_block") or workload.parameters.get("groups", 1) != 1:
        low, high = _SPARSE if _is_depthwise(workload) else (_SPARSE[0], _DENSE[1] / 4)
        return low <= workload.flops <= high and largest <= _ELEMENTS[1]
    if workload.expression == "pool" or workload.family == "memory" or _is_traffic(workload):
        return _ELEMENTS[0] <= largest <= _ELEMENTS[1]
    return _DENSE[0] <= workload.flops <= _DENSE[1] and largest <= _ELEMENTS[1]


def _is_depthwise(workload: Workload) -> bool:
    """Whether single channels have windows of their own, of which XLA's code is slow."""
    return workload.expression != "conv" or workload.parameters["groups"] == workload.inputs[0].shape[-1]


def _is_traffic(workload: Workload) -> bool:
    """Whether a reduction reads every element once."""
    return workload.family == "reduction" and workload.expression not in (
        "attention",
        "grouped_attention",
        "cross_entropy",
    )
