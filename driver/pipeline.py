"""How a traced function becomes the program that runs: the steps of `compile`, in order.

Optimise the graph, cut it into regions, choose a trace per distinct workload, check every kernel in the worker, put
the native calls together, check the whole against float64, and compare it with `jax.jit` where measuring is allowed.
Whatever fails on the way costs speed, never correctness: the original program is always there.
"""

from __future__ import annotations

import atexit
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..backends.llvm.kernel import Kernel
from ..backends.measure.machine import measure_limits
from ..backends.measure.runner import WorkerRunner
from ..costmodel.roofline import predict_native
from ..costmodel.xla import SHIP_RATIO, predict_xla
from ..database.store import Database
from ..frontends.solvers import uses_solver_threads
from ..ir.graph import Graph
from ..ir.target import Target, detect_target
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES
from ..passes.schedule import ScheduleError, Trace
from ..search.effort import EFFORTS
from ..search.outcome import SearchBudget
from .assembly import assemble
from .formulations import Alternative, Checks, apply, choose, part_kernels, steps
from .kernel_source import CHECK, KernelSource
from .kernels import build_all
from .last_check import LastCheck
from .layouts import laid_out
from .options import Options
from .outcome import Outcome
from .plan_contest import PlanContest
from .planning import Choice, Partition, Task, extended, partition
from .plans import Kernels, improved, predicted_faster, replayed
from .predictions import Predictions
from .time_tiles import tile_time
from .tuning import search_budget, tune
from .verdicts import Verdict, graph_key, load_verdict, plans_digest, store_verdict
from .verification import task_references
from .worthwhile import worthwhile

_LOG = logging.getLogger(__name__)

MIN_PREDICTED_SPEEDUP = SHIP_RATIO
"""Without measuring, kernels are used only where they are predicted to be this much faster than XLA's code."""
WORTHWHILE_SECONDS = 10e-6
"""A function that XLA is predicted to run in less time is left alone."""
PLAN_SHARE = 0.2
"""Part of the time for tuning that comparing plans may take before it."""


@functools.cache
def host() -> Target:
    """This machine."""
    return detect_target()


@functools.cache
def measured_host() -> Target:
    """This machine with its speeds measured, which takes a few seconds."""
    return measure_limits(host()).applied_to(host())


@functools.cache
def shared_runner() -> WorkerRunner:
    """The measuring worker of this process, started when it is first needed and stopped at exit."""
    runner = WorkerRunner()
    atexit.register(runner.close)
    return runner


