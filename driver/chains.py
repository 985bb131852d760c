"""Which neighbouring regions become one kernel: chains of convolutions, by predicted or measured time.

The greedy partition, each convolution a kernel of its own, is what every merger has to beat, with the very schedules
that were chosen for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..backends.llvm.kernel import Kernel
from ..costmodel.anatomy import dissect
from ..costmodel.banded import apart_seconds, banded_seconds
from ..ir.measure import MeasureData, TimingProtocol
from ..passes.chain_groups import chain_runs, chain_steps
from ..passes.graph_trace import Grouping, apply_graph_step
from ..passes.regions import Region
from ..passes.schedule import ScheduleError, Step, Trace
from ..search.banded import banded
from ..search.contest import chunk_count
from .formulations import Checks
from .kernels import build_all
from .planning import Choice, Partition, Task, region_task
from .verification import measure_request, task_references

_LOG = logging.getLogger(__name__)

_SURE = 1.04
"""How many times as fast as its regions a merger has to be predicted to be, where nothing is measured."""
_GAIN = 1.08
"""How many times as fast it has to be measured to be: between kernels of a plan data stay closer than the worker's."""
_DOUBT = 0.9
"""How fast it has to be predicted to be for it to be measured."""
_MEASURED = 4
"""Most sizes of bands that are measured."""
_TIMING = TimingProtocol(quick_repeats=7, repeats=15, budget_s=0.05)
_BARRIER_SECONDS = 1.5e-6


@dataclass(frozen=True, slots=True)
class Merger:
    """Neighbouring regions as one.

    Args:
        step: the graph step that makes it.
        task: what becomes of them.
        parts: tasks of the regions.
        ratio: how many times as fast it is predicted to be.
        seconds: what it is predicted to gain.
        trace: the schedule that was predicted.
    """

    step: Step
    task: Task
    parts: tuple[Task, ...]
    ratio: float
    seconds: float
    trace: Trace


@dataclass(frozen=True, slots=True)
class Mergers:
    """Mergers that are faster, none of which share a region.

    Args:
        steps: that make them.
        choices: their schedules and code, by task key.
        latencies: measured seconds of those.
    """

    steps: Trace = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)
    latencies: Mapping[str, float] = field(default_factory=dict)


def merge(parts: Partition, choices: Mapping[str, Choice], apart: frozenset[str], checks: Checks) -> Mergers:
    """Find the mergers that make a plan faster.

    Args:
        parts: the partition.
        choices: by task key; only regions that have kernels are merged.
        apart: keys of tasks that are left alone.
        checks: how kernels are checked and timed, and whether time is measured.
    """
    search = _Search(parts, choices, checks)
    keys = {region.members: key for region, key in parts.regions if key in choices and key not in apart}
    steps: list[Step] = []
    for run in chain_runs(parts.grouping):
        if any(region.members in keys for region in run):
            steps += search.best(run, keys)
    used = {key: search.chosen[key] for key in search.taken}
    return Mergers(tuple(steps), {k: c for k, (c, _) in used.items()}, {k: s for k, (_, s) in used.items()})


