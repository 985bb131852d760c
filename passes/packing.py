"""Laying constants out the way a schedule wants them."""

from __future__ import annotations

import numpy as np

from ..ir.loop import Buffer


def pack_array(array: np.ndarray, buffer: Buffer) -> np.ndarray:
    """The contents of a ``constant`` parameter in its packed layout.

    Args:
        array: the constant; any shape with the same row-major elements as before packing.
        buffer: the parameter, with its layout changes.

    Returns:
        A C-contiguous array of ``buffer.shape``; the last panel of each change is padded with zeros.
    """
    array = np.ascontiguousarray(array).reshape(unpacked_shape(buffer))
    for change in buffer.packing:
        panels = -(-change.extent // change.factor)
        padding = [(0, 0)] * array.ndim
        padding[change.axis] = (0, panels * change.factor - change.extent)
        if padding[change.axis][1]:
            array = np.pad(array, padding)
        before, after = array.shape[: change.axis], array.shape[change.axis + 1 :]
        array = array.reshape(*before, panels, change.factor, *after)
        array = np.moveaxis(np.moveaxis(array, change.axis + 1, -1), change.axis, 0)
    return np.ascontiguousarray(array).reshape(buffer.shape)


def unpacked_shape(buffer: Buffer) -> tuple[int, ...]:
    """The shape of a parameter before its layout changes."""
    shape = buffer.shape
    for change in reversed(buffer.packing):
        rest = list(shape[1:-1])
        rest.insert(change.axis, change.extent)
        shape = tuple(rest)
    return shape
