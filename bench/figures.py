"""The figures of the page as SVG text; colours are variables of the page, so that it can be light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .messages import JIT
from .report import RowResult, SideResult, SuiteReport
from .sessions import ALLOCATORS
from .table import rate

# Stand-ins that are replaced by the page's variables.
_INK, _FAINT, _BASE, _PAGE, _CARD = "#010203", "#040506", "#070809", "#222324", "#252627"
_SERIES = ("#0a0b0c", "#0d0e0f", "#101112", "#131415", "#161718", "#191a1b", "#1c1d1e", "#1f2021")
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _BASE: "var(--base)",
    _PAGE: "var(--page)",
    _CARD: "var(--card)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tilewright",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "ytick.major.size": 0.0,
}
_ROW_INCHES = 0.42
_LEGEND_COLUMNS = 8


def speedup_figure(report: SuiteReport) -> str:
    """Bars of our speed-ups over `jax.jit` with their intervals, one panel per allocator mode; peers are diamonds."""
    rows = [row for row in report.rows if not row.failure]
    ours = [f"effort {effort}" for effort in report.options.efforts]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.0, 1.4 + _ROW_INCHES * max(len(rows), 1)), layout="constrained")
        panels = figure.subplots(1, len(ALLOCATORS), sharey=True, sharex=True, squeeze=False)[0]
        for panel, allocator in zip(panels, ALLOCATORS, strict=True):
            panel.set_title(allocator, loc="left", fontsize=10)
            for position, row in enumerate(rows):
                _row_bars(panel, position, row, allocator, ours, report.options.peers)
            panel.axvline(1.0, color=_BASE, linewidth=1.2)
            panel.set_xlabel("speed-up over jax.jit, logarithmic; right of 1x is faster")
            panel.grid(False, axis="y")
            for position in range(1, len(rows), 2):
                panel.axhspan(position - 0.5, position + 0.5, color=_CARD, zorder=0)
        panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[0].set_xscale("log")  # the panels share it
        _plain_ticks(panels[0].xaxis, *panels[0].get_xlim(), unit="x")
        _legend(figure, panels[0], report)
        return _svg(figure, "Speed-up over jax.jit of every row, with 95% intervals")


def _row_bars(
    panel: Any, position: int, row: RowResult, allocator: str, ours: Sequence[str], peers: Sequence[str]
) -> None:
    mode = row.mode(allocator)
    if mode is None:
        return
    height = 0.8 / max(len(ours), 1)
    for index, name in enumerate(ours):
        side = mode.side(name)
        if side is None or side.speedup is None:
            continue
        found = side.speedup
        middle = position - 0.4 + height * (index + 0.5)
        panel.barh(middle, found.median - 1.0, height * 0.9, left=1.0, color=_SERIES[index])
        bounds = [[max(found.median - found.low, 0.0)], [max(found.high - found.median, 0.0)]]
        panel.errorbar(found.median, middle, xerr=bounds, color=_INK, linewidth=1.0, capsize=2.0)
    for index, name in enumerate(peers, len(ours)):
        side = mode.side(name)
        if side is not None and side.speedup is not None:
            # Each at a height of its own: peers that are equally fast must not cover each other.
            middle = position - 0.4 + 0.8 * (index - len(ours) + 0.5) / len(peers)
            panel.plot(side.speedup.median, middle, "D", **_peer_style(index))


def _legend(figure: Any, panel: Any, report: SuiteReport) -> None:
    handles = []
    efforts = [f"Tilewright, effort {effort}" for effort in report.options.efforts]
    for index, name in enumerate(efforts):
        handles.append(panel.barh(math.nan, math.nan, color=_SERIES[index], label=name))
    for index, name in enumerate(report.options.peers, len(efforts)):
        handles += panel.plot([], [], "D", **_peer_style(index), label=name)
    handles += panel.plot([], [], color=_BASE, linewidth=1.2, label="jax.jit")
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), _LEGEND_COLUMNS), frameon=False)


def _peer_style(index: int) -> dict[str, Any]:
    colour = _SERIES[index % len(_SERIES)]
    return {"color": colour, "markersize": 5.5, "markeredgecolor": _PAGE, "markeredgewidth": 0.6, "zorder": 4}


def _plain_ticks(axis: Any, low: float, high: float, unit: str = "") -> None:
    """Numbers as one writes them on a logarithmic axis, as many as a few decades or a part of one need."""
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    if decades < 0.5:
        steps = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,g}{unit}")


def roofline_figure(report: SuiteReport, allocator: str) -> str:
    """Rates over arithmetic intensity: `jax.jit` hollow, our highest effort numbered, under the measured roofs.

    Only float32 rows: the peak of other element types is not measured.
    """
    name = f"effort {max(report.options.efforts)}"
    points = [found for row in report.rows if (found := _point(row, allocator, name)) is not None]
    points.sort(key=lambda point: point[1])
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.0, 5.2), layout="constrained")
        axes, names = figure.subplots(1, 2, width_ratios=(6.0, 1.0))
        _roofs(axes, report, [intensity for _, intensity, _, _ in points])
        for number, (_, intensity, usual, ours) in enumerate(points, 1):
            axes.plot([intensity] * 2, [usual, ours], color=_BASE, linewidth=0.8, zorder=2)
            axes.plot(intensity, usual, "o", markerfacecolor="none", markeredgecolor=_BASE, markersize=6.0)
            axes.plot(intensity, ours, "o", color=_SERIES[1], markersize=11.0, zorder=3)
            place = {"ha": "center", "va": "center_baseline", "zorder": 4}
            axes.text(intensity, ours, str(number), color=_PAGE, fontsize=7.0, **place)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes.xaxis, *axes.get_xlim())
        _plain_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlabel("floating-point operations per byte of minimal traffic")
        axes.set_ylabel("GFLOP/s")
        axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=_BASE, label="jax.jit")
        axes.plot([], [], "o", color=_SERIES[1], markersize=9.0, label=f"Tilewright, {name}")
        axes.legend(loc="lower right", frameon=False)
        names.set_axis_off()
        for number, (row, *_) in enumerate(points, 1):
            names.text(0.0, 1.0 - (number - 0.5) / max(len(points), 20), f"{number:2d}  {row.name}", fontsize=8.5)
        return _svg(figure, f"Roofline of this machine with every float32 row, {allocator}")


def _point(row: RowResult, allocator: str, name: str) -> tuple[RowResult, float, float, float] | None:
    """Row, operations per byte, rate of `jax.jit` and ours; None if there is nothing to show."""
    mode = row.mode(allocator)
    sides: list[SideResult | None] = [None, None] if mode is None else [mode.side(JIT), mode.side(name)]
    if row.dtype != "float32" or row.flops == 0 or row.bytes == 0:
        return None
    usual, ours = sides
    if usual is None or ours is None or usual.status != "measured" or ours.status != "measured":
        return None
    return row, row.flops / row.bytes, rate(row.flops, usual), rate(row.flops, ours)


def _roofs(axes: Any, report: SuiteReport, intensities: Sequence[float]) -> None:
    machine = report.machine
    low, high = min(intensities, default=0.1) / 3, max(intensities, default=100.0) * 3
    x = np.geomspace(low, high, 200)
    roofs = (("memory", machine.memory_gbs, "-"), ("last-level cache", machine.cache_gbs, "--"))
    for name, gbs, style in roofs:
        line = np.minimum(gbs * x, machine.peak_gflops)
        axes.plot(x, line, style, color=_INK, linewidth=1.2, label=f"{name}, {gbs:.0f} GB/s")
    label = f"float32 peak, {machine.peak_gflops:.0f} GFLOP/s"
    axes.annotate(
        label, (high, machine.peak_gflops), xytext=(-2, 4), textcoords="offset points", ha="right", fontsize=8
    )


def _svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element that takes the page's colours and width."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # The width is the page's business; the view box keeps the proportions.
    return re.sub(r'(<svg)[^>]*?(viewBox="[^"]*")[^>]*>', r"\1 \2>", text, count=1)
