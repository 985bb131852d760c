"""How an ONNX graph stores the values of ours: their axes in another order, or trailing axes merged into one."""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .onnx_builder import Builder


@dataclass(frozen=True, slots=True)
class Stored:
    """A value of the graph as the ONNX graph has it.

    Attributes:
        name: In the ONNX graph.
        shape: In our graph.
        axes: Axis `i` of what is stored is axis `axes[i]` of the value.
        merged: How many trailing axes are stored as one; only where axes are in order.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    merged: int = 1

    @property
    def in_order(self) -> bool:
        """Whether the axes are those of our graph."""
        return self.axes == tuple(range(len(self.axes)))

    def transposed(self, permutation: Sequence[int]) -> Stored:
        """The value with its axes permuted, which moves nothing."""
        shape = tuple(self.shape[axis] for axis in permutation)
        return Stored(self.name, shape, tuple(list(permutation).index(axis) for axis in self.axes))


def in_order(name: str, shape: Sequence[int], merged: int = 1) -> Stored:
    """A value that is stored as it is."""
    return Stored(name, tuple(shape), tuple(range(len(shape))), merged)


def split(b: Builder, value: Stored) -> Stored:
    """The value with every axis of its own."""
    if value.merged == 1:
        return value
    return in_order(b.node("Reshape", value.name, b.shape(*value.shape)), value.shape)


def ordered(b: Builder, value: Stored, axes: Sequence[int] | None = None) -> Stored:
    """The value with its axes stored in that order; in its own, if none is given."""
    wanted = tuple(range(len(value.shape))) if axes is None else tuple(axes)
    value = split(b, value)
    if value.axes == wanted:
        return value
    if [axis for axis in value.axes if value.shape[axis] > 1] == [axis for axis in wanted if value.shape[axis] > 1]:
        name = b.node("Reshape", value.name, b.shape(*(value.shape[axis] for axis in wanted)))
    else:
        name = b.node("Transpose", value.name, perm=[value.axes.index(axis) for axis in wanted])
    return Stored(name, value.shape, wanted)


def reshaped(b: Builder, value: Stored, shape: Sequence[int]) -> Stored:
    """The value with another shape."""
    lead = len(value.shape) - value.merged
    held = (*value.shape[:lead], math.prod(value.shape[lead:]))
    if value.merged > 1 and held == tuple(shape):
        return in_order(value.name, shape)
    if value.in_order and value.merged == 1 and value.shape == tuple(shape):
        return value
    value = ordered(b, value) if value.merged == 1 else value
    return in_order(b.node("Reshape", value.name, b.shape(*shape)), shape)
