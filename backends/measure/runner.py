"""Measuring candidates in worker processes: whatever a candidate does, it becomes a result."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...ir.measure import MeasureData, MeasureRequest, MeasureResult, TimingProtocol
from . import events, faults
from .process import WorkerDied, WorkerProcess, WorkerTimeout

_TRANSFER_LIMIT_S = 120.0
_LOAD_LIMIT_S = 60.0
# Timing may take this many times the budget before it counts as hanging (other programs may use the machine).
_PATIENCE = 20
# Code is never unloaded, so a worker is replaced after so many kernels.
_KERNELS_PER_WORKER = 500
# A worker that is killed while it idles is replaced, but not for ever.
_IDLE_DEATHS = 3


class WorkerError(RuntimeError):
    """No worker can be started, or none survives receiving the data: nothing can be measured here."""


class WorkerRunner:
    """Checks and times candidates, each in a process that may die of it.

    One worker is in use and a spare one waits, so that a crash costs no start-up time. Use it as a context manager, or
    call `close`. Calls from several threads are served one after the other: timings must not overlap.

    Args:
        memory_bytes: address space a worker may use; by default the machine's memory.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        """Start two workers without waiting for them."""
        self._memory_bytes = memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)
        self._refill()

    def __enter__(self) -> WorkerRunner:
        """The runner itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the workers. The runner starts new ones if it is used again."""
        _kill_all(self._workers)

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the worker in use and the spare one."""
        return tuple(worker.pid for worker in self._workers)

    def measure(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        """Check candidates of one workload against the reference and time the correct ones in turn.

        Args:
            data: arguments and reference results; passing the same object again saves sending it.
            requests: the candidates.
            timing: how to time them.

        Returns:
            One result per request, in order. A candidate's failure is a status, never an exception.

        Raises:
            WorkerError: no worker can be started.
            ValueError: a request does not fit the data.
        """
        for request in requests:
            _validate(request, data)
        with self._lock:
            try:
                results = self._measure_all(data, requests, timing)
                self._refill()
            except BaseException:  # Ctrl-C included: no worker may go on running
                self.close()
                raise
        return results

    def _measure_all(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        results: dict[int, MeasureResult] = {}
        idle_deaths = 0
        groups = [list(range(len(requests)))] if requests else []
        while groups:
            group = groups.pop()
            attempt = _Attempt([requests[index] for index in group], timing)
            worker = self._prepared(data)
            if isinstance(worker, MeasureResult):
                results.update(dict.fromkeys(group, worker))
                continue
            retry = attempt.run(worker)
            idle_deaths += attempt.died_idle
            if idle_deaths > _IDLE_DEATHS:
                raise WorkerError(f"{idle_deaths} workers died before they did anything; see the system's log")
            if not worker.alive:
                self._drop(worker)
            results.update({group[place]: result for place, result in attempt.results.items()})
            groups += [[group[place] for place in places] for places in retry]
        return [results[index] for index in range(len(requests))]

    def _prepared(self, data: MeasureData) -> WorkerProcess | MeasureResult:
        """A ready worker that holds the data, or the result if it does not fit into memory."""
        reasons: list[str] = []
        while len(reasons) < 3:
            worker = self._take()
            try:
                worker.wait_ready()
                if worker.stored is not data and (refusal := _store(worker, data)) is not None:
                    return MeasureResult("oom", error=refusal)
            except (WorkerDied, WorkerTimeout) as error:
                code, printed = worker.end()
                reasons.append(f"{error} (exit code {code}) {printed.strip()}".strip())
                self._drop(worker)
                continue
            return worker
        raise WorkerError("can't start a worker to measure with: " + "\n".join(reasons))

    def _take(self) -> WorkerProcess:
        """The first living worker; waits for the spare one, whose start would disturb timings."""
        for worker in list(self._workers):
            if not worker.alive or worker.kernels >= _KERNELS_PER_WORKER:
                self._drop(worker)
        if not self._workers:
            self._workers.append(WorkerProcess(self._memory_bytes))
        for worker in self._workers[1:]:
            try:
                worker.wait_ready()
            except (WorkerDied, WorkerTimeout):
                self._drop(worker)
        return self._workers[0]

    def _drop(self, worker: WorkerProcess) -> None:
        worker.kill()
        if worker in self._workers:
            self._workers.remove(worker)

    def _refill(self) -> None:
        """Start what is missing; the start-up overlaps with what the caller does next."""
        while len(self._workers) < 2:
            self._workers.append(WorkerProcess(self._memory_bytes))


@dataclass(slots=True)
class _Attempt:
    """One request to one worker.

    Args:
        requests: candidates of the attempt.
        timing: how to time them.
        results: by place among the requests, what is known.
    """

    requests: Sequence[MeasureRequest]
    timing: TimingProtocol
    results: dict[int, MeasureResult] = field(default_factory=dict)
    _correct: dict[int, tuple[float, ...]] = field(default_factory=dict)
    _phase: str = "idle"
    _current: int = 0
    _regions: Sequence[tuple[str, int, int, bool]] = ()

    def run(self, worker: WorkerProcess) -> list[list[int]]:
        """Measure.

        Returns:
            Groups of requests that have no result because of another candidate's failure and are to be tried again.
        """
        worker.kernels += len(self.requests)
        try:
            _send_candidates(worker, self.requests, self.timing)
            while not isinstance(event := worker.receive(self._deadline()), events.Done):
                self._note(event)
        except WorkerTimeout:
            worker.kill()
            limit = self._limit_s()
            return self._blame(MeasureResult("timeout", error=f"still running after {limit:g} s of {self._phase}"))
        except WorkerDied as death:
            return self._blame(self._explain(worker, death))
        return []

    @property
    def died_idle(self) -> bool:
        """Whether the worker was lost before it had to do with any candidate."""
        return self._phase == "idle"

    def _deadline(self) -> float:
        return time.monotonic() + self._limit_s()

    def _limit_s(self) -> float:
        """Seconds until the next event must come; the clock starts with the event before."""
        if self._phase == "checking":
            return self.timing.timeout_s
        if self._phase == "timing":
            return self.timing.timeout_s + _PATIENCE * self.timing.budget_s * len(self._correct)
        return _LOAD_LIMIT_S

    def _note(self, event: events.Event) -> None:
        """Follow the worker's progress."""
        match event:
            case events.Loading(index=index):
                self._phase, self._current = "loading", self._checked(index)
            case events.Checking(index=index, regions=regions):
                self._phase, self._current, self._regions = "checking", self._checked(index), regions
            case events.Verdict():
                self._judge(event)
            case events.Racing():
                self._phase = "timing"
            case events.Timed(index=index, latencies=latencies):
                self._checked(index)
                self.results[index] = MeasureResult("ok", tuple(latencies), "", self._correct.get(index, ()))
            case events.Refused(error=error):
                self.results.update({index: MeasureResult("oom", error=error) for index in self._correct})
            case _:
                raise WorkerDied(f"garbage on the worker's pipe: unexpected {event!r}", garbage=True)

    def _judge(self, verdict: events.Verdict) -> None:
        errors = tuple(float("inf") if error is None else error for error in verdict.max_errors)
        index = self._checked(verdict.index)
        self._phase = "between candidates"
        if verdict.status == "ok":
            self._correct[index] = errors
        else:
            self.results[index] = MeasureResult(verdict.status, (), verdict.error, errors)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self.requests):
            raise WorkerDied(f"garbage on the worker's pipe: there is no candidate {index}", garbage=True)
        return index

    def _explain(self, worker: WorkerProcess, death: WorkerDied) -> MeasureResult:
        if death.garbage:
            worker.kill()
            return MeasureResult("crash", error=f"{death} (while {self._phase})")
        code, printed = worker.end()
        fault = faults.explain(code, death.note, self._regions, printed)
        status = "compile_error" if self._phase == "loading" and fault.status == "crash" else fault.status
        return MeasureResult(status, error=f"{fault.error} (while {self._phase})")

    def _blame(self, failure: MeasureResult) -> list[list[int]]:
        """Give the failure to whom it belongs; the others are tried again."""
        if self.died_idle:
            return [self._missing()]
        if self._phase == "timing" and len(self._correct) > 1:
            # It can't be told whose fault it was: each alone.
            return [[index] for index in self._missing()]
        culprit = next(iter(self._correct)) if self._phase == "timing" else self._current
        self.results[culprit] = failure
        rest = self._missing()
        return [rest] if rest else []

    def _missing(self) -> list[int]:
        return [index for index in range(len(self.requests)) if index not in self.results]


