"""Timing several correct candidates in turn: all of them a little, the close ones more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ...ir.measure import TimingProtocol
from .arguments import Arguments
from .checking import Candidate, sample_row
from .native import Native

# Rotating buffers add up to at least this much, more than the last-level caches of common machines.
_ROTATION_BYTES = 128 << 20
_MAX_ROTATION = 64
# A kernel whose one check took longer is not executed again just to estimate it.
_LONG_S = 0.05
_MAX_INNER = 10_000


@dataclass(frozen=True, slots=True)
class Lane:
    """A candidate in a race.

    Args:
        candidate: its code and memory.
        estimate_s: about how long one execution takes.
    """

    candidate: Candidate
    estimate_s: float


class Race:
    """Times candidates of one workload on the same buffers.

    Args:
        native: the helpers.
        lanes: who takes part.
        arguments: the workload's arguments.
        timing: how to time.
        cpus: processors to pin threads to.
    """

    def __init__(
        self,
        native: Native,
        lanes: Sequence[Lane],
        arguments: Arguments,
        timing: TimingProtocol,
        cpus: Sequence[int],
    ) -> None:
        """Prepare the pointers; nothing runs yet."""
        self._native = native
        self._candidates = [lane.candidate for lane in lanes]
        self._estimates = [lane.estimate_s for lane in lanes]
        self._timing = timing
        self._cpus = cpus
        count = 1
        if timing.cache == "rotate":
            count = min(max(2, -(-_ROTATION_BYTES // max(1, arguments.size))), _MAX_ROTATION)
        sets = arguments.rotation(count)[:count]
        self._pointers = [[buffers.pointers(c.constants) for buffers in sets] for c in self._candidates]
        self._scratches = [candidate.scratch_pointers() for candidate in self._candidates]
        self._warmups = 1 if timing.cache == "warm" else 0
        self._turn = 0

    def run(self) -> list[list[float]]:
        """Time everything.

        Returns:
            Per candidate its samples, in seconds per execution.
        """
        everyone = list(range(len(self._candidates)))
        self._calibrate([lane for lane in everyone if self._estimates[lane] < _LONG_S])
        latencies: list[list[float]] = [[] for _ in everyone]
        budget = self._timing.budget_s * len(everyone)
        spent = self._rounds(everyone, self._timing.quick_repeats, budget, latencies)
        medians = [median(samples) for samples in latencies]
        close = [lane for lane in everyone if medians[lane] <= self._timing.close_ratio * min(medians)]
        more = self._timing.repeats - len(latencies[0])
        if more > 0 and spent + self._round_s(close) <= budget:
            self._rounds(close, more, budget - spent, latencies)
        return latencies

    def _calibrate(self, lanes: list[int]) -> None:
        """Replace cold estimates by warm ones."""
        if lanes:
            for lane, seconds in zip(lanes, self._samples(lanes, inner=3 if self._warmups else 1), strict=True):
                self._estimates[lane] = seconds

    def _rounds(self, lanes: list[int], repeats: int, budget_s: float, latencies: list[list[float]]) -> float:
        """Run rounds in which each lane has one sample, starting with another lane each time.

        Returns:
            About how many seconds that took.
        """
        rounds = max(1, min(repeats, int(budget_s / self._round_s(lanes))))
        order = [lanes[(place + turn) % len(lanes)] for turn in range(rounds) for place in range(len(lanes))]
        for lane, seconds in zip(order, self._samples(order), strict=True):
            latencies[lane].append(seconds)
        return rounds * self._round_s(lanes)

    def _round_s(self, lanes: list[int]) -> float:
        return sum((self._warmups + self._inner(lane)) * max(self._estimates[lane], 1e-9) for lane in lanes)

    def _inner(self, lane: int) -> int:
        """Executions per sample; with rotating buffers one, as a second would find them in the cache."""
        if self._timing.cache == "rotate":
            return 1
        wanted = self._timing.sample_s / max(self._estimates[lane], 1e-9)
        return min(max(1, int(np.ceil(wanted))), _MAX_INNER)

    def _samples(self, order: list[int], inner: int | None = None) -> list[float]:
        """Execute one sample per entry; rotates the buffers."""
        rows = []
        for lane in order:
            pointers = self._pointers[lane][self._turn % len(self._pointers[lane])]
            self._turn += 1
            count = inner or self._inner(lane)
            rows.append(sample_row(self._candidates[lane], pointers, self._scratches[lane], self._warmups, count))
        samples = np.array(rows, np.int64)
        elapsed = self._native.run_samples(samples, self._timing.threads, self._cpus)
        counts = [row[-2] for row in rows]
        return [max(float(total), 1.0) * 1e-9 / count for total, count in zip(elapsed, counts, strict=True)]
