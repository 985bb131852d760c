"""Measured latencies of a workload's candidates, the same for every strategy and seed.

A candidate runs in races against one fixed candidate, the default schedule, whose samples alternate with its own: so
the machine's drifts cancel out, and what was measured an hour apart compares. A race gives the median of the paired
ratios. Where buffers happen to lie in memory decides up to tens of percent and stays the same within a race, so each
candidate runs in several races at different times with different companions, and their median counts. Everything is
kept in a file, to which later runs add.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..backends.llvm.kernel import Kernel
from ..driver.kernels import build_kernel
from ..ir.measure import MeasureRequest, Status, TimingProtocol
from ..passes.packing import pack_array
from ..passes.schedule import ScheduleError
from ..search.base import Runner
from ..search.contest import TuneTask, chunk_count, paired_ratios
from ..search.space import Candidate, SearchSpace

RACES = 7
"""Races that each candidate takes part in."""
LANES = 8
"""Candidates per race, beside the default."""
_REFERENCE_REPEATS = 31


class OutOfTimeError(RuntimeError):
    """The time for measuring is over; what was measured is kept."""


class Row(BaseModel):
    """One candidate.

    Args:
        candidate: sketch and decisions, for people.
        status: `ok`, or how it failed.
        ratios: per race, its latency divided by the default's; none for a failure.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: str
    status: Status
    ratios: tuple[float, ...] = ()


class Table(BaseModel):
    """What was measured of one workload.

    Args:
        workload: digest of the program.
        target: fingerprint of the machine.
        threads: that shared the work.
        backend: name of the code generator.
        schedule_version: meaning of traces.
        protocol: how was timed.
        default: digest of the trace that everything was compared with.
        default_s: its latency in seconds.
        rows: by digest of the trace.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["tilewright search table 1"] = "tilewright search table 1"
    workload: str
    target: str
    threads: int
    backend: str
    schedule_version: int
    protocol: str
    default: str
    default_s: float
    rows: dict[str, Row] = {}

    def same_ground(self, other: Table) -> bool:
        """Whether the two were measured on the same workload in the same way."""
        left, right = (t.model_dump(exclude={"rows", "default_s"}) for t in (self, other))
        return left == right


def trace_digest(candidate: Candidate) -> str:
    """Short identity of a candidate's trace."""
    return hashlib.blake2b(candidate.key.encode(), digest_size=12).hexdigest()