def _store(worker: WorkerProcess, data: MeasureData) -> str | None:
    """Send the data; returns why the worker can't hold it."""
    inputs = [
        {**_describe(array), "constant": position in data.constants} for position, array in enumerate(data.inputs)
    ]
    outputs = [
        {**_describe(array), "constant": False, "tolerance": tolerance}
        for array, tolerance in zip(data.outputs, data.tolerances, strict=True)
    ]
    worker.stored = None
    deadline = time.monotonic() + _TRANSFER_LIMIT_S
    parts = [_raw(array) for array in (*data.inputs, *data.outputs)]
    worker.send({"op": "store", "inputs": inputs, "outputs": outputs}, parts, deadline)
    event = worker.receive(deadline)
    if isinstance(event, events.Refused):
        return event.error
    if not isinstance(event, events.Stored):
        raise WorkerDied(f"garbage on the worker's pipe: expected the data's receipt, found {event!r}")
    worker.stored = data
    return None


def _send_candidates(worker: WorkerProcess, requests: Sequence[MeasureRequest], timing: TimingProtocol) -> None:
    candidates: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    for request in requests:
        kernel = request.kernel
        constants = [
            {**_describe(array), "constant": True, "position": position}
            for position, array in request.constants.items()
        ]
        candidates.append(
            {
                "symbol": kernel.symbol,
                "extent": kernel.extent,
                "scratch_bytes": kernel.scratch_bytes,
                "in_place": kernel.in_place,
                "chunks": request.chunks,
                "object_bytes": len(kernel.object_code),
                "constants": constants,
            }
        )
        parts += [memoryview(kernel.object_code), *(_raw(array) for array in request.constants.values())]
    header = {"op": "measure", "candidates": candidates, "timing": asdict(timing)}
    worker.send(header, parts, time.monotonic() + _TRANSFER_LIMIT_S)


def _describe(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape)}


def _raw(array: np.ndarray) -> memoryview:
    """The bytes of an array, row-major."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _validate(request: MeasureRequest, data: MeasureData) -> None:
    kernel = request.kernel
    if kernel.extent < 0 or request.chunks < 0 or not 0 <= kernel.scratch_bytes < 1 << 62:
        found = f"{kernel.extent}, {request.chunks}, {kernel.scratch_bytes}"
        raise ValueError(f"expected extent, chunks and scratch bytes that are not negative, found {found}")
    for position in request.constants:
        if position not in data.constants:
            raise ValueError(f"expected constants at positions {sorted(data.constants)}, found one at {position}")


def _kill_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().kill()
