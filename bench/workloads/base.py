"""A workload of the kernel suite: a named JAX function with shapes, counts and random inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...ir import dtypes

Family = Literal["contraction", "convolution", "reduction", "memory", "stencil", "dispatch", "other"]


@dataclass(frozen=True, slots=True)
class Array:
    """Shape, element type and random values of an argument, a weight or a result.

    Attributes:
        shape: Dimensions.
        dtype: Element type by its NumPy name.
        distribution: `normal` (mean 0, `high` is the deviation), `uniform` or `integers` in `[low, high)`.
        low: See there.
        high: See there.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    distribution: Literal["normal", "uniform", "integers"] = "normal"
    low: float = 0.0
    high: float = 1.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return self.size * dtypes.itemsize(self.dtype)

    def draw(self, rng: np.random.Generator) -> NDArray[np.generic]:
        """Random values of this shape and element type."""
        match self.distribution:
            case "normal":
                values = rng.standard_normal(self.shape, np.float32) * np.float32(self.high)
            case "uniform":
                values = rng.uniform(self.low, self.high, self.shape)
            case "integers":
                values = rng.integers(int(self.low), int(self.high), self.shape)
        return values.astype(dtypes.to_numpy(self.dtype))


def kernel(*shape: int) -> Array:
    """A weight that keeps the variance of what it multiplies; the last axis are the results."""
    return Array(shape, high=math.prod(shape[:-1]) ** -0.5)


def bias(size: int) -> Array:
    """A vector that is added."""
    return Array((size,), high=0.1)


def scale(size: int) -> Array:
    """A vector that is multiplied, far from zero."""
    return Array((size,), distribution="uniform", low=0.5, high=1.5)


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the kernel suite.

    Weights are what a network closes over: constants of the function, which any side may lay out anew beforehand.
    Arguments change with every call.

    Attributes:
        name: Name of the row.
        family: What kind of work it is.
        expression: Name of the computation in `jax_functions` and in each peer's table.
        inputs: Arguments.
        outputs: Results.
        flops: Arithmetic operations of one call: a multiply-add counts two, any other operation or comparison one.
        weights: Constants by name.
        parameters: Plain values that the expression takes by keyword.
        calls: How many calls, each on the result of the one before, make one timed program. More than 1 where a call
            takes less than about 0.1 ms, so that dispatch is not what is measured.
    """

    name: str
    family: Family
    expression: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    flops: int
    weights: Mapping[str, Array] = field(default_factory=dict)
    parameters: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    calls: int = 1

    def __post_init__(self) -> None:
        """Check that a chain of calls fits together.

        Raises:
            ValueError: It does not.
        """
        chained = (self.inputs[0].shape, self.inputs[0].dtype), (self.outputs[0].shape, self.outputs[0].dtype)
        if self.calls > 1 and (len(self.outputs) != 1 or chained[0] != chained[1]):
            raise ValueError(f"{self.name}: expected a result like the first argument to chain calls, found {chained}")

    @property
    def bytes(self) -> int:
        """Minimal traffic of one call: every argument and weight read once, every result written once."""
        return sum(array.bytes for array in (*self.inputs, *self.weights.values(), *self.outputs))

    @property
    def detail(self) -> str:
        """The computation with its shapes and options, for example `linear 3x1056, kernel 1056x400`."""
        shapes = ["x".join(map(str, array.shape)) for array in self.inputs]
        if "kernel" in self.weights:
            shapes.append("kernel " + "x".join(map(str, self.weights["kernel"].shape)))
        options = [f"{key}={value}" for key, value in self.parameters.items()]
        return " ".join((self.expression, ", ".join(shapes), *options))

    @property
    def dtype(self) -> str:
        """Element type of the first argument, which decides what peak the machine has for it."""
        return self.inputs[0].dtype

    def draw_inputs(self, rng: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
        """Fresh arguments."""
        return tuple(array.draw(rng) for array in self.inputs)

    def draw_weights(self, seed: int) -> dict[str, NDArray[np.generic]]:
        """The constants; the same for equal seeds and names."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        return {name: array.draw(rng) for name, array in self.weights.items()}


def chain(fn: Callable[..., object], calls: int) -> Callable[..., object]:
    """A function that calls `fn` that many times, each time with the last result as first argument.

    The data dependence keeps any compiler from running the calls side by side or from merging them.
    """
    if calls == 1:
        return fn

    def chained(first: object, *rest: object) -> object:
        for _ in range(calls):
            first = fn(first, *rest)
        return first

    return chained
