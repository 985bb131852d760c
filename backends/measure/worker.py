"""The program of the worker process: receives data and candidates, reports what became of them.

Started by `process.WorkerProcess`. It must start quickly, so it imports neither JAX nor pydantic. It reads frames from
one pipe and writes events to another; anything that kernels print goes to standard error, which the parent keeps.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from io import BufferedReader
from typing import Any

import numpy as np

from ...ir.dtypes import to_numpy
from ...ir.measure import TimingProtocol
from ..llvm.link import LinkError, load
from . import protocol
from .arguments import CONSTANT_ALIGNMENT, PLAIN_ALIGNMENT, Arguments, ArraySpec
from .checking import Candidate, check
from .memory import GuardedBuffer
from .native import Native
from .race import Lane, Race

_ORPHAN_POLL_S = 0.5


class Worker:
    """Serves one parent.

    Args:
        requests: where frames come from.
        replies: file descriptor for events.
    """

    def __init__(self, requests: BufferedReader, replies: int) -> None:
        """Compile the helpers."""
        self._requests = requests
        self._replies = replies
        self._native = Native()
        self._native.announce_faults(replies)
        self._cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._arguments: Arguments | None = None

    def serve(self) -> None:
        """Answer requests until the parent closes the pipe."""
        self._send(event="ready")
        while (frame := protocol.read_frame(self._requests)) is not None:
            header, payload_bytes = frame
            if header["op"] == "store":
                self._store(header, payload_bytes)
            elif header["op"] == "measure":
                self._measure(header)
            else:
                raise protocol.ProtocolError(f"expected a known operation, found {header['op']!r}")

    def _send(self, **event: Any) -> None:
        data = memoryview(protocol.encode(event))
        while data:
            data = data[os.write(self._replies, data) :]

    def _store(self, header: dict[str, Any], payload_bytes: int) -> None:
        """Take over a workload's arguments and references, in place of those before."""
        if self._arguments is not None:
            self._arguments.close()
            self._arguments = None
        inputs = [_spec(item) for item in header["inputs"]]
        outputs = [_spec(item) for item in header["outputs"]]
        try:
            arguments = Arguments(inputs, outputs, [item["tolerance"] for item in header["outputs"]])
        except MemoryError as error:
            protocol.skip(self._requests, payload_bytes)
            self._send(event="refused", error=f"the arguments do not fit into memory: {error}")
            return
        for buffer in arguments.sets["tail"].inputs:
            protocol.read_into(self._requests, buffer.bytes.data)
        for reference in arguments.references:
            protocol.read_into(self._requests, reference.reshape(-1).view(np.uint8).data)
        arguments.spread()
        self._arguments = arguments
        self._send(event="stored")

    def _measure(self, header: dict[str, Any]) -> None:
        """Check candidates one by one, then time the correct ones."""
        if self._arguments is None:
            raise protocol.ProtocolError("expected arguments before candidates")
        timing = TimingProtocol(**header["timing"])
        items = [_Item(self._requests, description) for description in header["candidates"]]
        lanes: dict[int, Lane] = {}
        try:
            for index, item in enumerate(items):
                lane = self._judge(index, item, self._arguments, timing)
                if lane is not None:
                    lanes[index] = lane
            self._race(lanes, self._arguments, timing)
        finally:
            for lane in lanes.values():
                lane.candidate.close()
        self._send(event="done")

    def _judge(self, index: int, item: _Item, arguments: Arguments, timing: TimingProtocol) -> Lane | None:
        """Load and check a candidate; None if it is out."""
        self._send(event="loading", index=index)
        try:
            candidate = item.load(timing.threads)
        except MemoryError as error:
            self._send(event="verdict", index=index, status="oom", error=f"its memory was refused: {error}")
            return None
        except LinkError as error:
            self._send(event="verdict", index=index, status="compile_error", error=str(error))
            return None
        regions = [
            (region.label, region.address, region.size, region.readonly)
            for region in (*arguments.regions(), *candidate.regions())
        ]
        self._send(event="checking", index=index, regions=regions)
        try:
            verdict = check(self._native, candidate, arguments, self._cpus)
        except BaseException:
            candidate.close()
            raise
        self._send(
            event="verdict",
            index=index,
            status=verdict.status,
            error=verdict.error,
            max_errors=[_json_number(error) for error in verdict.max_errors],
        )
        if verdict.status == "ok":
            return Lane(candidate, verdict.estimate_s)
        candidate.close()
        return None

    def _race(self, lanes: dict[int, Lane], arguments: Arguments, timing: TimingProtocol) -> None:
        if not lanes:
            return
        self._send(event="racing")
        try:
            latencies = Race(self._native, list(lanes.values()), arguments, timing, self._cpus).run()
        except MemoryError as error:
            self._send(event="refused", error=f"rotating buffers do not fit into memory: {error}")
            return
        for index, samples in zip(lanes, latencies, strict=True):
            self._send(event="timed", index=index, latencies=samples)


