"""One workload's candidates against its incumbent: built, measured together, confirmed before they replace it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from ..costmodel.features import FEATURE_VERSION
from ..ir.loop import Buffer, LoopFunc
from ..ir.measure import MeasureData, MeasureRequest, MeasureResult, Status, TaskKey, TimingProtocol
from ..ir.target import Target
from ..passes.packing import pack_array
from ..passes.schedule import ScheduleError
from .base import BuiltKernel, Database, Runner
from .ranking import Ranker
from .space import Candidate, SearchSpace

CHUNKS_PER_THREAD = 4
"""Into how many ranges per thread a parallel loop is cut, at most."""
CONFIRM_REPEATS = 31
CHALLENGERS = 2
"""How many of a batch are measured again against the incumbent."""
_WORTH = 0.99
"""A candidate is measured again if its median ratio to the incumbent is below this."""


@dataclass(frozen=True, slots=True, eq=False)
class TuneTask:
    """A workload to tune.

    Args:
        key: what its measurements hold for.
        func: the unscheduled program.
        target: the CPU.
        weight: how often the model runs it.
        data: arguments in the order of the parameters (constants not packed) and what must come out.
    """

    key: TaskKey
    func: LoopFunc
    target: Target
    weight: float
    data: MeasureData


Build = Callable[[TuneTask, Candidate], BuiltKernel]
"""Replays a candidate's trace and compiles it; whatever it raises is the candidate's failure."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A correct candidate.

    Args:
        candidate: the candidate.
        kernel: its code.
        request: the request that measures it.
        latency_s: its latency on the scale of the first measurement of this run.
    """

    candidate: Candidate
    kernel: BuiltKernel
    request: MeasureRequest
    latency_s: float


def chunk_count(extent: int, threads: int) -> int:
    """Into how many ranges a parallel range is cut; the plan has to do the same as the measurements."""
    return max(min(extent, threads * CHUNKS_PER_THREAD), 1) if threads > 1 else 1


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A distribution-free confidence interval of the median, from order statistics.

    Args:
        values: independent samples.
        confidence: coverage; with too few samples for it the interval is unbounded.

    Returns:
        Its lower and upper end.
    """
    ordered, count = sorted(values), len(values)
    tail, below = 0.0, 0
    while below < count // 2:
        tail += math.comb(count, below) / 2.0**count
        if 2 * tail > 1 - confidence:
            break
        below += 1
    if below == 0:
        return -math.inf, math.inf
    return ordered[below - 1], ordered[count - below]


def paired_ratios(result: MeasureResult, reference: MeasureResult) -> list[float]:
    """Ratios of samples that were taken right after each other."""
    return [a / b for a, b in zip(result.latencies_s, reference.latencies_s, strict=False)]


