"""Regret curves as a picture."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np

from .search_report import SearchReport, slowdowns

_COLUMNS = 3
_STYLES = ("solid", "dashed", "dashdot", "dotted")


def draw(report: SearchReport, path: Path) -> None:
    """Draw one panel per workload: median regret over seeds by trials, quartiles shaded.

    Args:
        report: what to draw.
        path: the file; its suffix says the format.

    Raises:
        RuntimeError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError("drawing needs Matplotlib: pip install 'tilewright[bench]'") from None
    rows = -(-len(report.workloads) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.3 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True).flat
    trials = np.arange(1, report.trials + 1)
    worst = 1.0
    for workload, panel in zip(report.workloads, panels, strict=False):
        for strategy, style in zip(workload.runs, cycle(_STYLES), strict=False):
            regret = 100 * (slowdowns(workload, strategy, report.trials) - 1)
            low, middle, high = np.quantile(regret, (0.25, 0.5, 0.75), axis=0)
            worst = max(worst, high.max(where=np.isfinite(high), initial=0.0))
            (line,) = panel.plot(trials, middle, label=strategy, linewidth=1.3, linestyle=style)
            panel.fill_between(trials, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_title(f"{workload.name}, {workload.distinct or workload.points} points", fontsize=9)
        panel.set_xscale("log", base=2)
        panel.set_yscale("symlog", linthresh=1)
        panel.set_yticks((0, 0.5, 1, 10))
        panel.set_ylim(0, 1.2 * worst)
        panel.tick_params(labelsize=7, labelbottom=True)
        panel.set_xlabel("trials", fontsize=7)
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.yaxis.set_major_formatter("{x:g}%")
    for panel in panels:
        panel.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.supylabel("slower than the best known", fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "tilewright", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
