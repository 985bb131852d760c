"""Transposition of a few vectors in registers."""

from __future__ import annotations

from collections.abc import Sequence

from .builder import Builder, VType


def interleaved(builder: Builder, t: VType, values: Sequence[str]) -> list[str]:
    """Vectors that hold, one after the other, lane 0 of every value, lane 1 of every value, and so on.

    Args:
        builder: gets the instructions.
        t: the type of the values, a vector with a power of two lanes.
        values: as many as a power of two, at most the number of lanes.

    Returns:
        As many vectors.
    """
    lanes = t.lanes
    low = [n // 2 + (n % 2) * lanes for n in range(lanes)]
    high = [lanes // 2 + n for n in low]
    found = list(values)
    for _ in range(len(found).bit_length() - 1):
        pairs = zip(found[: len(found) // 2], found[len(found) // 2 :], strict=True)
        found = [builder.shuffle(t, a, b, half) for a, b in pairs for half in (low, high)]
    return found


def row(builder: Builder, t: VType, found: Sequence[str], lane: int, count: int) -> str:
    """What `interleaved` made of lane ``lane`` of ``count`` values, in the first ``count`` lanes of a vector."""
    first = lane * len(found)
    whole = found[first // t.lanes]
    start = first % t.lanes
    if start == 0:
        return whole
    return builder.shuffle(t, whole, "poison", [start + n if n < count else -1 for n in range(t.lanes)])
