"""Which search strategy finds good schedules in how many trials: regret curves on measured latencies.

    python -m tilewright.bench.search --trials 64 --seeds 5 --folder search-comparison --plot docs/search-regret.svg

Every strategy searches every workload from every seed, without a database, with the cost model learning as in
`tilewright.compile`. Candidates that some search asks for are measured and kept in a table that all searches share: so
they are compared on the same ground, and the machine's noise does not decide. With `--minutes` the run ends after that
time and goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from ..backends.measure.runner import WorkerRunner
from ..costmodel.dataset import Sample, save_samples
from ..driver.kernels import BACKEND
from ..ir.measure import TimingProtocol
from ..ir.target import Target, detect_target
from ..passes.schedule import SCHEDULE_VERSION
from ..search.base import Runner
from ..search.space import SearchSpace
from .search_cases import CASES, make_task
from .search_contestants import CONTESTANTS
from .search_oracle import Oracle, OutOfTimeError, trace_digest
from .search_plot import draw
from .search_report import SearchReport, WorkloadCurves, table_text
from .search_runs import Run, run_search

DEFAULT_WORKLOADS = tuple(name for name in CASES if name not in ("layer-norm", "softmax"))
"""Those with at least 64 different schedules; on the others every strategy finds the best one at once."""


Runs = dict[str, list[Run]]
"""Searches by strategy, one per seed."""


def search_workload(oracle: Oracle, options: argparse.Namespace) -> Runs:
    """Run all searches of one workload, until all that they ask for is measured well.

    Raises:
        OutOfTimeError: measurements are missing, and the time is over.
    """
    while True:
        runs = {
            strategy: [_search(oracle, strategy, seed, options) for seed in range(options.seeds)]
            for strategy in options.strategies
        }
        if not oracle.unsettled:
            return runs
        oracle.settle()


def _search(oracle: Oracle, strategy: str, seed: int, options: argparse.Namespace) -> Run:
    factory = CONTESTANTS[strategy]
    return run_search(oracle.task, factory, oracle.latencies, trials=options.trials, batch=options.batch, seed=seed)


def _curves(name: str, space: SearchSpace, oracle: Oracle, runs: Runs) -> WorkloadCurves:
    return WorkloadCurves(
        name=name,
        points=space.size,
        distinct=len({c.key for c in space.enumerate()}) if space.enumerable else None,
        measured=len(oracle.table.rows),
        failures=sum(not row.ratios for row in oracle.table.rows.values()),
        default_us=_microseconds(oracle.table.default_s),
        best_us=_microseconds(oracle.best_s),
        repeatability=float(f"{oracle.repeatability:.3g}"),
        runs={
            strategy: [[None if s is None else _microseconds(s) for s in run.latencies] for run in own]
            for strategy, own in runs.items()
        },
        asking_ms={
            strategy: float(f"{median(1e3 * run.asking_s / len(run.latencies) for run in own):.3g}")
            for strategy, own in runs.items()
        },
    )


def compare(options: argparse.Namespace, target: Target, runner: Runner) -> SearchReport | None:
    """Run all searches; None if the time ended before all candidates were measured."""
    timing = TimingProtocol(target.threads, quick_repeats=9, repeats=9, budget_s=0.1)
    deadline = time.monotonic() + 60 * options.minutes
    workloads, samples = [], []
    for name in options.workloads:
        task = make_task(CASES[name], target)
        space = SearchSpace(task.func, target)
        oracle = Oracle(task, space, runner, options.folder / f"{name}.json", timing, deadline)
        try:
            workloads.append(_curves(name, space, oracle, search_workload(oracle, options)))
        except OutOfTimeError as error:
            print(f"{name}: {error}; run it again to go on", file=sys.stderr)
            return None
        print(f"{name}: {len(oracle.table.rows)} of {space.size} points measured", file=sys.stderr, flush=True)
        if options.save is not None and space.enumerable:
            rows = oracle.table.rows
            known = {trace_digest(c): c for c in space.enumerate()}
            samples += [
                Sample(name, task.key.workload_text, known[d].key, oracle.latency(d))
                for d in rows
                if d in known and rows[d].ratios
            ]
    if options.save is not None:
        save_samples(options.save, samples, target)
    return SearchReport(
        date=datetime.date.today().isoformat(),
        machine=target.name,
        threads=target.threads,
        versions={
            "tilewright": version("tilewright"),
            "backend": BACKEND,
            "schedules": str(SCHEDULE_VERSION),
            "lightgbm": version("lightgbm"),
        },
        command=options.command,
        trials=options.trials,
        batch=options.batch,
        workloads=workloads,
    )


def _microseconds(seconds: float) -> float:
    return float(f"{1e6 * seconds:.5g}")


def _names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"expected some of {','.join(allowed)}, found {name!r}")
        return names

    return parse


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench.search", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--trials", type=int, default=64, help="candidates per search")
    parser.add_argument("--seeds", type=int, default=5, help="searches per strategy and workload")
    parser.add_argument("--batch", type=int, default=8, help="candidates per batch")
    parser.add_argument("--workloads", type=_names(tuple(CASES)), default=list(DEFAULT_WORKLOADS))
    parser.add_argument("--strategies", type=_names(tuple(CONTESTANTS)), default=list(CONTESTANTS))
    parser.add_argument("--folder", type=Path, default=Path("search-comparison"), help="keeps latencies and report")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop measuring after this time")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file (needs Matplotlib)")
    parser.add_argument("--save", type=Path, help="write what was measured as training data for the cost model")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    options.command = " ".join([parser.prog, *words])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if it is not complete yet."""
    options = parse_options(arguments)
    with WorkerRunner() as runner:
        report = compare(options, detect_target(), runner)
    if report is None:
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "report.json").write_text(report.model_dump_json())
    print(table_text(report))
    if options.plot is not None:
        draw(report, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
