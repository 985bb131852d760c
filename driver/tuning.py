"""Tuning the tasks of a function: what the search needs, put together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..backends.measure.runner import WorkerRunner
from ..costmodel.dataset import TrainingData, from_rows
from ..database.store import Database
from ..ir.measure import MeasureData, TaskKey
from ..ir.target import Target
from ..search.effort import EFFORTS
from ..search.strategies import strategy_named
from ..search.tune import Progress as Step
from ..search.tune import SearchBudget, TuneResult, TuneTask, tune_tasks
from .kernels import BACKEND, build_kernel
from .options import Options
from .planning import Task

MAX_HISTORY = 4000
"""Records of earlier runs that the cost model is trained on."""


def search_budget(options: Options) -> SearchBudget:
    """What tuning may cost: the user's budget, else what the effort allows."""
    if options.budget is None:
        return SearchBudget(seconds=EFFORTS[options.effort].seconds)
    return SearchBudget(options.budget.seconds, options.budget.trials)


def tune(
    tasks: Sequence[tuple[Task, TaskKey, MeasureData]],
    target: Target,
    options: Options,
    budget: SearchBudget,
    runner: WorkerRunner,
    database: Database,
) -> TuneResult:
    """Search schedules for tasks within a budget; Ctrl-C ends it with the best so far.

    Args:
        tasks: with the key of their records, arguments and reference results.
        target: the CPU.
        options: effort, strategy, seed, progress.
        budget: what it may cost.
        runner: measures.
        database: remembers.
    """
    level = EFFORTS[max(options.effort, 1)]
    with _display(options.progress, budget) as show:
        return tune_tasks(
            [TuneTask(key, t.workload.func, target, float(t.count), data) for t, key, data in tasks],
            runner,
            database,
            budget,
            build=lambda task, candidate: build_kernel(task.key.workload_digest, task.func, candidate.trace, target),
            rng=np.random.default_rng(options.seed),
            strategy=strategy_named(options.strategy),
            timing=level.timing(target.threads),
            batch=level.batch,
            progress=show,
            history=_history(database, target),
            builders=target.threads,
            seed=options.seed,
        )


def _history(database: Database, target: Target) -> TrainingData:
    """What earlier runs on this machine measured, for the cost model to start from."""
    rows = database.records(target=target.fingerprint, backend=BACKEND, status="ok")
    return from_rows(itertools.islice(rows, MAX_HISTORY))


@contextmanager
def _display(wanted: bool, budget: SearchBudget) -> Iterator[Callable[[Step], None] | None]:
    """A progress bar on standard error: trials, how much faster than the default, time left."""
    if not wanted:
        yield None
        return
    columns = (
        TextColumn("tuning"),
        BarColumn(),
        TextColumn("{task.fields[trials]} trials, {task.fields[gain]:.2f}x the default schedules"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("tuning", total=budget.seconds or budget.trials, trials=0, gain=1.0)

        def show(step: Step) -> None:
            done = step.elapsed_s if budget.seconds is not None else step.trials
            gain = step.default_s / step.now_s if step.now_s else 1.0
            bars.update(bar, completed=done, trials=step.trials, gain=gain)

        yield show
