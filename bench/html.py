"""A report as one HTML page: figures, table and every detail, with nothing to load from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .messages import JIT
from .report import RowResult, SideResult, SuiteOptions, SuiteReport
from .sessions import ALLOCATORS
from .summary import ALL_ROWS, SLOWER, by_family, summaries
from .table import (
    error_text,
    rate,
    roof_share,
    row_label,
    rows_text,
    side_label,
    speedup_text,
    state_text,
    summary_cells,
)

_MAX_NOTE = 200  # what a process said before it died can be long; the JSON has it
_LIBRARIES = ("jinja2", "matplotlib")
_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table, as text."""

    row: str
    allocator: str
    state: str
    side: str
    verdict: str
    note: str
    cells: tuple[str, ...] = ()


class PageError(RuntimeError):
    """The page's libraries are not installed; `remedy` says how to get them."""

    remedy = "pip install 'tilewright[bench]'"


def need_page_libraries() -> None:
    """Look for the libraries of the page, which are no dependencies, before hours of measuring are spent on it.

    Raises:
        PageError: Some are not installed.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise PageError(f"--html needs {', '.join(missing)}")


def write_html(report: SuiteReport, path: Path) -> None:
    """Write the page.

    Args:
        report: What was found.
        path: The file; it is replaced.

    Raises:
        PageError: The page's libraries are not installed.
    """
    need_page_libraries()
    from jinja2 import Environment, StrictUndefined

    from .figures import roofline_figure, speedup_figure

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    measured = [row for row in report.rows if not row.failure]
    text = page.render(
        report=report,
        machine=report.machine,
        cards=_cards(report),
        speedups=speedup_figure(report) if measured else "",
        rooflines=[(allocator, roofline_figure(report, allocator)) for allocator in ALLOCATORS] if measured else [],
        summaries=[(f.effort, f.allocator, f.family, *summary_cells(f)) for f in summaries(report)],
        slower=SLOWER,
        groups=[(family, [line for row in rows for line in _lines(report, row)]) for family, rows in by_family(report)],
        failures=[row for row in report.rows if row.failure],
        explanations=[found for row in report.rows if (found := _explanation(row)) is not None],
        options=_options(report.options),
    )
    path.write_text(text, encoding="utf-8")


def _options(options: SuiteOptions) -> list[tuple[str, str]]:
    """What was asked for, in words."""
    return [
        ("efforts", ", ".join(map(str, options.efforts))),
        ("tuning time", f"{options.budget} per row, effort and allocator"),
        ("peers", ", ".join(options.peers) or "none"),
        ("processes", f"{options.repeats} per row and allocator"),
        ("samples", f"at most {options.rounds} per side and process, for about {options.timing_s:g} s"),
        ("time for a row", f"{options.row_timeout_s:g} s at most"),
        ("compared with float64", f"{options.accuracy_inputs} inputs"),
        ("seed", str(options.seed)),
    ]


def _cards(report: SuiteReport) -> list[tuple[str, str, str]]:
    """The run in a few numbers: heading, figure, remark."""
    cards = []
    for found in summaries(report):
        if found.family == ALL_ROWS:
            rows = rows_text(len(found.speedups))
            remark = f"geometric mean of {rows}, {found.allocator}; lowest {found.lowest:.2f}x"
            if found.peer_ratios:
                remark += f"; ahead of the best peer on {found.peers_text()}"
            cards.append((f"Tilewright, {found.effort}", f"{found.mean:.2f}x", remark))
    broken = sum(side.accurate is False for row in report.rows for side in _ours(row))
    checked = sum(side.accurate is not None for row in report.rows for side in _ours(row))
    failed = sum(bool(row.failure) for row in report.rows)
    cards.append(("accuracy contract", f"{checked - broken}/{checked}", "results of ours that keep it"))
    cards.append(("rows", f"{len(report.rows) - failed}/{len(report.rows)}", "measured"))
    return cards


def _ours(row: RowResult) -> list[SideResult]:
    return [side for mode in row.modes for side in mode.sides if side.name.startswith("effort")]


def _lines(report: SuiteReport, row: RowResult) -> Sequence[_Line]:
    if row.failure:
        return [_Line(row.name, "", "", "", "bad", "failed: see below")]
    found = []
    for number, mode in enumerate(row.modes):
        for position, side in enumerate(mode.sides):
            name = row_label(row) if number == position == 0 else ""
            allocator, state = (mode.allocator, state_text(mode)) if position == 0 else ("", "")
            found.append(_line(report, row, side, name, allocator, state))
    return found


def _line(report: SuiteReport, row: RowResult, side: SideResult, name: str, allocator: str, state: str) -> _Line:
    if side.status != "measured":
        return _Line(name, allocator, state, side.name, "muted", f"{side.status}: {side.reason}"[:_MAX_NOTE])
    roof = roof_share(report, row, side)
    cells = (
        f"{side.median_ms:.4g}",
        "" if side.name == JIT else speedup_text(side),
        f"{rate(row.flops, side):.4g}",
        f"{rate(row.bytes, side):.4g}",
        "" if roof is None else f"{roof:.1f}x",
        error_text(side),
        " / ".join(f"{seconds:.1f}" for seconds in side.compile_s),
    )
    return _Line(name, allocator, state, side_label(side), _verdict(side), "", cells)


def _verdict(side: SideResult) -> str:
    """Class of a line: how the interval lies to 1."""
    if side.accurate is False:
        return "bad"
    if side.name == JIT or side.speedup is None:
        return ""
    if side.speedup.low > 1:
        return "faster"
    return "slower" if side.speedup.high < 1 else ""


def _explanation(row: RowResult) -> Any:
    """Row and report of the highest effort, if it said something."""
    found = [side for side in _ours(row) if side.explanation]
    return (row.name, found[-1].name, found[-1].explanation) if found else None
