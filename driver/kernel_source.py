"""Kernels of tasks without searching: by the best known traces, else by default ones; built, and checked once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..backends.measure.runner import WorkerRunner
from ..database.store import Database
from ..ir.measure import MeasureData, TaskKey, TimingProtocol
from ..ir.target import Target
from ..ir.text import print_ir
from ..passes.schedule import SCHEDULE_VERSION, ScheduleError, Trace, trace_from_json, trace_to_json
from .kernels import BACKEND, build_all
from .planning import Choice, Task
from .predictions import Predictions
from .verification import measure_request, task_references

_LOG = logging.getLogger(__name__)

CHECK = TimingProtocol(quick_repeats=1, repeats=1, budget_s=0.05)
"""How kernels are run that are only checked."""


@dataclass(slots=True)
class KernelSource:
    """Gives tasks their kernels.

    Args:
        database: has traces of earlier searches, and gets failures.
        target: the CPU.
        predictions: choose where the database has nothing.
        runner: gives what checks kernels.
        seed: of the random arguments.
        passed: what passed its check.
    """

    database: Database
    target: Target
    predictions: Predictions
    runner: Callable[[], WorkerRunner]
    seed: int
    passed: set[tuple[str, Trace]] = field(default_factory=set)

    def task_key(self, task: Task) -> TaskKey:
        """What results of a task are stored under."""
        text = print_ir(task.workload.func)
        return TaskKey(task.key, text, self.target.fingerprint, BACKEND, SCHEDULE_VERSION, self.target.threads)

    def built(self, tasks: Sequence[Task]) -> dict[str, Choice]:
        """Kernels of the best known traces, else of the default ones, not checked."""
        choices = self.first_built(tasks, {t.key: self._known_traces(t) for t in tasks})
        rest = [t for t in tasks if t.key not in choices]
        return choices | self.first_built(rest, {t.key: self.predictions.traces(t) for t in rest})

    def first_built(self, tasks: Sequence[Task], traces: Mapping[str, list[Trace]]) -> dict[str, Choice]:
        """For each task the first of given traces that code is generated for."""
        choices: dict[str, Choice] = {}
        for attempt in range(max((len(t) for t in traces.values()), default=0)):
            wanted = [
                (t.key, t.workload.func, traces[t.key][attempt])
                for t in tasks
                if t.key not in choices and attempt < len(traces[t.key])
            ]
            for (key, trace), kernel in build_all(wanted, self.target).items():
                if isinstance(kernel, Exception):
                    _LOG.info("no kernel for workload %s: %s", key, kernel)
                else:
                    choices[key] = Choice(trace, kernel)
        return choices

    def checked(self, tasks: Sequence[Task]) -> dict[str, Choice]:
        """Kernels of the best known traces that pass their check."""
        choices = self.built(tasks)
        failed = self.failing([t for t in tasks if t.key in choices], choices)
        return {key: choice for key, choice in choices.items() if key not in failed}

    def _known_traces(self, task: Task) -> list[Trace]:
        """Traces of the database, fastest first."""
        found: list[Trace] = []
        for text, _ in self.database.best_traces(self.task_key(task), 3):
            try:
                found.append(trace_from_json(text))
            except ScheduleError as error:
                _LOG.warning("ignoring a trace of workload %s: %s", task.key, error)
        return found

    def failing(self, tasks: Sequence[Task], choices: Mapping[str, Choice]) -> set[str]:
        """Run kernels in the worker against the reference, each once; the keys of those that failed."""
        tasks = [t for t in tasks if (t.key, choices[t.key].trace) not in self.passed]
        if not tasks:
            return set()
        data = task_references(tasks, self.seed)
        failed: set[str] = set()
        for task in tasks:
            if not self._passes(self.runner(), task, choices[task.key], data[task.key]):
                failed.add(task.key)
        self.passed.update((t.key, choices[t.key].trace) for t in tasks if t.key not in failed)
        return failed

    def _passes(self, runner: WorkerRunner, task: Task, choice: Choice, data: MeasureData) -> bool:
        result = runner.measure(data, [measure_request(choice.kernel, data)], CHECK)[0]
        if not result.ok:
            # Only failures are kept: the single sample of a check would be ranked with real timings.
            trace = trace_to_json(choice.trace)
            self.database.add_result(self.task_key(task), trace, result, CHECK, seed=self.seed)
            _LOG.warning("kernel for workload %s failed its check (%s): %s", task.key, result.status, result.error)
        return result.ok