class _Item:
    """A candidate as received; its bytes are read in any case, so that the stream stays in step."""

    def __init__(self, stream: BufferedReader, description: dict[str, Any]) -> None:
        self._description = description
        self._specs = {item["position"]: _spec(item) for item in description["constants"]}
        self._refused: MemoryError | None = None
        self._code = self._read(stream, description["object_bytes"])
        self._constants = {position: self._read(stream, spec.size) for position, spec in self._specs.items()}

    def _read(self, stream: BufferedReader, size: int) -> np.ndarray:
        try:
            data = np.empty(size, np.uint8)
        except MemoryError as error:
            self._refused = error
            protocol.skip(stream, size)
            return np.empty(0, np.uint8)
        protocol.read_into(stream, data.data)
        return data

    def load(self, threads: int) -> Candidate:
        """Link the code and lay out the candidate's own memory.

        Raises:
            LinkError: the code can't be loaded.
            MemoryError: there is not enough memory.
        """
        if self._refused is not None:
            raise self._refused
        text = self._description
        function = load(self._code.tobytes()).address(text["symbol"])
        candidate = Candidate(function, text["extent"], text["chunks"] or threads, threads, tuple(text["in_place"]))
        try:
            candidate.allocate_scratch(text["scratch_bytes"])
            for position, spec in self._specs.items():
                buffer = GuardedBuffer(f"constant {position}", spec.size, "tail", spec.alignment)
                candidate.constants[position] = buffer
                buffer.bytes[:] = self._constants[position]
                buffer.make_readonly()
        except MemoryError:
            candidate.close()
            raise
        return candidate


def _spec(item: dict[str, Any]) -> ArraySpec:
    alignment = CONSTANT_ALIGNMENT if item["constant"] else PLAIN_ALIGNMENT
    return ArraySpec(to_numpy(item["dtype"]), tuple(item["shape"]), alignment)


def _json_number(value: float) -> float | None:
    """JSON has no infinity; the parent reads null as one."""
    return value if np.isfinite(value) else None


def _limit(memory_bytes: int) -> None:
    """Let too large an allocation fail instead of the machine, and leave no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # a lower hard limit is fine, too
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # If memory runs out all the same, the system shall end this process and not the user's.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _watch_parent(parent: int) -> None:
    """End the process when the parent is gone, even if a kernel never returns.

    (The system's own death signal is bound to the parent's *thread* that started the worker, which may end earlier.)
    """
    while os.getppid() == parent:
        time.sleep(_ORPHAN_POLL_S)
    os._exit(3)


def main() -> None:
    """Run a worker; its argument is a JSON object with ``requests``, ``replies``, ``parent`` and ``memory``."""
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_watch_parent, args=(options["parent"],), daemon=True).start()
    _limit(options["memory"])
    with open(options["requests"], "rb") as requests:
        Worker(requests, options["replies"]).serve()