@dataclass(slots=True)
class Contest:
    """Measures one workload's candidates.

    Args:
        task: the workload.
        space: where the candidates come from; refusals are counted there.
        ranker: makes the features that are stored with the results.
        runner: measures.
        database: keeps every result; None for none.
        build: compiles.
        timing: how candidates are timed.
        executor: builds in parallel; None builds one after the other.
        preferred: key of the candidate that is chosen without measuring; None if there is none.
        seed: kept with the results.
    """

    task: TuneTask
    space: SearchSpace
    ranker: Ranker
    runner: Runner
    database: Database | None
    build: Build
    timing: TimingProtocol
    executor: Executor | None
    preferred: str | None = None
    seed: int = 0
    incumbent: Entry | None = None
    default: Entry | None = None
    failures: Counter[Status] = field(default_factory=Counter)
    samples: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)
    _packed: dict[tuple[int, Buffer], np.ndarray] = field(default_factory=dict)

    @property
    def replaced(self) -> bool:
        """Whether the incumbent is another candidate than the default."""
        if self.default is None or self.incumbent is None:
            return False
        return self.default.candidate.key != self.incumbent.candidate.key

    def compete(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, float]]:
        """Measure candidates together with the incumbent, and let the best ones challenge it.

        Returns:
            Every candidate with its latency in seconds, infinite if it failed.
        """
        entered: list[tuple[Candidate, BuiltKernel, MeasureRequest]] = []
        outcome: list[tuple[Candidate, float]] = []
        for candidate, built in zip(candidates, self._build_all(candidates), strict=True):
            if isinstance(built, MeasureResult):
                self._fail(candidate, built)
                outcome.append((candidate, math.inf))
            else:
                entered.append((candidate, built, self._request(built)))
        holder = self.incumbent
        requests = [*([holder.request] if holder else []), *(request for _, _, request in entered)]
        results = self.runner.measure(self.task.data, requests, self.timing) if entered else []
        held = results.pop(0) if holder and results else None
        entries: list[Entry] = []
        for (candidate, kernel, request), result in zip(entered, results, strict=True):
            latency = self._latency(result, held)
            outcome.append((candidate, latency))
            self._store(candidate, result)
            if result.ok:
                entries.append(Entry(candidate, kernel, request, latency))
                self.samples[candidate.key] = (self.ranker.features([candidate])[0], latency)
            else:
                self._fail(candidate, result, stored=True)
        self._challenge(entries)
        return outcome

    def settle(self) -> tuple[float, float, float]:
        """Compare the incumbent with the default once more; the default returns if the incumbent is not faster.

        Returns:
            Latency of the default divided by that of the incumbent: median, and a 95% interval.
        """
        if self.default is None or self.incumbent is None or not self.replaced:
            return 1.0, 1.0, 1.0
        ratios = self._duel(self.default, self.incumbent)
        if not ratios:
            return 1.0, -math.inf, math.inf
        low, high = median_interval(ratios)
        if high >= 1.0:
            self.incumbent = self.default
            return 1.0, 1.0, 1.0
        return 1.0 / median(ratios), 1.0 / high, 1.0 / low if low > 0 else math.inf

    # ---- the contest

    def _challenge(self, entries: list[Entry]) -> None:
        """Replace the incumbent by the best entry if fresh measurements confirm that it is faster."""
        ranked = sorted(entries, key=lambda e: e.latency_s)
        if self.incumbent is None and entries:
            # The first batch starts with the default: if it works, it holds the title until it is beaten.
            self.incumbent = entries[0]
            self.default = entries[0] if entries[0].candidate.key == self.preferred else None
        for entry in ranked[:CHALLENGERS]:
            holder = self.incumbent
            if holder is None or entry is holder or entry.latency_s > _WORTH * holder.latency_s:
                continue
            ratios = self._duel(holder, entry)
            if ratios and median_interval(ratios)[1] < 1.0:
                self.incumbent = replace(entry, latency_s=holder.latency_s * median(ratios))

    def _duel(self, holder: Entry, challenger: Entry) -> list[float]:
        """Paired ratios of fresh measurements, challenger to holder; empty if one of them failed."""
        timing = replace(self.timing, quick_repeats=CONFIRM_REPEATS, repeats=CONFIRM_REPEATS)
        first, second = self.runner.measure(self.task.data, [holder.request, challenger.request], timing)
        self._store(holder.candidate, first, timing)
        self._store(challenger.candidate, second, timing)
        return paired_ratios(second, first) if first.ok and second.ok else []

    def _latency(self, result: MeasureResult, held: MeasureResult | None) -> float:
        """Latency relative to the incumbent's in the same race, which drifts of the machine don't touch."""
        if not result.ok:
            return math.inf
        if held is None or not held.ok or self.incumbent is None:
            return result.median_s
        return median(paired_ratios(result, held)) * self.incumbent.latency_s

    # ---- building and storing

    def _build_all(self, candidates: Sequence[Candidate]) -> list[BuiltKernel | MeasureResult]:
        if self.executor is None:
            return [self._build_one(c) for c in candidates]
        return list(self.executor.map(self._build_one, candidates))

    def _build_one(self, candidate: Candidate) -> BuiltKernel | MeasureResult:
        try:
            return self.build(self.task, candidate)
        except ScheduleError as error:
            return MeasureResult("rejected", error=str(error))
        except Exception as error:  # a candidate's failure, whatever it is, never ends a search
            return MeasureResult("compile_error", error=f"{type(error).__name__}: {error}")

    def _request(self, kernel: BuiltKernel) -> MeasureRequest:
        constants: Mapping[int, np.ndarray] = {
            position: self._constant(position, kernel.params[position])
            for position in self.task.data.constants
            if kernel.params[position].packing
        }
        return MeasureRequest(kernel, chunk_count(kernel.extent, self.timing.threads), constants)

    def _constant(self, position: int, buffer: Buffer) -> np.ndarray:
        key = (position, buffer)
        if key not in self._packed:
            self._packed[key] = pack_array(self.task.data.inputs[position], buffer)
        return self._packed[key]

    def _fail(self, candidate: Candidate, result: MeasureResult, stored: bool = False) -> None:
        self.failures[result.status] += 1
        if result.status == "rejected":
            self.space.reject(f"{candidate.sketch}: {result.error}")
        if not stored:
            self._store(candidate, result)

    def _store(self, candidate: Candidate, result: MeasureResult, timing: TimingProtocol | None = None) -> None:
        if self.database is None:
            return
        self.database.add_result(
            self.task.key,
            candidate.key,
            result,
            timing or self.timing,
            seed=self.seed,
            features=[float(v) for v in self.ranker.features([candidate])[0]],
            feature_version=FEATURE_VERSION,
        )
