"""Vectors whose lanes are a few elements apart, or repeat: loaded as the vectors they lie in, then picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .builder import Builder, VType, vtype
from .lanes import Mask, prefix

MAX_STRIDE = 4
"""Beyond this distance one load per lane is cheaper."""


@dataclass(frozen=True, slots=True)
class Window:
    """A vector of neighbouring elements.

    Args:
        start: its first element, relative to what lane 0 of the strided vector uses.
        mask: the elements that may be touched; None for all.
    """

    start: int
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class Windows:
    """The vectors that hold the elements of a strided vector, and for each lane the vector and its place in it."""

    windows: tuple[Window, ...]
    picks: tuple[tuple[int, int], ...]


def windows(mask: Mask, stride: int, builder: Builder) -> Windows:
    """Where the elements of a strided vector lie.

    No element outside of the buffer is touched: between two elements in use all belong to it, and where it is not known
    in advance which lanes are in use, only their own elements are touched.

    Args:
        mask: the lanes in use.
        stride: elements between neighbouring lanes, not 0.
        builder: gets the instructions that make masks.
    """
    if mask.empty:
        return Windows((), ())
    return _some_lanes(mask, stride, builder) if mask.value else _known_lanes(mask, stride)


def _known_lanes(mask: Mask, stride: int) -> Windows:
    return scattered([lane * stride if used else None for lane, used in enumerate(mask.lanes)])


def scattered(places: Sequence[int | None], whole: bool = False) -> Windows:
    """Where lanes lie that are anywhere near each other, and may repeat.

    Nothing outside of what lies between the first and the last element is touched, unless the buffer is known to
    consist of whole vectors: then accesses within one of them share its load.

    Args:
        places: of each lane the element it uses, relative to any one of them; None for lanes that are not in use.
        whole: whether vectors that begin at a multiple of their length lie inside the buffer.
    """
    lanes = len(places)
    used = [place for place in places if place is not None]
    low = min(used)
    if whole and max(used) // lanes == low // lanes:
        low -= low % lanes
        return Windows((Window(low, None),), tuple((0, 0 if place is None else place - low) for place in places))
    span = max(used) - low + 1
    if span <= lanes:
        starts = [low]
        found = (Window(low, prefix(span, lanes) if span < lanes else None),)
    else:
        every = [*range(low, low + span - lanes, lanes), low + span - lanes]
        starts = [every[n] for n in sorted({min((place - low) // lanes, len(every) - 1) for place in used})]
        found = tuple(Window(start, None) for start in starts)
    picks: list[tuple[int, int]] = []
    for lane in places:
        place = low if lane is None else lane
        number = next(n for n, start in enumerate(starts) if place < start + lanes)
        picks.append((number, place - starts[number]))
    return Windows(found, tuple(picks))


def _some_lanes(mask: Mask, stride: int, builder: Builder) -> Windows:
    lanes = len(mask.lanes)
    low = min(0, (lanes - 1) * stride)
    span = (lanes - 1) * abs(stride) + 1
    found: list[Window] = []
    picks = [(0, 0)] * lanes
    for start in range(low, low + span, lanes):
        owners = [_owner(start + n, stride, mask) for n in range(lanes)]
        if all(o is None for o in owners):
            continue
        chosen = builder.shuffle(vtype("bool", lanes), mask.value, "poison", [o or 0 for o in owners])
        for place, owner in enumerate(owners):
            if owner is not None:
                picks[owner] = (len(found), place)
        found.append(Window(start, Mask(tuple(o is not None for o in owners), chosen)))
    return Windows(tuple(found), tuple(picks))


def _owner(element: int, stride: int, mask: Mask) -> int | None:
    """The lane that uses an element, if one that may be in use does."""
    lane, rest = divmod(element, stride)
    return lane if rest == 0 and 0 <= lane < len(mask.lanes) and mask.lanes[lane] else None


def picked(builder: Builder, t: VType, found: Windows, load: Callable[[Window], str]) -> str:
    """The strided vector.

    Args:
        builder: gets the instructions.
        t: its type.
        found: where its elements lie.
        load: loads one of those vectors.
    """
    if not found.windows:
        return "zeroinitializer"
    out, *others = [load(w) for w in found.windows]
    first = others.pop(0) if others else "poison"
    places = [n * t.lanes + place if n < 2 else -1 for n, place in found.picks]
    out = builder.shuffle(t, out, first, places)
    for number, value in enumerate(others, 2):
        places = [t.lanes + place if n == number else lane for lane, (n, place) in enumerate(found.picks)]
        out = builder.shuffle(t, out, value, places)
    return out
