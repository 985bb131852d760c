"""A report as a table of text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .messages import JIT
from .report import ModeResult, RowResult, SideResult, SuiteReport
from .summary import SLOWER, Summary, by_family, summaries

_SUMMARY_CAPTION = (
    "mean: geometric, of the speed-ups over jax.jit. slower: rows below {slower}x. ahead of peers: rows that are at "
    "least as fast as the fastest peer of the row, and the lowest ratio to it."
)
_WIDE = 1000  # never wrap: the table takes the width that its numbers need
_CAPTION = (
    "ms: median of a call. speed-up: jax.jit's time over this side's, by pairs, with a 95% interval. roof: time over "
    "the least that the measured limits allow. error: worst, in units of what the accuracy contract allows. "
    "copy GB/s: state of memory beside the row."
)


def table_text(report: SuiteReport) -> str:
    """The report for a terminal: one line per row, allocator mode and side."""
    console = Console(width=_WIDE, color_system=None, force_terminal=False)
    table = Table(title=_title(report), caption=_CAPTION)
    for heading in ("row", "allocator", "copy GB/s", "side"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms", "speed-up", "GFLOP/s", "GB/s", "roof", "error", "compiled s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for family, rows in by_family(report):
        if family:
            table.add_row(f"-- {family} --", end_section=True)
        for row in rows:
            _add_row(table, report, row)
            table.add_section()
    with console.capture() as captured:
        console.print(table)
        console.print(_summary_table(report))
        console.print(_limits(report), markup=False, highlight=False)
        for line in [*missing_lines(report), *_failure_lines(report)]:
            console.print(line, markup=False, highlight=False)
    return captured.get()


def _summary_table(report: SuiteReport) -> Table:
    table = Table(caption=_SUMMARY_CAPTION.format(slower=SLOWER))
    for heading in ("effort", "allocator", "family"):
        table.add_column(heading, no_wrap=True)
    for heading in ("rows", "mean", "median", "lowest", "slower", "ahead of peers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for found in summaries(report):
        table.add_row(found.effort, found.allocator, found.family, *summary_cells(found))
    return table


def summary_cells(found: Summary) -> tuple[str, ...]:
    """The numbers of a summary as text."""
    speedups = (f"{found.mean:.2f}x", f"{found.median:.2f}x", f"{found.lowest:.2f}x")
    return str(len(found.speedups)), *speedups, str(found.slower), found.peers_text()


def rows_text(count: int) -> str:
    """A number of rows."""
    return f"{count} row{'' if count == 1 else 's'}"


def missing_lines(report: SuiteReport) -> list[str]:
    """Why sides were not measured, each reason once with the rows it stands for."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in report.rows:
        for side in (side for mode in row.modes for side in mode.sides if side.status != "measured"):
            found.setdefault((side.name, side.status, side.reason), {})[row.name] = None
    return [f"{name}: {status} ({', '.join(rows)}): {why}" for (name, status, why), rows in found.items()]


def _failure_lines(report: SuiteReport) -> list[str]:
    return [f"FAILED {row.name}: {row.failure}" for row in report.rows if row.failure]


def _title(report: SuiteReport) -> str:
    machine = report.machine
    commit = f", commit {machine.commit}" if machine.commit else ""
    return f"suite {report.options.suite} on {machine.processor}, {machine.threads} threads{commit}"


def _limits(report: SuiteReport) -> str:
    machine = report.machine
    return (
        f"limits at the start: {machine.peak_gflops:.0f} GFLOP/s float32, memory {machine.memory_gbs:.0f} GB/s, "
        f"last-level cache {machine.cache_gbs:.0f} GB/s"
    )


def _add_row(table: Table, report: SuiteReport, row: RowResult) -> None:
    if row.failure:
        table.add_row(row.name, "", "", "failed")
        return
    for number, mode in enumerate(row.modes):
        for position, side in enumerate(mode.sides):
            name = row_label(row) if number == position == 0 else ""
            state = (mode.allocator, state_text(mode)) if position == 0 else ("", "")
            table.add_row(name, *state, *_side_cells(report, row, side))


def _side_cells(report: SuiteReport, row: RowResult, side: SideResult) -> list[str]:
    if side.status != "measured":
        return [side_label(side)]
    roof = roof_share(report, row, side)
    return [
        side_label(side),
        f"{side.median_ms:.4g}",
        "" if side.name == JIT else speedup_text(side),
        f"{rate(row.flops, side):.4g}",
        f"{rate(row.bytes, side):.4g}",
        "" if roof is None else f"{roof:.1f}x",
        error_text(side),
        " / ".join(f"{seconds:.1f}" for seconds in side.compile_s),
    ]


def row_label(row: RowResult) -> str:
    """The row, with what it computes where the name does not say it."""
    return f"{row.name} {row.detail}".strip()


def side_label(side: SideResult) -> str:
    """The side, with how it ran or why it did not where that is worth knowing."""
    if side.status != "measured":
        return f"{side.name} ({side.status})"
    return side.name if side.ran in ("", "native") else f"{side.name} ({side.ran})"


def state_text(mode: ModeResult) -> str:
    """Lowest and highest rate of memory beside a row."""
    return f"{min(mode.copy_gbs):.0f}-{max(mode.copy_gbs):.0f}"


def speedup_text(side: SideResult) -> str:
    """A speed-up with its interval."""
    found = side.speedup
    return "" if found is None else f"{found.median:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def error_text(side: SideResult) -> str:
    """The worst error in units of the limit."""
    share = side.error_share
    if share is None:
        return ""
    return f"{share:.2f}" if side.accurate else f"BROKEN {share:.2g}"


def rate(amount: int, side: SideResult) -> float:
    """Billions per second: GFLOP/s for operations, GB/s for bytes."""
    return amount / side.median_ms / 1e6


def roof_share(report: SuiteReport, row: RowResult, side: SideResult) -> float | None:
    """Time over the roofline's bound; None where the bound is not known."""
    bound = report.machine.bound_s(row.flops, row.bytes, row.dtype)
    return side.median_ms / 1e3 / bound if bound else None
