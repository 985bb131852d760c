"""The benchmark's end of the conversation: starts child processes, asks them, and puts them to sleep in between."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from .messages import REPLY, AnyRequest, Reply

# Settings of glibc's allocator for both sides: never give pages back, never map anew. Without effect elsewhere.
PAGE_KEEPING = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
ALLOCATORS: dict[str, dict[str, str]] = {"stock": {}, "page-keeping": PAGE_KEEPING}
_MAX_ERROR = 2000


class SessionError(RuntimeError):
    """A child ended, said something unreadable, or took too long; it is gone."""


class Session:
    """A child process that answers requests, one at a time; use it in a `with` statement.

    Args:
        module: Module of this package to run, for example `child`.
        arguments: Its command line.
        environment: Variables to set; other settings of the allocator are removed.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", *arguments],
            env={**clean, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # A group of its own in our session: it can be stopped and ended with its own children, and the system ends
            # it if we die while it is stopped.
            process_group=0,
        )
        self._unread = b""

    def ask(self, request: AnyRequest, timeout_s: float) -> Reply:
        """Send a request and wait for its reply.

        Raises:
            SessionError: There is none; the child is ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(timeout_s)
        except BrokenPipeError:
            raise self._ended() from None
        try:
            return REPLY.validate_json(line)
        except ValidationError as error:
            self.close()
            raise SessionError(f"unreadable reply ({error}): {line[:_MAX_ERROR]!r}") from None

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.close()
                    raise SessionError(f"no reply within {timeout_s:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise self._ended()
                self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _ended(self) -> SessionError:
        self.close()
        self._errors.seek(0)
        said = self._errors.read()[-_MAX_ERROR:].decode(errors="replace").strip()
        return SessionError(f"exit status {self._process.returncode}: {said}")

    def sleep(self) -> None:
        """Stop the child with all its threads: pools of some libraries spin after work and would disturb others."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End the child and what it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
