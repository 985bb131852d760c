"""One worker process as its parent sees it: start, talk with deadlines, kill."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from . import protocol
from .events import Event, Ready, parse_event
from .faults import CrashNote

_START_LIMIT_S = 60.0
_KILL_LIMIT_S = 10.0
_PIPE_BYTES = 1 << 20
_STDERR_TAIL = 2000

# The worker's own interpreter is isolated from the environment; what the parent can import comes after its own path.
_PROGRAM = (
    "import json, sys;"
    "sys.path += [p for p in json.loads(sys.argv[2]) if p not in sys.path];"
    "from tilewright.backends.measure.worker import main; main()"
)


class WorkerDied(Exception):
    """The process ended, or can't be believed any more.

    Args:
        message: what happened.
        note: what the fault handler wrote, if it did.
        garbage: whether the process lives, but something wrote nonsense to its pipe.
    """

    def __init__(self, message: str, note: CrashNote | None = None, *, garbage: bool = False) -> None:
        """Keep what is known."""
        super().__init__(message)
        self.note = note
        self.garbage = garbage


class WorkerTimeout(Exception):
    """Nothing came in time."""


class WorkerProcess:
    """A running worker.

    Args:
        memory_bytes: limit of its address space.

    Raises:
        OSError: the process can't be started.
    """

    def __init__(self, memory_bytes: int) -> None:
        """Start the process without waiting for it."""
        if not sys.executable:
            raise OSError("expected an interpreter to start the measuring worker with, but sys.executable is empty")
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._stderr = tempfile.TemporaryFile()
        self.ready = False
        self.stored: object | None = None
        self.kernels = 0
        options = {"requests": requests, "replies": replies, "parent": os.getpid(), "memory": memory_bytes}
        paths = [os.path.abspath(path) for path in sys.path if path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, json.dumps(options), json.dumps(paths)],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=(requests, replies),
                process_group=0,  # Ctrl-C on the terminal reaches the parent only
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except BaseException:
            os.close(self._requests)
            os.close(self._replies)
            self._stderr.close()
            raise
        finally:
            os.close(requests)
            os.close(replies)
        os.set_blocking(self._requests, False)
        _widen(self._requests)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until the worker has started.

        Raises:
            WorkerDied: it ended instead, e.g. because a module can't be imported.
            WorkerTimeout: it takes longer than a minute.
        """
        if not self.ready:
            event = self.receive(time.monotonic() + _START_LIMIT_S)
            if not isinstance(event, Ready):
                raise WorkerDied(f"expected the worker to say that it is ready, it said {event!r}")
            self.ready = True

    def send(self, header: dict[str, Any], parts: Sequence[memoryview], deadline: float) -> None:
        """Send a frame.

        Args:
            header: JSON object.
            parts: payload, one after the other, each contiguous bytes.
            deadline: by `time.monotonic`.

        Raises:
            WorkerDied: nobody listens any more.
            WorkerTimeout: the worker does not take it in time.
        """
        prefix = memoryview(protocol.encode(header, protocol.payload_size(parts)))
        for part in (prefix, *parts):
            while part.nbytes:
                _wait(self._requests, select.POLLOUT, deadline)
                try:
                    part = part[os.write(self._requests, part) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError as error:
                    raise WorkerDied("the worker closed its pipe") from error

    def receive(self, deadline: float) -> Event:
        """The next event.

        Raises:
            WorkerDied: the process ended, or sent garbage.
            WorkerTimeout: nothing came in time.
        """
        prefix = self._read(protocol.FRAME_PREFIX.size, deadline)
        if prefix[:4] == protocol.CRASH_MAGIC:
            _, number, address = protocol.CRASH_NOTE.unpack(prefix)
            raise WorkerDied("the worker faulted", CrashNote(number, address))
        try:
            header_bytes, payload_bytes = protocol.parse_prefix(prefix)
            if payload_bytes:
                raise protocol.ProtocolError("expected an event without payload")
            return parse_event(protocol.decode_header(self._read(header_bytes, deadline)))
        except protocol.ProtocolError as error:
            raise WorkerDied(f"garbage on the worker's pipe: {error}", garbage=True) from error

    def end(self) -> tuple[int, str]:
        """Make sure that the process is gone.

        Returns:
            Its return code (negative for a signal), and the end of what it printed.
        """
        code = self._reap()
        text = ""
        if not self._stderr.closed:
            size = self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, size - _STDERR_TAIL))
            text = self._stderr.read().decode(errors="replace")
        self.kill()
        return code, text

    def kill(self) -> None:
        """End the process at once and free its pipes. May be called again."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(_KILL_LIMIT_S)
        if not self._stderr.closed:
            self._stderr.close()
            os.close(self._requests)
            os.close(self._replies)

    def _reap(self) -> int:
        """The return code; a process that has closed its pipe, or faulted, gets a moment to die by itself."""
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(_KILL_LIMIT_S)

    def _read(self, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            _wait(self._replies, select.POLLIN, deadline)
            piece = os.read(self._replies, count - len(data))
            if not piece:
                raise WorkerDied("the worker ended")
            data += piece
        return data


def _wait(fd: int, condition: int, deadline: float) -> None:
    """Wait until a pipe can be used (or its other end is closed)."""
    poll = select.poll()
    poll.register(fd, condition)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(remaining * 1000):
        raise WorkerTimeout


def _widen(fd: int) -> None:
    """Let a pipe hold more, where the system can, so that large arrays need fewer switches."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
