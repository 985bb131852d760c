"""Memory of a plan: lifetimes of intermediates and their places in one arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.plan import ARENA_ALIGNMENT


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When an intermediate is alive.

    Args:
        size: bytes.
        first: the stage that writes it.
        last: the last stage that reads it, not before ``first``.
    """

    size: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive at some stage."""
        return self.first <= other.last and other.first <= self.last


def assign_offsets(lifetimes: Mapping[int, Lifetime]) -> tuple[dict[int, int], int]:
    """Places for intermediates such that those alive at once do not overlap.

    The largest ones choose first and take the lowest free place (greedy by size, which is within a few percent of
    optimal for networks: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).

    Args:
        lifetimes: by value.

    Returns:
        The offset of each value in bytes, and the arena's size.
    """
    placed: list[tuple[int, int, Lifetime]] = []
    offsets: dict[int, int] = {}
    for value, life in sorted(lifetimes.items(), key=lambda item: (-item[1].size, item[0])):
        size = -(-life.size // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
        busy = sorted((start, end) for start, end, other in placed if other.overlaps(life))
        offset = _first_gap(busy, size)
        offsets[value] = offset
        placed.append((offset, offset + size, life))
    return offsets, max((end for _, end, _ in placed), default=0)


def _first_gap(busy: Sequence[tuple[int, int]], size: int) -> int:
    offset = 0
    for start, end in busy:
        if start - offset >= size:
            return offset
        offset = max(offset, end)
    return offset
