"""A report in a few numbers: what each family of rows gained, and how ours stands to the best peer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .report import ModeResult, RowResult, SideResult, SuiteReport
from .sessions import ALLOCATORS

ALL_ROWS = "all rows"
SLOWER = 0.97
"""A median speed-up below this counts as slower: less than that is within the noise of a quiet machine."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one effort gained on some rows in one allocator mode.

    Attributes:
        family: Which rows; `all rows` for every one.
        allocator: The mode.
        effort: The side.
        speedups: Medians over `jax.jit`, in the order of the rows.
        peer_ratios: Time of the fastest peer over ours, for the rows that a peer has; above 1 we are ahead.
    """

    family: str
    allocator: str
    effort: str
    speedups: tuple[float, ...]
    peer_ratios: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Geometric mean of the speed-ups."""
        return statistics.geometric_mean(self.speedups)

    @property
    def median(self) -> float:
        """Median of the speed-ups."""
        return statistics.median(self.speedups)

    @property
    def lowest(self) -> float:
        """Lowest speed-up."""
        return min(self.speedups)

    @property
    def slower(self) -> int:
        """Rows that became slower."""
        return sum(speedup < SLOWER for speedup in self.speedups)

    @property
    def ahead(self) -> int:
        """Rows on which ours is at least as fast as the fastest peer."""
        return sum(ratio >= 1 for ratio in self.peer_ratios)

    def peers_text(self) -> str:
        """`3 of 4, lowest 0.85x`, or nothing where no peer took part."""
        if not self.peer_ratios:
            return ""
        return f"{self.ahead} of {len(self.peer_ratios)}, lowest {min(self.peer_ratios):.2f}x"


def summaries(report: SuiteReport) -> list[Summary]:
    """One per effort, allocator mode and family with a measured row, each after those of all rows together."""
    groups = [ALL_ROWS, *(family for family, _ in by_family(report) if family)]
    found = [
        _summary(report.rows, family, allocator, f"effort {effort}")
        for effort in report.options.efforts
        for allocator in ALLOCATORS
        for family in groups
    ]
    return [summary for summary in found if summary.speedups]


def by_family(report: SuiteReport) -> list[tuple[str, list[RowResult]]]:
    """The rows of each family; one group without a name if there are not several."""
    groups: dict[str, list[RowResult]] = {}
    for row in report.rows:
        groups.setdefault(row.family, []).append(row)
    return list(groups.items()) if len(groups) > 1 else [("", list(report.rows))]


def _summary(rows: Sequence[RowResult], family: str, allocator: str, effort: str) -> Summary:
    modes = [mode for row in rows if family in (ALL_ROWS, row.family) and (mode := row.mode(allocator)) is not None]
    sides = [(mode, side) for mode in modes if (side := mode.side(effort)) is not None and side.speedup is not None]
    speedups = tuple(side.speedup.median for _, side in sides if side.speedup is not None)
    ratios = tuple(ratio for mode, side in sides if (ratio := peer_ratio(mode, side)) is not None)
    return Summary(family, allocator, effort, speedups, ratios)


def peer_ratio(mode: ModeResult, side: SideResult) -> float | None:
    """Time of the fastest peer over this side's, both as speed-ups over `jax.jit`; None if no peer was measured."""
    best = max((peer.speedup.median for peer in mode.peers() if peer.speedup is not None), default=math.nan)
    if side.speedup is None or math.isnan(best):
        return None
    return side.speedup.median / best
