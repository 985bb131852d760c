"""Memory of a plan: lifetimes of intermediates and their places, in results and in one arena.

A value may be an *heir* of another one: the stage that writes it is the last one that reads the other, and can store
its result in place (`ir.in_place`). Both then have one place, which counts as one value that lives as long as both.

The memory of results is there anyway and unused at first: intermediates that die before it is written live in it, where
they fit. A result may be an heir, too. What is left gets an arena.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an intermediate lives.

    Args:
        room: the result in whose memory; None for the arena.
        offset: in bytes.
    """

    room: int | None
    offset: int


Spots = tuple[dict[int, Spot], int]
"""Spots by value, and the arena's size in bytes."""


def assign_spots(
    lifetimes: Mapping[int, Lifetime],
    heirs: Mapping[int, int] = MappingProxyType({}),
    rooms: Mapping[int, Lifetime] = MappingProxyType({}),
    homebound: Collection[int] = (),
) -> Spots:
    """Places for intermediates such that those alive at once do not overlap, but for heirs.

    Heirs take over places, unless the arena is smaller where none does.

    Args:
        lifetimes: of intermediates, by value.
        heirs: for an intermediate or a result, the intermediate of its size whose place it can take.
        rooms: lifetimes of results, from the first stage that touches them on, by value.
        homebound: intermediates that have to live in the arena.

    Returns:
        Where each intermediate lives, and the arena's size.
    """
    heirs = {value: other for value, other in heirs.items() if not {value, other} & {*homebound}}
    found = _spots(lifetimes, heirs, rooms, homebound)
    apart = _spots(lifetimes, {}, rooms, homebound) if heirs else found
    return apart if apart[1] < found[1] else found


def _spots(
    lifetimes: Mapping[int, Lifetime],
    heirs: Mapping[int, int],
    rooms: Mapping[int, Lifetime],
    homebound: Collection[int],
) -> Spots:
    owners = {value: _first_owner(value, heirs) for value in lifetimes}
    places = _merged(lifetimes, owners)
    spots = {_first_owner(room, heirs): Spot(room, 0) for room in rooms if room in heirs}
    for value in sorted(places.keys() - {*homebound} - spots.keys(), key=lambda v: (-places[v].size, v)):
        spot = _lodged(places[value], spots, places, rooms)
        if spot is not None:
            spots[value] = spot
    offsets, size = _assigned({value: life for value, life in places.items() if value not in spots})
    spots |= {value: Spot(None, offset) for value, offset in offsets.items()}
    return {value: spots[owner] for value, owner in owners.items()}, size


def _lodged(
    life: Lifetime, spots: Mapping[int, Spot], places: Mapping[int, Lifetime], rooms: Mapping[int, Lifetime]
) -> Spot | None:
    """A free part of the memory of a result that is not in use yet; None if there is none."""
    for room, own in rooms.items():
        others = ((spot.offset, places[v]) for v, spot in spots.items() if spot.room == room)
        busy = sorted((offset, offset + _aligned(o.size)) for offset, o in others if o.overlaps(life))
        offset = _first_gap(busy, _aligned(life.size))
        if life.last < own.first and offset + life.size <= own.size:
            return Spot(room, offset)
    return None


def _first_owner(value: int, heirs: Mapping[int, int]) -> int:
    while value in heirs:
        value = heirs[value]
    return value


def _merged(lifetimes: Mapping[int, Lifetime], first: Mapping[int, int]) -> dict[int, Lifetime]:
    """Lifetimes of places, by their first owners."""
    merged: dict[int, Lifetime] = {}
    for value, life in lifetimes.items():
        known = merged.get(first[value], life)
        span = min(known.first, life.first), max(known.last, life.last)
        merged[first[value]] = Lifetime(life.size, *span)
    return merged


def _assigned(lifetimes: Mapping[int, Lifetime]) -> tuple[dict[int, int], int]:
    """Places for values none of which takes over another's.

    They choose one after the other and take the lowest free place. That the largest choose first is within a few
    percent of optimal for networks (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
    2020); where it is not optimal, other orders are tried, and the smallest arena wins.
    """
    least = _peak(lifetimes.values())
    best: tuple[dict[int, int], int] | None = None
    for rank in _RANKS:
        order = sorted(lifetimes, key=lambda value, rank=rank: (*rank(lifetimes[value]), value))
        found = _placed(order, lifetimes)
        best = found if best is None or found[1] < best[1] else best
        if best[1] == least:
            break
    assert best is not None
    return best


def _length(life: Lifetime) -> int:
    return life.last - life.first + 1


#: Who chooses first: the largest; what takes most memory for most stages; the largest of the longest; the oldest.
_RANKS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda life: (-life.size,),
    lambda life: (-life.size * _length(life),),
    lambda life: (-_length(life), -life.size),
    lambda life: (life.first, -life.size),
)


def _aligned(size: int) -> int:
    return -(-size // ARENA_ALIGNMENT) * ARENA_ALIGNMENT


def _peak(lives: Collection[Lifetime]) -> int:
    """The most bytes that are alive at one stage: no arena can be smaller."""
    return max((sum(_aligned(x.size) for x in lives if x.first <= life.first <= x.last) for life in lives), default=0)


def _placed(order: Sequence[int], lifetimes: Mapping[int, Lifetime]) -> tuple[dict[int, int], int]:
    """Places of values that choose in this order, and the size of it all."""
    placed: list[tuple[int, int, Lifetime]] = []
    offsets: dict[int, int] = {}
    for value in order:
        life = lifetimes[value]
        size = _aligned(life.size)
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
