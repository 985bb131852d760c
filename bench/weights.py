"""Informative weights and images for untrained networks, and the checks that they are informative.

Freshly initialised networks are bad test inputs: Keras' MobileNetV2 answers the same for every image, and ConvNeXt's
layer scales of 1e-6 hide whole blocks. The values drawn here keep every block visible in the output.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# A change counts as visible from this fraction of the largest output on: rounding stays a hundred times below.
VISIBLE = 1e-3

_BLOCK = re.compile(
    r"(?:^|.*?[_/])?(?:stage_\d+_block_\d+|block_?\d+[a-z]?|expanded_conv(?:_\d+(?=_))?|layer_\d+|conv_[dp]w_\d+)"
)
_GRID = 7


def draw_weight(path: str, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> NDArray[np.generic]:
    """Draw one weight; its role is read off its path.

    Args:
        path: Slash-separated name, for example `block_1_expand/kernel` or `layer_0/mlp_in/bias`.
        shape: Shape of the weight; convolution kernels are height, width, input and output channels.
        dtype: Element type.
        rng: Source of randomness.

    Returns:
        Kernels keep the variance of their input, norm scales are U(0.5, 1.5), layer scales U(0.1, 1), biases and shifts
        N(0, 0.1). Counters and random states are zero, running variances one.

    Raises:
        ValueError: The last part of the path is no known role.
    """
    role = "layer_scale" if "layer_scale" in path else path.rsplit("/", 1)[-1]
    match role:
        case "kernel" | "depthwise_kernel" | "pointwise_kernel":
            values = rng.normal(0.0, math.sqrt(1.0 / _fan_in(path, shape)), shape)
        case "gamma" | "scale":
            values = rng.uniform(0.5, 1.5, shape)
        case "layer_scale":
            values = rng.uniform(0.1, 1.0, shape)
        case "beta" | "bias":
            values = rng.normal(0.0, 0.1, shape)
        case "mean":  # of an input normalisation, pixels in 0..1
            values = rng.uniform(0.4, 0.5, shape)
        case "variance":
            values = rng.uniform(0.04, 0.06, shape)
        case "moving_variance":
            values = np.ones(shape)
        case "moving_mean" | "count" | "seed_generator_state":
            values = np.zeros(shape)
        case _:
            raise ValueError(f"expected a known kind of weight, found {path!r}: add its role to draw_weight")
    return np.asarray(values).astype(dtype)


def _fan_in(path: str, shape: tuple[int, ...]) -> int:
    """Number of values that are summed into one output."""
    if len(shape) == 4 and shape[3] == 1:  # depthwise: height, width, channels, 1
        return shape[0] * shape[1]
    if len(shape) == 3 and "/out/" not in path:  # features to heads x size
        return shape[0]
    return math.prod(shape[:-1])


def draw_images(rng: np.random.Generator, batch: int, height: int, width: int) -> Array:
    """Random smooth colour pictures with noise: unlike white noise, two of them differ after global pooling.

    Returns:
        float32 pixels in 0..255 of shape (batch, height, width, 3).
    """
    coarse = rng.uniform(0.0, 255.0, (batch, _GRID, _GRID, 3))
    smooth = np.einsum("hy,byxc,wx->bhwc", _interpolation(height), coarse, _interpolation(width), optimize=True)
    contrast = rng.uniform(0.5, 1.0, (batch, 1, 1, 1))
    brightness = rng.uniform(-40.0, 40.0, (batch, 1, 1, 3))
    noise = rng.standard_normal((batch, height, width, 3), dtype=np.float32) * 12.0
    return np.clip(128.0 + (smooth - 128.0) * contrast + brightness + noise, 0.0, 255.0).astype(np.float32)


def _interpolation(size: int) -> NDArray[np.float64]:
    """Matrix that stretches `_GRID` values linearly to `size`."""
    position = np.linspace(0.0, _GRID - 1.0, size)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(position - np.arange(_GRID)[None, :]))


def block_of(path: str) -> str | None:
    """The network block a weight belongs to, for example `conv2_block1`; None for stem and head."""
    found = _BLOCK.match(path)
    return found.group(0) if found else None


def blocks(weights: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Group weight paths by block, in order of appearance; stem and head are left out.

    Where no path names a block, each layer is one.
    """
    named = {path: block_of(path) for path in weights}
    if not any(named.values()):
        named = {path: path.split("/", 1)[0] for path in weights}
    groups: dict[str, list[str]] = {}
    for path, name in named.items():
        if name is not None:
            groups.setdefault(name, []).append(path)
    return {name: tuple(paths) for name, paths in groups.items()}


@dataclass(frozen=True, slots=True)
class Informativeness:
    """How much the output of a network depends on its input and on each of its blocks.

    All numbers are the largest change of an output divided by the largest output.
    """

    input_change: float
    block_changes: Mapping[str, float]

    def failures(self) -> list[str]:
        """What does not move the output visibly; empty for a usable network."""
        found = [] if self.input_change > VISIBLE else [f"another input ({self.input_change:.2g})"]
        # A change that is no number is a failure too.
        found += [f"{name} ({change:.2g})" for name, change in self.block_changes.items() if not change > VISIBLE]
        return found


def informativeness(
    apply: Callable[..., object],
    weights: Mapping[str, NDArray[np.generic]],
    make_input: Callable[[np.random.Generator], tuple[object, ...]],
    rng: np.random.Generator,
) -> Informativeness:
    """Try another input, and zero each block in turn.

    Args:
        apply: `apply(weights, *args)`; of several results the first one is looked at.
        weights: The network's weights by path.
        make_input: Draws the arguments.
        rng: Source of the two inputs.
    """
    first, second = make_input(rng), make_input(rng)

    def run(weights: Mapping[str, NDArray[np.generic]], args: tuple[object, ...]) -> NDArray[np.floating]:
        result = apply(weights, *args)
        return np.asarray(result[0] if isinstance(result, tuple) else result)

    reference = run(weights, first)
    scale = float(np.abs(reference).max())

    def change(output: NDArray[np.floating]) -> float:
        return float(np.abs(output - reference).max()) / scale

    changes: dict[str, float] = {}
    for name, paths in blocks(weights).items():
        zeroed = {**weights, **{path: np.zeros_like(weights[path]) for path in paths}}
        changes[name] = change(run(zeroed, first))
    return Informativeness(change(run(weights, second)), changes)