class Driver:
    """Builds one function for one set of shapes.

    Args:
        options: what the user asked for.
        database: where results are kept.
        target: the CPU.
    """

    def __init__(self, options: Options, database: Database, target: Target) -> None:
        self.options = options
        self.database = database
        self.target = target
        self.outcome = Outcome()
        self.predictions = Predictions(target)
        self.source = KernelSource(database, target, self.predictions, lambda: shared_runner(), options.seed)

    def run_safely(self, graph: Graph, examples: Sequence[Any] | None) -> Outcome:
        """`run`, with the original program where anything unforeseen happens: a user's function never breaks here."""
        try:
            return self.run(graph, examples)
        except Exception as error:
            _LOG.exception("tilewright could not compile a function; it runs as plain JAX")
            return self.outcome.keep_original(f"{type(error).__name__}: {error}")

    def run(self, graph: Graph, examples: Sequence[Any] | None, recall: bool = True) -> Outcome:
        """Go through all steps.

        Args:
            graph: the program as traced.
            examples: concrete arguments if there are any to run it on, else None.
            recall: whether a verdict of the database may settle it.
        """
        outcome = self.outcome
        optimized = self._timed("passes", lambda: PassManager(GRAPH_PASSES).run(graph))
        parts = self._timed("partition", lambda: partition(tile_time(optimized, self.target)))
        outcome.parts = parts
        if sum(t.count * predict_xla(t.region, self.target) for t in parts.tasks.values()) < WORTHWHILE_SECONDS:
            return outcome.keep_original("too little work for a native call to gain anything")
        measuring = examples is not None and self.options.effort > 0
        key = graph_key(optimized)
        if recall and key is not None and self._timed("recall", lambda: self._recall(key, parts, measuring)):
            return outcome
        if not measuring and self.target.threads > 1 and uses_solver_threads(optimized):
            return outcome.keep_original(
                "LAPACK's threads may hold up native ones, which only measuring shows (effort 1, concrete arguments)"
            )
        contest = self._contest(parts) if measuring else None
        parts = outcome.parts = self._timed("layout", lambda: self._laid_out(parts, contest, examples))
        parts = outcome.parts = self._timed("plan", lambda: self._planned(parts, contest, examples))
        outcome.choices = self._timed("kernels", lambda: self._choices(parts, measuring))
        if not outcome.choices:
            return outcome.keep_original("no part of the function has kernels")
        outcome.formulations = self._timed("formulations", lambda: self._alternatives(parts, measuring))
        parts = outcome.parts = _formulated(parts, outcome.formulations)
        self._assemble(parts)
        if examples is not None and not any(op.effects for op in graph.ops):
            last = LastCheck(outcome, self.source, self.options, graph, examples)
            self._timed("check", last.run)
            if key is not None:
                self._remember(key)
        return outcome

    def rebuild(self, graph: Graph, steps: Trace, traces: Mapping[str, Trace], measured: bool) -> Outcome:
        """Build a program whose schedules were chosen before, and check its kernels here.

        Args:
            graph: the program as it was cut into regions, `Partition.start`.
            steps: how it was cut, `Partition.trace`; formulated regions get their own kernels.
            traces: schedules by task key; other tasks stay XLA's.
            measured: whether the schedules won on such a machine; else the kernels have to be predicted to gain.
        """
        outcome = self.outcome
        try:
            parts = outcome.parts = replayed(partition(graph), steps)
            tasks = [t for t in parts.tasks.values() if t.key in traces]
            choices = self.source.first_built(tasks, {t.key: [traces[t.key]] for t in tasks})
            if not measured:
                choices = worthwhile(parts, choices, self.target, MIN_PREDICTED_SPEEDUP)
            failed = self.source.failing([t for t in tasks if t.key in choices], choices)
            outcome.choices = {key: choice for key, choice in choices.items() if key not in failed}
            if not outcome.choices:
                return outcome.keep_original("none of its kernels can be used here")
            self._assemble(parts)
        except Exception as error:
            _LOG.exception("tilewright could not rebuild a function; it runs as plain JAX")
            return self.outcome.keep_original(f"{type(error).__name__}: {error}")
        return outcome

    def _assemble(self, parts: Partition) -> None:
        outcome = self.outcome
        outcome.graph, outcome.natives = self._timed("assemble", lambda: assemble(parts, outcome.choices, self.target))

    def _timed(self, step: str, run: Any) -> Any:
        start = time.perf_counter()
        result = run()
        self.outcome.seconds[step] = time.perf_counter() - start
        return result

    # ---- verdicts

    def _recall(self, key: str, parts: Partition, measuring: bool) -> bool:
        """Take a stored verdict if it was reached with this effort or more and still gives the same code."""
        verdict = load_verdict(self.database, key, self.target)
        effort = self.options.effort if measuring else 0
        if verdict is None or not verdict.covers(effort, search_budget(self.options)):
            return False
        if verdict.chosen == "xla":
            self.outcome.keep_original("an earlier comparison was not won against jax.jit")
            return True
        try:
            planned = extended(parts, verdict.steps)
        except ScheduleError as error:
            _LOG.warning("ignoring a verdict whose graph trace is refused here: %s", error)
            return False
        wanted = [(k, t.workload.func, verdict.traces[k]) for k, t in planned.tasks.items() if k in verdict.traces]
        built = build_all(wanted, self.target)
        self.outcome.choices = {k: Choice(t, b) for (k, t), b in built.items() if not isinstance(b, Exception)}
        self.outcome.parts = apply(planned, part_kernels(planned, verdict.traces, self.target))
        self._assemble(self.outcome.parts)
        if plans_digest(self.outcome.natives) == verdict.verified:
            self.outcome.recalled = verdict
            return True
        self.outcome.keep_original("")
        self.outcome.parts = parts
        return False

    def _remember(self, key: str) -> None:
        outcome = self.outcome
        ratio = outcome.comparison.speedup if outcome.comparison is not None else None
        native = outcome.graph is not None
        traces = {k: c.trace for k, c in outcome.choices.items()} if native else {}
        if native:
            traces |= {k: c.trace for a in outcome.formulations.values() for k, c in a.parts.items()}
        verified = plans_digest(outcome.natives) if native else ""
        budget = search_budget(self.options)
        if outcome.search is not None and outcome.search.stopped == "interrupted":
            budget = SearchBudget(seconds=outcome.search.elapsed_s)
        steps = outcome.parts.trace if native and outcome.parts is not None else ()
        chosen = "native" if native else "xla"
        verdict = Verdict(chosen, self.options.effort, budget, traces, ratio, verified, steps)
        store_verdict(self.database, key, self.target, verdict)

    # ---- plans

    def planned(self, parts: Partition, kernels: Kernels) -> Partition:
        """The greedy partition after the graph steps that are predicted to make it faster."""
        return self._predicted_plan(laid_out(parts, self.predictions, None), kernels)

    def _predicted_plan(self, parts: Partition, kernels: Kernels) -> Partition:
        return improved(parts, self.predictions, lambda _, offers: predicted_faster(offers, self.predictions, kernels))

    def _contest(self, parts: Partition) -> PlanContest | None:
        """What compares plans by measuring, where there is time for it."""
        seconds = search_budget(self.options).seconds
        if not seconds or any(op.effects for op in parts.graph.ops):
            return None
        share = PLAN_SHARE * seconds
        return PlanContest(self.predictions, self.source.checked, self.target, share, self.options.seed)

    def _laid_out(self, parts: Partition, contest: PlanContest | None, examples: Sequence[Any] | None) -> Partition:
        """The partition in the layout that is faster."""
        if contest is None or examples is None:
            return laid_out(parts, self.predictions, None)
        finish = self._with_predicted_formulations
        return laid_out(parts, self.predictions, lambda a, b: contest.confirmed(a, b, examples, finish))

    def _planned(self, parts: Partition, contest: PlanContest | None, examples: Sequence[Any] | None) -> Partition:
        """The partition after the graph steps that make it faster."""
        if contest is None or examples is None:
            return self._predicted_plan(parts, self.source.checked)
        contest = replace(contest, start_s=time.perf_counter())
        return contest.confirmed(parts, improved(parts, self.predictions, contest), examples)

    def _with_predicted_formulations(self, parts: Partition, choices: Mapping[str, Choice]) -> Partition:
        """A partition with the formulations that need no measuring."""
        tasks = [t for t in _apart(parts) if t.key in choices]
        checks = Checks(self.target, shared_runner, self.options.seed, CHECK, False)
        found = choose(tasks, self._predicted_seconds(tasks, choices), checks)
        return _formulated(parts, found)

    # ---- traces and kernels

    def _choices(self, parts: Partition, measuring: bool) -> dict[str, Choice]:
        """A checked kernel for every task that has one."""
        tasks = list(parts.tasks.values())
        choices = self._tuned(tasks) if measuring else {}
        rest = [t for t in tasks if t.key not in choices]
        choices |= self.source.built(rest)
        if not measuring:
            choices = worthwhile(parts, choices, self.target, MIN_PREDICTED_SPEEDUP)
        failed = self.source.failing([t for t in rest if t.key in choices], choices)
        return {key: choice for key, choice in choices.items() if key not in failed}

    def _alternatives(self, parts: Partition, measuring: bool) -> dict[str, Alternative]:
        """Formulations that are to replace the kernels of tasks."""
        found = self.outcome
        tasks = [t for t in _apart(parts) if t.key in found.choices]
        timed = {t.key: found.latencies[t.key] for t in tasks if t.key in found.latencies}
        own = self._predicted_seconds(tasks, found.choices)
        timing = EFFORTS[self.options.effort].timing(self.target.threads) if measuring else CHECK
        tasks = [t for t in tasks if not measuring or t.key in timed]
        checks = Checks(self.target, shared_runner, self.options.seed, timing, measuring)
        chosen = choose(tasks, own | timed, checks)
        if measuring:
            found.latencies |= {key: a.seconds for key, a in chosen.items()}
        return chosen

    def _predicted_seconds(self, tasks: Sequence[Task], choices: Mapping[str, Choice]) -> dict[str, float]:
        """Predicted seconds of kernels, by task key."""
        traces = {t.key: [choices[t.key].trace] for t in tasks}
        return {t.key: float(predict_native(t.workload.func, traces[t.key], self.target)[0]) for t in tasks}

    def built_choices(self, parts: Partition) -> dict[str, Choice]:
        """The kernels that would be used without measuring, not checked."""
        return worthwhile(parts, self.source.built(list(parts.tasks.values())), self.target, MIN_PREDICTED_SPEEDUP)

    def _tuned(self, tasks: Sequence[Task]) -> dict[str, Choice]:
        """Choices that were measured; empty where the budget allows nothing."""
        if search_budget(self.options).empty:
            return {}
        data = self._timed("kernels: references", lambda: task_references(tasks, self.options.seed))
        items = [(t, self.source.task_key(t), data[t.key]) for t in tasks]
        budget = search_budget(self.options)
        if budget.seconds is not None:
            budget = replace(budget, seconds=max(budget.seconds - self.outcome.seconds.get("plan", 0.0), 0.0))
        result = self._timed(
            "kernels: tuning", lambda: tune(items, self.target, self.options, budget, shared_runner(), self.database)
        )
        self.outcome.search = result
        choices: dict[str, Choice] = {}
        for task, found in zip(tasks, result.outcomes, strict=True):
            if found.candidate is not None and isinstance(found.kernel, Kernel):
                choices[task.key] = Choice(found.candidate.trace, found.kernel)
                self.outcome.latencies[task.key] = found.latency_s
        return choices


def _apart(parts: Partition) -> list[Task]:
    """Tasks of regions; what only loops contain has its own kernels alone."""
    keys = {key for _, key in parts.regions}
    return [t for t in parts.tasks.values() if t.key in keys]


def _formulated(parts: Partition, found: Mapping[str, Alternative]) -> Partition:
    """The partition with formulations of some tasks."""
    if not found:
        return parts
    kernels = {key: choice.kernel for a in found.values() for key, choice in a.parts.items()}
    return apply(extended(parts, steps(parts, found)), kernels)
