"""Tuning: divide a budget among workloads, propose, build, measure, and keep what is confirmed to be faster."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ..costmodel.anatomy import dissect
from ..costmodel.base import CostModel
from ..costmodel.dataset import TrainingData
from ..costmodel.features import FEATURE_NAMES
from ..costmodel.gbdt import GbdtCostModel
from ..ir.measure import TimingProtocol
from ..passes.schedule import ScheduleError, trace_from_json
from .base import Database, Runner, SearchStrategy
from .contest import Build, Contest, TuneTask
from .effort import EFFORTS
from .outcome import Outcome, Progress, SearchBudget, Source, StopReason, TuneResult
from .ranking import Ranker
from .space import Candidate, SearchSpace
from .strategies import DEFAULT_STRATEGY, STRATEGIES, StrategyFactory
from .task_scheduler import TaskScheduler, TaskState

__all__ = ["Outcome", "Progress", "SearchBudget", "TuneResult", "TuneTask", "tune_tasks"]

_KNOWN = 2
"""Traces from the database that are measured again beside the default."""
_REMEMBERED = 10_000
_LEARN_GROWTH = 1.05
_SETTLE_S = 0.05
_PREDICTED = FEATURE_NAMES.index("log_predicted")


def tune_tasks(
    tasks: Sequence[TuneTask],
    runner: Runner,
    database: Database | None,
    budget: SearchBudget,
    *,
    build: Build,
    rng: np.random.Generator,
    strategy: StrategyFactory = STRATEGIES[DEFAULT_STRATEGY],
    model: CostModel | None = None,
    history: TrainingData | None = None,
    timing: TimingProtocol | None = None,
    batch: int = EFFORTS[1].batch,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    builders: int | None = None,
    seed: int = 0,
) -> TuneResult:
    """Search schedules for the distinct workloads of a model.

    The search can be interrupted at any time (Ctrl-C): what is confirmed so far is returned. A candidate's failure is
    a record in the database, never the end. A choice differs from the default only if paired comparisons with fresh
    measurements confirmed that it is faster.

    Args:
        tasks: the workloads.
        runner: measures candidates.
        database: what is known, and where every result goes; None for none.
        budget: what it may cost. With an empty budget the database's best traces are chosen without measuring.
        build: compiles a candidate; called from several threads.
        rng: the only source of randomness.
        strategy: makes the proposer of a task.
        model: the cost model, shared by the tasks and trained as results come in; None for a new `GbdtCostModel`.
        history: earlier measurements on this machine (`costmodel.dataset.from_rows`); the model learns from them too.
        timing: how candidates are timed; None for that of effort 1.
        batch: candidates per batch.
        progress: called after every batch.
        clock: seconds, monotonic.
        builders: threads that build; None for one per processor, 1 builds in the caller's thread.
        seed: kept with the records.

    Returns:
        The choices. With an empty budget their kernels are not built.
    """
    timing = timing or EFFORTS[1].timing(tasks[0].target.threads if tasks else 1)
    model = model if model is not None else GbdtCostModel(seed)
    workers = builders if builders is not None else min(os.cpu_count() or 1, 8)
    executor = ThreadPoolExecutor(workers, "tilewright-build") if workers > 1 else None
    session = _Session(
        runner=runner,
        database=database,
        build=build,
        strategy=strategy,
        model=model,
        history=history,
        timing=timing,
        executor=executor,
        batch=batch,
        budget=budget,
        clock=clock,
        seed=seed,
    )
    try:
        session.prepare(tasks, rng)
        session.run(progress)
        return session.result()
    finally:
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


def timing_of(task: TuneTask, timing: TimingProtocol) -> TimingProtocol:
    """How a workload's candidates are timed: on changing buffers where its arguments take most of the last-level cache.

    Repeated on the same buffers it would find much of them there, which in a program it does not: other memory is
    used between two calls.
    """
    inputs, outputs = task.data.inputs, task.data.outputs
    touched = sum(array.nbytes for array in (*inputs, *outputs))
    return replace(timing, cache="rotate") if 2 * touched > task.target.l3_bytes else timing


@dataclass(slots=True)
class _Running:
    """A task in work."""

    contest: Contest
    strategy: SearchStrategy
    first: list[Candidate]
    known: tuple[Candidate, float] | None
    trials: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    speedup: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(slots=True)
class _Session:
    runner: Runner
    database: Database | None
    build: Build
    strategy: StrategyFactory
    model: CostModel
    history: TrainingData | None
    timing: TimingProtocol
    executor: Executor | None
    batch: int
    budget: SearchBudget
    clock: Callable[[], float]
    seed: int
    start: float = 0.0
    trials: int = 0
    spent_s: float = 0.0
    learned: int = 0
    stopped: StopReason = "exhausted"
    error: str = ""
    running: list[_Running] = field(default_factory=list)
    scheduler: TaskScheduler = field(default_factory=TaskScheduler)

    # ---- preparing

    def prepare(self, tasks: Sequence[TuneTask], rng: np.random.Generator) -> None:
        """Make the spaces and recall what the database knows."""
        self.start = self.clock()
        if self.history is not None and not self.budget.empty:
            self.model.fit(self.history.features, self.history.latency, self.history.group)
        for task, own in zip(tasks, rng.spawn(len(tasks)), strict=True):
            space = SearchSpace(task.func, task.target)
            ranker = Ranker(task.func, task.target, self.model)
            defaults = space.defaults()
            preferred = defaults[0].key if defaults else None
            contest = Contest(
                task=task,
                space=space,
                ranker=ranker,
                runner=self.runner,
                database=self.database,
                build=self.build,
                timing=timing_of(task, self.timing),
                executor=self.executor,
                preferred=preferred,
                seed=self.seed,
            )
            known = self._recall(task, space)
            strategy = self.strategy(space, ranker, own)
            strategy.tell(known[_KNOWN:])
            first = list({c.key: c for c in [*defaults[:1], *(c for c, _ in known[:_KNOWN]), *defaults[1:]]}.values())
            self.running.append(_Running(contest, strategy, first, known[0] if known else None))
            expected = float(2.0 ** ranker.features(defaults[:1])[0, _PREDICTED]) if defaults else 0.0
            self.scheduler.states.append(TaskState(task.weight, dissect(task.func).flops, expected))

    def _recall(self, task: TuneTask, space: SearchSpace) -> list[tuple[Candidate, float]]:
        """The database's traces of a workload, fastest first."""
        if self.database is None:
            return []
        traces, latencies = [], []
        for text, latency in self.database.best_traces(task.key, _REMEMBERED):
            try:
                traces.append(trace_from_json(text))
                latencies.append(latency)
            except ScheduleError as error:
                space.reject(f"database: {error}")
        return list(zip(space.locate(traces), latencies, strict=True))

    # ---- running

    def run(self, progress: Callable[[Progress], None] | None) -> None:
        """Search until the budget or the spaces are spent."""
        if self.budget.empty:
            self.stopped = "budget"
            return
        try:
            while (number := self.scheduler.next()) is not None:
                count = self._affordable(number)
                if count == 0:
                    self.stopped = "budget"
                    break
                if self._batch(number, count) and progress is not None:
                    progress(self._progress(number))
            self._settle()
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        except Exception as error:  # measuring is impossible: what was confirmed so far still stands
            self.stopped, self.error = "runner failed", f"{type(error).__name__}: {error}"

    def _affordable(self, number: int) -> int:
        """How many candidates the next batch may have; a task's first one is small, so that each soon has one."""
        count = self.batch if self.scheduler.states[number].batches else max(self.batch // 2, 2)
        if self.budget.trials is not None:
            count = min(count, self.budget.trials - self.trials)
        if self.budget.seconds is not None:
            left = self.budget.seconds - (self.clock() - self.start) - self._settling_s()
            state = self.scheduler.states[number]
            spent, tried = (state.spent_s, state.trials) if state.trials else (self.spent_s, self.trials)
            each = spent / tried if tried else 0.0
            count = min(count, int(left / each) if each > 0 else count) if left > 0 else 0
        return max(count, 0)

    def _settling_s(self) -> float:
        """Seconds to keep for the last comparisons."""
        return _SETTLE_S * sum(task.contest.replaced for task in self.running)

    def _batch(self, number: int, count: int) -> bool:
        """Try candidates of a task; whether there were any."""
        task, began = self.running[number], self.clock()
        candidates, task.first = task.first[:count], task.first[count:]
        task.strategy.tell([(c, math.nan) for c in candidates])
        if len(candidates) < count:
            candidates += task.strategy.ask(count - len(candidates))
        if not candidates:
            self.scheduler.states[number].exhausted = True
            return False
        task.strategy.tell(task.contest.compete(candidates))
        seconds = self.clock() - began
        task.trials += len(candidates)
        self.trials += len(candidates)
        self.spent_s += seconds
        incumbent = task.contest.incumbent
        best = incumbent.latency_s if incumbent else math.inf
        task.history.append((task.trials, best))
        self.scheduler.record(number, len(candidates), seconds, best)
        self._learn()
        return True

    def _learn(self) -> None:
        """Train the cost model on everything that was measured in this run, if that is much more than last time."""
        samples = [(f, s, n) for n, task in enumerate(self.running) for f, s in task.contest.samples.values()]
        if len(samples) > self.learned * _LEARN_GROWTH:
            self.learned = len(samples)
            features, latency, group = zip(*samples, strict=True)
            self._fit(TrainingData(np.stack(features), np.array(latency), np.array(group)))

    def _fit(self, data: TrainingData) -> None:
        """Train on what was measured before and now; the machine's state may differ, so groups are kept apart."""
        if (known := self.history) is not None and len(known.latency):
            group = np.concatenate([known.group, data.group + known.group.max() + 1])
            features = np.concatenate([known.features, data.features])
            data = TrainingData(features, np.concatenate([known.latency, data.latency]), group)
        self.model.fit(data.features, data.latency, data.group)

    def _settle(self) -> None:
        for task in self.running:
            task.speedup = task.contest.settle()

    def _progress(self, number: int) -> Progress:
        now = default = 0.0
        for task in self.running:
            if task.contest.incumbent is not None and task.contest.default is not None:  # both were measured
                weight = task.contest.task.weight
                now += weight * task.contest.incumbent.latency_s
                default += weight * task.contest.default.latency_s
        holders = (task.contest.incumbent for task in self.running)
        incumbents = tuple(entry.candidate if entry is not None else None for entry in holders)
        return Progress(self.clock() - self.start, self.trials, number, now, default, incumbents)

    # ---- results

    def result(self) -> TuneResult:
        """What was found so far."""
        outcomes = tuple(_outcome(task) for task in self.running)
        return TuneResult(outcomes, self.stopped, self.error, self.clock() - self.start, self.trials)


def _outcome(task: _Running) -> Outcome:
    contest = task.contest
    entry, default = contest.incumbent, contest.default
    choice: Candidate | None = None
    source: Source = "none"
    if entry is not None:
        choice, source = entry.candidate, "measured"
    elif task.known is not None:
        choice, source = task.known[0], "database"
    elif task.trials == 0 and (defaults := contest.space.defaults()):
        choice, source = defaults[0], "default"
    return Outcome(
        candidate=choice,
        kernel=entry.kernel if entry is not None else None,
        latency_s=entry.latency_s if entry is not None else task.known[1] if task.known else math.inf,
        default_s=default.latency_s if default is not None else math.inf,
        speedup=task.speedup[0],
        interval=task.speedup[1:],
        source=source,
        trials=task.trials,
        failures=Counter(contest.failures),
        rejections=Counter(contest.space.rejections),
        history=tuple(task.history),
    )
