"""What a lane costs whose elements lie in cache lines of their own.

It depends on whether those lines are still there when the next elements of each are read.
"""

from __future__ import annotations

import numpy as np

from ..ir.target import Target
from .anatomy import Access
from .nest import Nests

LINE_BYTES = 64
_L1_SETS = 64
"""The nearest cache is found by the part of an address within a page."""
_L2_WAYS = 16
"""At least; the number of sets is a power of two."""
_KEPT = 1.5
"""The nearest cache doesn't replace strictly the oldest line: of somewhat more lines than fit, it still holds many."""
_NEAREST, _SECOND, _BEYOND = 2.0, 8.0, 32.0
"""Loads from the nearest cache that a lane takes as long as, by where its line is found."""


def lane_loads(access: Access, nests: Nests, target: Target) -> np.ndarray:
    """Loads that a lane of a gathered vector counts for, where nothing is computed that hides them.

    Lines that lie a multiple of a large power of two apart share few sets of a cache, of which each holds few lines.

    Args:
        access: what is read.
        nests: the loop nests of candidates.
        target: the CPU.

    Returns:
        float[candidates].
    """
    lines = _lines_between_uses(access, nests)
    step = access.strides.T @ _axis_bytes(access)
    bytes_apart = np.where(nests.vector >= 0, step[nests.vector], 0)
    nearest = _held_lines(bytes_apart, _L1_SETS, target.l1_bytes // LINE_BYTES // _L1_SETS)
    l2_lines = target.l2_bytes // LINE_BYTES
    l2_sets = 1 << max((l2_lines // _L2_WAYS).bit_length() - 1, 0)
    second = _held_lines(bytes_apart, l2_sets, l2_lines // l2_sets)
    return np.select([lines <= _KEPT * nearest, lines <= second], [_NEAREST, _SECOND], _BEYOND)


def _axis_bytes(access: Access) -> np.ndarray:
    """Bytes from one element to the next along each axis: int[axes]."""
    behind = np.append(np.cumprod(access.shape[:0:-1])[::-1], 1)
    return behind.astype(int) * access.itemsize


def _lines_between_uses(access: Access, nests: Nests) -> np.ndarray:
    """Lines that are touched until the innermost loop along the last axis goes on to the next elements of each."""
    along = access.strides[-1] != 0
    shrinks: np.ndarray = nests.spans[:, :-1, along] > nests.spans[:, 1:, along]
    moves: np.ndarray = np.any(shrinks, axis=2)
    levels = moves.shape[1]
    inside = np.where(moves.any(axis=1), levels - moves[:, ::-1].argmax(axis=1), levels)
    body = nests.spans[np.arange(len(nests)), inside]
    touched = 1.0 + (body[:, None, :] - 1.0).clip(0) @ access.strides[:-1].T[None]
    return np.minimum(touched[:, 0, :], access.shape[:-1]).prod(axis=1)


def _held_lines(bytes_apart: np.ndarray, sets: int, ways: int) -> np.ndarray:
    """Lines so far apart that a cache holds at once."""
    around = sets * LINE_BYTES
    return np.minimum(around // np.gcd(bytes_apart, around), sets) * ways
