"""Native code of the worker: loading kernels, running them on pinned threads, explaining faults."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence

import numpy as np

from ..llvm.link import load
from ..llvm.toolchain import object_code
from .native_ir import SAMPLE_FIELDS, SEPARATION, helper_ir

_ELAPSED = SAMPLE_FIELDS.index("elapsed_ns")
_SA_SIGINFO = 4
_SA_RESETHAND = 0x80000000


class Native:
    """The helper functions, compiled once per worker."""

    def __init__(self) -> None:
        """Compile the helpers."""
        self._library = load(object_code(helper_ir(), features=""))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run_range = ctypes.CFUNCTYPE(None, pointer, pointer, number, number, pointer)(
            self._library.address("run_range")
        )
        self._participate = ctypes.CFUNCTYPE(None, pointer, number, pointer, number, number)(
            self._library.address("participate")
        )

    def run_range(self, function: int, buffers: int, lo: int, hi: int, scratch: int) -> None:
        """Execute ``[lo, hi)`` of a kernel on this thread, denormals flushed.

        Args:
            function: address of the kernel.
            buffers: address of its array of data pointers.
            lo: first index of the parallel range.
            hi: end of it.
            scratch: address of the private memory, 0 if it needs none.
        """
        self._run_range(function, buffers, lo, hi, scratch)

    def run_samples(self, samples: np.ndarray, threads: int, cpus: Sequence[int]) -> np.ndarray:
        """Execute samples one after the other on pinned threads.

        Args:
            samples: int64[n, 8], see `SAMPLE_FIELDS`.
            threads: how many take part.
            cpus: the processors they are pinned to, in turn; empty where the system can't.

        Returns:
            Elapsed nanoseconds of each sample, float64[n].
        """
        area = np.zeros((2 * threads + 2) * SEPARATION, np.uint8)
        barrier = -(-area.ctypes.data // SEPARATION) * SEPARATION

        def take_part(me: int) -> None:
            # A processor may have been taken away meanwhile; the other participants wait for this one all the same.
            with contextlib.suppress(OSError):
                _pin(cpus, me)
            self._participate(samples.ctypes.data, len(samples), barrier, me, threads)

        participants = [threading.Thread(target=take_part, args=(me,)) for me in range(threads)]
        for thread in participants:
            thread.start()
        for thread in participants:
            thread.join()
        return samples[:, _ELAPSED].astype(np.float64)

    def announce_faults(self, fd: int) -> None:
        """From now on, a fault that kills the process writes a crash note to ``fd`` first (Linux only).

        The handler is one-shot. It has no stack of its own: a stack overflow kills without a note.
        """
        if not sys.platform.startswith("linux"):
            return
        ctypes.c_int.from_address(self._library.address("note_fd")).value = fd
        action = _SigAction(handler=self._library.address("on_fault"), flags=_SA_SIGINFO | _SA_RESETHAND)
        sigaction = ctypes.CDLL(None, use_errno=True).sigaction
        for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
            if sigaction(int(number), ctypes.byref(action), None) != 0:
                raise OSError(ctypes.get_errno(), "sigaction failed")


def _pin(cpus: Sequence[int], me: int) -> None:
    """Bind the calling thread (not the process) to one processor."""
    if cpus:
        os.sched_setaffinity(0, {cpus[me % len(cpus)]})


class _SigAction(ctypes.Structure):
    """``struct sigaction`` of the C libraries of 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_uint),
        ("restorer", ctypes.c_void_p),
    )
