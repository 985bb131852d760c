"""Whether a later run is slower than an earlier one, told apart from noise.

What is compared is each side's speed-up over `jax.jit`, measured by pairs within its own run: the state of the machine,
which may change milliseconds by a factor of two from run to run, cancels out of it. What stays is that processes of
the same code differ from each other (where pages and threads happen to be), small kernels by tens of per cent. The
samples of one process don't show that; the processes of a row do, so the interval is at least as wide as their spread
makes it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import mean, median
from typing import Literal

from scipy import stats

from .report import Interval, ModeResult, RowResult, SideResult, SuiteReport

Verdict = Literal["faster", "slower", "same", "undecided", "missing"]

# Changes up to this factor count as none: processes of the same code differ by a few per cent from each other.
MARGIN = 1.05
# Relative difference between processes where a run has one of each kind only, and doesn't show it.
_USUAL_SPREAD = 0.05
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Change:
    """One side of one row in one allocator mode.

    Attributes:
        row: Name of the row.
        allocator: Its mode.
        side: Name of the side.
        verdict: `faster` or `slower` if the interval of the ratio excludes 1 and the ratio is beyond the margin; `same`
            if the whole interval is within the margin; `undecided` otherwise; `missing` if the later run has no sound
            result for it.
        ratio: Speed-up after over speed-up before, with bounds; None if there is none.
        reason: Why there is no ratio, or empty.
    """

    row: str
    allocator: str
    side: str
    verdict: Verdict
    ratio: Interval | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes between two runs.

    Attributes:
        changes: Everything of ours that the earlier run measured, in its order.
        notes: What makes the runs hard to compare: other machines, other options.
        margin: See `MARGIN`.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    margin: float

    @property
    def regressed(self) -> bool:
        """Whether something is slower or missing."""
        return any(change.verdict in ("slower", "missing") for change in self.changes)

    def counts(self) -> dict[str, int]:
        """How often each verdict was reached."""
        return dict(Counter(change.verdict for change in self.changes))


def compare(before: SuiteReport, after: SuiteReport, margin: float = MARGIN) -> Comparison:
    """Compare what two runs found about our sides.

    Args:
        before: The earlier run; what it measured is what the later one has to show.
        after: The later run.
        margin: Factor up to which a change counts as none.

    Raises:
        ValueError: The margin is not above 1, or the runs are of different suites.
    """
    if not margin > 1:
        raise ValueError(f"margin: expected a factor above 1, found {margin}")
    if before.options.suite != after.options.suite:
        suites = before.options.suite, after.options.suite
        raise ValueError(f"expected two runs of one suite, found {suites[0]} and {suites[1]}")
    changes = []
    for row in before.rows:
        later = after.row(row.name)
        doubt = _doubt([row] if later is None else [row, later])
        for mode in row.modes:
            for side in mode.sides:
                if _ours(side):
                    changes.append(_change(row.name, mode.allocator, side, later, doubt, margin))
    return Comparison(tuple(changes), tuple(_notes(before, after)), margin)


def _ours(side: SideResult) -> bool:
    return side.status == "measured" and side.speedup is not None and side.name.startswith("effort")


def _change(
    row: str, allocator: str, before: SideResult, after: RowResult | None, doubt: float, margin: float
) -> Change:
    found, reason = _later(after, allocator, before.name)
    if found is None or found.speedup is None or before.speedup is None:
        return Change(row, allocator, before.name, "missing", None, reason)
    processes = math.sqrt(1 / len(before.times_ms) + 1 / len(found.times_ms))
    ratio = _ratio(before.speedup, found.speedup, doubt * processes)
    return Change(row, allocator, before.name, _verdict(ratio, margin), ratio)


def _doubt(rows: list[RowResult]) -> float:
    """Half a confidence interval of a logarithmic speed-up in one process, from how a row's processes differ.

    All our sides and both modes and runs count together, because each has few processes.
    """
    squares, freedom = 0.0, 0
    for row in rows:
        for mode in row.modes:
            for side in filter(_ours, mode.sides):
                found = _by_process(mode, side)
                centre = mean(found)
                squares += sum((value - centre) ** 2 for value in found)
                freedom += len(found) - 1
    if not freedom:
        return float(stats.norm.ppf((1 + _CONFIDENCE) / 2)) * _USUAL_SPREAD
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(squares / freedom)


def _by_process(mode: ModeResult, side: SideResult) -> list[float]:
    """Logarithm of the speed-up in each process."""
    baseline = mode.sides[0].times_ms
    pairs = zip(baseline, side.times_ms, strict=True)
    return [math.log(median(b / own for b, own in zip(base, times, strict=True))) for base, times in pairs]


def _later(row: RowResult | None, allocator: str, side: str) -> tuple[SideResult | None, str]:
    """The later run's result, or why there is none."""
    if row is None:
        return None, "the later run has no such row"
    if row.failure:
        return None, row.failure
    mode = row.mode(allocator)
    found = mode.side(side) if mode else None
    if found is None:
        return None, f"the later run has no {side} in mode {allocator}"
    if found.status != "measured":
        return None, f"{found.status}: {found.reason}"
    if found.accurate is False:
        return None, "the accuracy contract is broken"
    return found, ""


