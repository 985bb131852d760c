"""Regret of search strategies: how much slower than the best known candidate is the best one after n trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

MARKS = (8, 16, 32, 64, 128, 256)
"""Numbers of trials that tables show."""
_DRAWS = 2000


class WorkloadCurves(BaseModel):
    """All searches of one workload.

    Args:
        name: of the workload.
        points: combinations of decisions.
        distinct: different schedules among them; None if the space is too large to list.
        measured: candidates that some search asked for.
        failures: how many of them failed.
        default_us: latency of the schedule that is chosen without measuring.
        best_us: latency of the fastest candidate that anything found.
        repeatability: relative distance of a race from the median of a candidate's races, median.
        runs: by strategy, per seed, microseconds of each trial in order; None for failures.
        asking_ms: by strategy, milliseconds per trial that proposing took, median over seeds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    points: int
    distinct: int | None
    measured: int
    failures: int
    default_us: float = Field(gt=0)
    best_us: float = Field(gt=0)
    repeatability: float
    runs: dict[str, list[list[float | None]]]
    asking_ms: dict[str, float]


class SearchReport(BaseModel):
    """A comparison of strategies.

    Args:
        date: when it was finished.
        machine: the processor.
        threads: that the kernels ran on.
        versions: of what decides about speed.
        command: the arguments of the benchmark.
        trials: candidates per search.
        batch: candidates per batch.
        workloads: the searches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["tilewright search comparison 1"] = "tilewright search comparison 1"
    date: str
    machine: str
    threads: int
    versions: dict[str, str]
    command: str
    trials: int
    batch: int
    workloads: list[WorkloadCurves]


def slowdowns(workload: WorkloadCurves, strategy: str, trials: int) -> NDArray[np.float64]:
    """Best latency so far over the best known one.

    Args:
        workload: its searches.
        strategy: which of them.
        trials: length of the curves; a search that had nothing left to try keeps its last value.

    Returns:
        float64[seeds, trials], infinite before the first success.
    """
    curves = np.full((len(workload.runs[strategy]), trials), np.inf)
    for curve, run in zip(curves, workload.runs[strategy], strict=True):
        found = [np.inf if us is None else us for us in run[:trials]]
        curve[: len(found)] = found
    return np.minimum.accumulate(curves, axis=1) / workload.best_us


def mean_slowdown(report: SearchReport, strategy: str, mark: int) -> float:
    """Geometric mean over workloads and seeds of the slowdown after ``mark`` trials."""
    return float(np.exp(np.mean(_logarithms(report, strategy, mark))))


def compared(report: SearchReport, strategy: str, other: str, mark: int) -> tuple[float, float, float]:
    """Geometric mean of a strategy's latency over another's after ``mark`` trials, below 1 it found faster ones.

    Returns:
        The mean, and a 95% interval from drawing the workloads anew: seeds of one workload hardly differ, so they say
        little about other workloads.
    """
    ratios = (_logarithms(report, strategy, mark) - _logarithms(report, other, mark)).mean(1)
    draws = np.random.default_rng(0).integers(len(ratios), size=(_DRAWS, len(ratios)))
    low, high = np.exp(np.quantile(ratios[draws].mean(1), (0.025, 0.975)))
    return float(np.exp(ratios.mean())), float(low), float(high)


def _logarithms(report: SearchReport, strategy: str, mark: int) -> NDArray[np.float64]:
    """float64[workloads, seeds]."""
    return np.log([slowdowns(w, strategy, report.trials)[:, mark - 1] for w in report.workloads])


def table_text(report: SearchReport) -> str:
    """The comparison as Markdown tables."""
    marks = [mark for mark in MARKS if mark <= report.trials]
    strategies = list(report.workloads[0].runs)
    return "\n\n".join(
        (
            _heading(report),
            _summary(report, strategies, marks),
            _by_workload(report, strategies, marks),
            _spaces(report),
        )
    )


def _heading(report: SearchReport) -> str:
    seeds = len(next(iter(report.workloads[0].runs.values())))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"{report.date}, {report.machine}, {report.threads} threads, {versions}\n"
        f"{report.trials} trials in batches of {report.batch}, {seeds} seeds, `{report.command}`"
    )


def _summary(report: SearchReport, strategies: Sequence[str], marks: Sequence[int]) -> str:
    first = strategies[0]
    means, ratios = [], []
    for strategy in strategies:
        asking = float(np.median([w.asking_ms[strategy] for w in report.workloads]))
        cells = [f"{mean_slowdown(report, strategy, mark):.3f}" for mark in marks]
        means.append([strategy, *cells, f"{asking:.1f}"])
        if strategy != first:
            found = [compared(report, strategy, first, mark) for mark in marks]
            ratios.append([strategy, *("{:.3f} ({:.3f} to {:.3f})".format(*cell) for cell in found)])
    columns = [f"{mark} trials" for mark in marks]
    text = "Slowdown against the best known candidate, geometric mean over workloads and seeds:\n\n"
    text += _markdown(["strategy", *columns, "ms per proposal"], means)
    if ratios:
        text += f"\n\nLatency found over that of {first}, geometric mean (95% interval over workloads):\n\n"
        text += _markdown(["strategy", *columns], ratios)
    return text


def _by_workload(report: SearchReport, strategies: Sequence[str], marks: Sequence[int]) -> str:
    rows = []
    for workload in report.workloads:
        for strategy in strategies:
            regret = 100 * (slowdowns(workload, strategy, report.trials) - 1)
            cells = [
                "{1:.1f} ({0:.1f} to {2:.1f})".format(*np.quantile(regret[:, m - 1], (0.25, 0.5, 0.75))) for m in marks
            ]
            rows.append([workload.name, strategy, *cells])
    head = ["workload", "strategy", *(f"{mark} trials" for mark in marks)]
    return "Regret in percent, median over seeds (quartiles):\n\n" + _markdown(head, rows)


def _spaces(report: SearchReport) -> str:
    rows = [
        [
            w.name,
            str(w.points),
            "-" if w.distinct is None else str(w.distinct),
            str(w.measured),
            str(w.failures),
            f"{w.default_us:.1f}",
            f"{w.best_us:.1f}",
            f"{w.default_us / w.best_us:.2f}",
            f"{100 * w.repeatability:.1f}%",
        ]
        for w in report.workloads
    ]
    head = ["workload", "points", "distinct", "measured", "failed", "default us", "best us", "ratio", "repeatability"]
    return _markdown(head, rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