class Oracle:
    """Latencies of one workload's candidates, measured when they are first asked for.

    Args:
        task: the workload.
        space: its candidates.
        runner: measures.
        path: file of the table; what it holds is not measured again.
        timing: how one race is timed.
        deadline: `time.monotonic()` after which nothing more is measured.

    Raises:
        ValueError: the file is no table, or was measured on another machine, version or default.
        RuntimeError: the default schedule fails.
    """

    def __init__(
        self,
        task: TuneTask,
        space: SearchSpace,
        runner: Runner,
        path: Path,
        timing: TimingProtocol,
        deadline: float = float("inf"),
    ) -> None:
        self.task = task
        self._runner = runner
        self._path = path
        self._timing = timing
        self._deadline = deadline
        self.default = space.defaults()[0]
        self._holder = self._request(self.kernel(self.default))
        self._candidates: dict[str, Candidate] = {}
        self.table = self._open()

    def latencies(self, candidates: Sequence[Candidate]) -> list[float]:
        """Seconds of each candidate, infinite for failures; after a single race for those that are new.

        Raises:
            OutOfTimeError: one of them was never measured, and the time is over.
        """
        self._candidates.update((trace_digest(c), c) for c in candidates)
        self._race_all([d for d in dict.fromkeys(map(trace_digest, candidates)) if d not in self.table.rows])
        return [self.latency(trace_digest(c)) for c in candidates]

    @property
    def unsettled(self) -> list[str]:
        """Digests of the candidates that are known here and need more races."""
        rows = self.table.rows
        return [d for d in self._candidates if rows[d].status == "ok" and len(rows[d].ratios) < RACES]

    def settle(self) -> None:
        """Run further races, all candidates once before any goes on, until each of them had enough.

        Raises:
            OutOfTimeError: the time is over.
        """
        while digests := self.unsettled:
            fewest = min(len(self.table.rows[d].ratios) for d in digests)
            behind = sorted(d for d in digests if len(self.table.rows[d].ratios) == fewest)
            order = np.random.default_rng(fewest).permutation(len(behind))
            self._race_all([behind[i] for i in order])

    def latency(self, digest: str) -> float:
        """Seconds of a candidate that was measured."""
        row = self.table.rows[digest]
        return self.table.default_s * median(row.ratios) if row.ratios else float("inf")

    @property
    def best_s(self) -> float:
        """Seconds of the fastest candidate that was measured."""
        return min((self.latency(digest) for digest in self.table.rows), default=float("inf"))

    @property
    def repeatability(self) -> float:
        """How far one race is from the median of all races of a candidate, relative: the median over all races."""
        rows = self.table.rows.values()
        apart = [abs(ratio / median(row.ratios) - 1) for row in rows for ratio in row.ratios]
        return median(apart) if apart else 0.0

    # ---- measuring

    def _race_all(self, digests: Sequence[str]) -> None:
        for start in range(0, len(digests), LANES):
            if time.monotonic() > self._deadline:
                raise OutOfTimeError(f"no time left for {len(digests) - start} candidates")
            self._race(digests[start : start + LANES])
            self._save()

    def _race(self, digests: Sequence[str]) -> None:
        """Add one race's ratios to the table."""
        rows = self.table.rows
        with ThreadPoolExecutor(self.task.target.threads) as pool:
            built = dict(zip(digests, pool.map(self._built, digests), strict=True))
        kernels = {digest: kernel for digest, kernel in built.items() if isinstance(kernel, Kernel)}
        requests = [self._holder, *map(self._request, kernels.values())]
        held, *results = self._runner.measure(self.task.data, requests, self._timing)
        if not held.ok:
            raise RuntimeError(f"the default schedule fails: {held.status} {held.error}")
        for digest, status in built.items():
            if not isinstance(status, Kernel):
                rows[digest] = Row(candidate=str(self._candidates[digest]), status=status)
        for digest, result in zip(kernels, results, strict=True):
            before = rows[digest].ratios if digest in rows else ()
            ratio = float(f"{median(paired_ratios(result, held)):.6g}") if result.ok else None
            ratios = () if ratio is None else (*before, ratio)
            rows[digest] = Row(candidate=str(self._candidates[digest]), status=result.status, ratios=ratios)

    def kernel(self, candidate: Candidate) -> Kernel:
        """Build a candidate."""
        return build_kernel(self.task.key.workload_digest, self.task.func, candidate.trace, self.task.target)

    def _built(self, digest: str) -> Kernel | Status:
        try:
            return self.kernel(self._candidates[digest])
        except ScheduleError:
            return "rejected"
        except Exception:  # whatever the code generator raises is the candidate's failure, as in tuning
            return "compile_error"

    def _request(self, kernel: Kernel) -> MeasureRequest:
        packed = {
            position: pack_array(self.task.data.inputs[position], kernel.params[position])
            for position in self.task.data.constants
            if kernel.params[position].packing
        }
        return MeasureRequest(kernel, chunk_count(kernel.extent, self._timing.threads), packed)

    # ---- the file

    def _open(self) -> Table:
        key = self.task.key
        fresh = Table(
            workload=key.workload_digest,
            target=key.target,
            threads=self._timing.threads,
            backend=key.backend,
            schedule_version=key.schedule_version,
            protocol=f"{RACES} races, {self._timing.text}",
            default=trace_digest(self.default),
            default_s=1.0,
        )
        if self._path.exists():
            try:
                found = Table.model_validate_json(self._path.read_text())
            except ValidationError as error:
                raise ValueError(
                    f"{self._path}: expected a table of latencies, found something else: {error}"
                ) from None
            if not fresh.same_ground(found):
                raise ValueError(f"{self._path}: was measured on other ground; remove it or choose another folder")
            return found
        timing = replace(self._timing, quick_repeats=_REFERENCE_REPEATS, repeats=_REFERENCE_REPEATS)
        (result,) = self._runner.measure(self.task.data, [self._holder], timing)
        if not result.ok:
            raise RuntimeError(f"the default schedule fails: {result.status} {result.error}")
        fresh.default_s = float(f"{result.median_s:.6g}")
        return fresh

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(self.table.model_dump_json(indent=1))
        os.replace(partial, self._path)