def _ratio(before: Interval, after: Interval, least: float) -> Interval:
    """Ratio of two independent medians: their relative errors add in quadrature, to no less than a given one."""
    middle = math.log(after.median / before.median)
    down = math.hypot(math.log(after.median / after.low), math.log(before.high / before.median))
    up = math.hypot(math.log(after.high / after.median), math.log(before.median / before.low))
    down, up = max(down, least), max(up, least)
    return Interval(median=math.exp(middle), low=math.exp(middle - down), high=math.exp(middle + up))


def _verdict(ratio: Interval, margin: float) -> Verdict:
    if ratio.high < 1 and ratio.median < 1 / margin:
        return "slower"
    if ratio.low > 1 and ratio.median > margin:
        return "faster"
    if ratio.low >= 1 / margin and ratio.high <= margin:
        return "same"
    return "undecided"


def _notes(before: SuiteReport, after: SuiteReport) -> list[str]:
    notes = []
    if before.machine.fingerprint != after.machine.fingerprint:
        notes.append(f"the machines differ: {before.machine.processor} and {after.machine.processor}")
    for name, old in before.machine.versions.items():
        new = after.machine.versions.get(name, "none")
        if new != old and name != "tilewright":
            notes.append(f"{name} differs: {old} and {new}")
    if before.options.budget != after.options.budget:
        notes.append(f"tuning time differs: {before.options.budget} and {after.options.budget}")
    return notes


def comparison_text(found: Comparison) -> str:
    """The comparison as lines of text, what needs attention first."""
    order: dict[str, int] = {"slower": 0, "missing": 1, "faster": 2, "undecided": 3, "same": 4}
    width = max((len(change.row) for change in found.changes), default=0)
    lines = [f"note: {note}" for note in found.notes]
    for change in sorted(found.changes, key=lambda change: order[change.verdict]):
        lines.append(
            f"{change.verdict:9s}  {change.row:{width}s}  {change.side:8s}  {change.allocator:12s}  "
            f"{_change_text(change)}"
        )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.counts().items(), key=_first(order)))
    lines.append(f"{counts or 'nothing to compare'}; changes up to {found.margin:g}x count as none")
    lines.append("REGRESSED" if found.regressed else "no regression found")
    return "\n".join(lines)


def _first(order: dict[str, int]):
    return lambda item: order[item[0]]


def _change_text(change: Change) -> str:
    if change.ratio is None:
        return change.reason.splitlines()[0] if change.reason else "no result"
    return f"{change.ratio.median:.3f}x as fast [{change.ratio.low:.3f}, {change.ratio.high:.3f}]"
