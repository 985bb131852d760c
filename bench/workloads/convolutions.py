"""Rows of convolutions and pooling, and of the blocks of image networks; batch 1 unless said otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from . import counting as count
from .base import Array, Workload, bias, kernel, scale


def _windows(size: int, window: int, stride: int) -> int:
    """Results along an axis that is padded by half a window at both ends."""
    return (size + 2 * (window // 2) - window) // stride + 1


def conv(
    name: str, sizes: Sequence[int], channels: int, features: int, window: int, stride: int = 1, groups: int = 1
) -> Workload:
    """A convolution over one to three spatial axes, padded by half a window."""
    array = Array((1, *sizes, channels))
    result = Array((1, *(_windows(size, window, stride) for size in sizes), features))
    taps = (window,) * len(sizes)
    weights = {"kernel": kernel(*taps, channels // groups, features)}
    flops = count.convolution(result.size, math.prod(taps), channels // groups)
    parameters = {"stride": stride, "groups": groups}
    return Workload(name, "convolution", "conv", (array,), (result,), flops, weights, parameters)


def depthwise(name: str, size: int, channels: int, window: int) -> Workload:
    """A convolution of each channel with a window of its own."""
    return conv(name, (size, size), channels, channels, window, groups=channels)


def conv_transposed(name: str, size: int, channels: int, features: int, window: int, stride: int) -> Workload:
    """A transposed convolution that makes the image `stride` times as large."""
    array, result = Array((1, size, size, channels)), Array((1, size * stride, size * stride, features))
    weights = {"kernel": Array((window, window, features, channels), high=(window * window * channels) ** -0.5)}
    flops = count.convolution(size * size * channels, window * window, features)
    parameters = {"stride": stride}
    return Workload(name, "convolution", "conv_transposed", (array,), (result,), flops, weights, parameters)


def pool(name: str, size: int, channels: int, window: int, stride: int, kind: Literal["max", "average"]) -> Workload:
    """Maximum or mean of windows, padded by half a window; padding counts in the mean."""
    array, extent = Array((1, size, size, channels)), _windows(size, window, stride)
    result = Array((1, extent, extent, channels))
    parameters = {"window": window, "stride": stride, "kind": kind}
    flops = result.size * window * window
    return Workload(name, "convolution", "pool", (array,), (result,), flops, parameters=parameters)


def inverted_residual(name: str, size: int, channels: int, hidden: int) -> Workload:
    """MobileNetV2's block: widen, depthwise 3x3, narrow, add."""
    array, pixels = Array((1, size, size, channels)), size * size
    weights = {
        "expand": kernel(1, 1, channels, hidden),
        "expand_bias": bias(hidden),
        "depthwise": kernel(3, 3, 1, hidden),
        "depthwise_bias": bias(hidden),
        "project": kernel(1, 1, hidden, channels),
        "project_bias": bias(channels),
    }
    flops = (
        count.convolution(pixels * hidden, 1, channels)
        + count.convolution(pixels * hidden, 9, 1)
        + count.convolution(pixels * channels, 1, hidden)
        + 2 * 3 * pixels * hidden  # bias and two bounds, twice
        + 2 * array.size  # bias and residual
    )
    return Workload(name, "convolution", "inverted_residual", (array,), (array,), flops, weights)


def bottleneck(name: str, size: int, channels: int, hidden: int) -> Workload:
    """ResNet's block: narrow, 3x3, widen, add; ReLU after each."""
    array, pixels = Array((1, size, size, channels)), size * size
    weights = {
        "reduce": kernel(1, 1, channels, hidden),
        "reduce_bias": bias(hidden),
        "middle": kernel(3, 3, hidden, hidden),
        "middle_bias": bias(hidden),
        "expand": kernel(1, 1, hidden, channels),
        "expand_bias": bias(channels),
    }
    flops = (
        count.convolution(pixels * hidden, 1, channels)
        + count.convolution(pixels * hidden, 9, hidden)
        + count.convolution(pixels * channels, 1, hidden)
        + 2 * 2 * pixels * hidden  # bias and ReLU, twice
        + 3 * array.size  # bias, residual, ReLU
    )
    return Workload(name, "convolution", "bottleneck", (array,), (array,), flops, weights)


def convnext_block(name: str, size: int, channels: int) -> Workload:
    """Depthwise 7x7, layer norm, two products with a GELU in between, layer scale, residual."""
    array, hidden, pixels = Array((1, size, size, channels)), 4 * channels, size * size
    weights = {
        "depthwise": kernel(7, 7, 1, channels),
        "depthwise_bias": bias(channels),
        "scale": scale(channels),
        "shift": bias(channels),
        "kernel_in": kernel(channels, hidden),
        "bias_in": bias(hidden),
        "kernel_out": kernel(hidden, channels),
        "bias_out": bias(channels),
        "layer_scale": Array((channels,), distribution="uniform", low=0.1, high=1.0),
    }
    flops = (
        count.convolution(pixels * channels, 49, 1)
        + 2 * count.matmul(pixels, hidden, channels)
        + (count.LAYER_NORM + 4) * array.size  # two biases, layer scale, residual
        + (count.GELU_ERF + 1) * pixels * hidden
    )
    return Workload(name, "convolution", "convnext_block", (array,), (array,), flops, weights)