@dataclass(slots=True)
class _Search:
    parts: Partition
    choices: Mapping[str, Choice]
    checks: Checks
    mergers: dict[object, Merger | None] = field(default_factory=dict)
    chosen: dict[str, tuple[Choice, float]] = field(default_factory=dict)
    gains: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    taken: dict[str, None] = field(default_factory=dict)
    data: dict[str, MeasureData] = field(default_factory=dict)

    def best(self, run: Sequence[Region], keys: Mapping[tuple[int, ...], str]) -> list[Step]:
        """The steps on a run that gain most together: no region is in two of them."""
        found: dict[int, list[tuple[int, float, Step, str]]] = {}
        for start, stop, step in chain_steps(self.parts.grouping, run):
            inside = run[start:stop]
            if all(region.members in keys for region in inside):
                merger = self._merger(step, inside, [keys[r.members] for r in inside])
                gain = self._gain(merger) if merger is not None else 0.0
                if merger is not None and gain > 0:
                    found.setdefault(stop, []).append((start, gain, step, merger.task.key))
        totals: list[tuple[float, tuple[tuple[Step, str], ...]]] = [(0.0, ())]
        for stop in range(1, len(run) + 1):
            ways = [totals[stop - 1]]
            for start, gain, step, key in found.get(stop, ()):
                ways.append((totals[start][0] + gain, (*totals[start][1], (step, key))))
            totals.append(max(ways, key=lambda way: way[0]))
        self.taken.update(dict.fromkeys(key for _, key in totals[-1][1]))
        return [step for step, _ in totals[-1][1]]

    def _merger(self, step: Step, regions: Sequence[Region], keys: Sequence[str]) -> Merger | None:
        """The merger of a step, looked at once for equal regions that read each other alike."""
        likeness = (tuple(keys), _wiring(self.parts.grouping, regions))
        if likeness not in self.mergers:
            self.mergers[likeness] = self._predicted(step, regions, keys)
        known = self.mergers[likeness]
        return None if known is None else Merger(step, known.task, known.parts, known.ratio, known.seconds, known.trace)

    def _predicted(self, step: Step, regions: Sequence[Region], keys: Sequence[str]) -> Merger | None:
        try:
            after = apply_graph_step(self.parts.grouping, step)
        except ScheduleError:
            return None
        task = region_task(after.graph, after.region_of(self.parts.grouping.result(regions[-1])))
        sketch = None if task is None else banded(task.workload.func, self.checks.target)
        if task is None or sketch is None:
            return None
        work, trace = dissect(task.workload.func), sketch.build(sketch.default)
        whole = banded_seconds(work, trace, self.checks.target)
        apart = apart_seconds(work, trace, self.checks.target)
        if whole is None or apart is None:
            return None
        tasks = tuple(self.parts.tasks[key] for key in keys)
        return Merger(step, task, tasks, apart / whole, apart - whole, trace)

    def _gain(self, merger: Merger) -> float:
        """Seconds that a merger saves; 0 if it is not surely faster."""
        if merger.ratio < (_DOUBT if self.checks.measured else _SURE):
            return 0.0
        identity = (merger.task.key, tuple(t.key for t in merger.parts))
        if identity not in self.gains:
            self.gains[identity] = self._measured(merger) if self.checks.measured else self._checked(merger)
        return self.gains[identity]

    def _checked(self, merger: Merger) -> float:
        """What a merger is predicted to gain, if its kernel passes its check."""
        best = self._fastest(merger.task, [merger.trace])
        if best is None:
            return 0.0
        self.chosen[merger.task.key] = best[0], merger.seconds / max(merger.ratio - 1.0, 1e-9)
        return merger.seconds

    def _measured(self, merger: Merger) -> float:
        """What a merger gains, measured right beside its regions' own kernels."""
        best = self._fastest(merger.task, self._schedules(merger))
        if best is None:
            return 0.0
        own = [self._seconds(task, [self.choices[task.key]])[0] for task in merger.parts]
        again = self._seconds(merger.task, [best[0]])[0]
        whole = min(best[1], again)
        self.chosen[merger.task.key] = best[0], whole
        apart = sum(own) + _BARRIER_SECONDS * (len(own) - 1)
        _LOG.info("merger of %d regions: %.1f us instead of %.1f", len(own), whole * 1e6, apart * 1e6)
        return apart - whole if apart >= _GAIN * whole else 0.0

    def _schedules(self, merger: Merger) -> list[Trace]:
        """The schedules of a merger that are worth measuring: the default with bands of other sizes."""
        func = merger.task.workload.func
        sketch = banded(func, self.checks.target)
        assert sketch is not None
        work = dissect(func)
        traces = [sketch.build({**sketch.default, "rows": rows}) for rows in sketch.choices["rows"]]
        traces.sort(key=lambda trace: banded_seconds(work, trace, self.checks.target) or math.inf)
        return list(dict.fromkeys([merger.trace, *traces[:_MEASURED]]))

    def _fastest(self, task: Task, traces: Sequence[Trace]) -> tuple[Choice, float] | None:
        """The fastest of some schedules that give correct kernels, and its seconds."""
        wanted = [(task.key, task.workload.func, trace) for trace in traces]
        built = build_all(wanted, self.checks.target)
        kernels = [Choice(trace, k) for (_, trace), k in built.items() if isinstance(k, Kernel)]
        timed = [(c, s) for c, s in zip(kernels, self._seconds(task, kernels), strict=True) if s < float("inf")]
        return min(timed, key=lambda item: item[1], default=None)

    def _seconds(self, task: Task, kernels: Sequence[Choice]) -> list[float]:
        """Measured seconds of kernels of a task; infinite for one that fails its check."""
        if not kernels:
            return []
        if task.key not in self.data:
            self.data[task.key] = task_references([task], self.checks.seed)[task.key]
        data = self.data[task.key]
        timing = _TIMING if self.checks.measured else self.checks.timing
        timing = replace(timing, threads=self.checks.timing.threads)
        requests = [measure_request(c.kernel, data, chunk_count(c.kernel.extent, timing.threads)) for c in kernels]
        return [r.median_s for r in self.checks.runner().measure(data, requests, timing)]


def _wiring(grouping: Grouping, regions: Sequence[Region]) -> object:
    """How regions read each other and what is around them."""
    graph = grouping.graph
    inside = {grouping.result(region): number for number, region in enumerate(regions)}
    members = {m for region in regions for m in region.members}
    outside: dict[int, int] = {}
    rows: list[object] = []
    for region in regions:
        for member in region.members:
            for value in graph.ops[member].operands:
                if value in inside:
                    rows.append((member - region.members[0], inside[value]))
                elif value not in graph.constants and graph.producers.get(value) not in members:
                    rows.append((member - region.members[0], -1 - outside.setdefault(value, len(outside))))
        result = grouping.result(region)
        rows.append(result in graph.outputs or not members.issuperset(graph.users[result]))
    return tuple(rows)
