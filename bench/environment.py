"""The machine and the software of a run, and how fast memory is at the moment."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from ..backends.measure.machine import measure_limits
from ..ir.target import detect_target
from .report import Machine

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = ("tilewright", "jax", "jaxlib", "numpy", "llvmlite")
_NO_SOURCES = frozenset({"tests", "examples", "docs", "build", "dist"})
_COPIED_BYTES = 128 * 2**20
_ATTEMPTS = 3


def describe_machine(extra_libraries: tuple[str, ...] = ()) -> Machine:
    """Look at the machine and measure its limits; takes about three seconds.

    Args:
        extra_libraries: Distributions whose versions matter too; those that are missing are left out.
    """
    target = detect_target()
    limits = measure_limits(target)
    return Machine(
        fingerprint=target.fingerprint,
        processor=target.name,
        threads=target.threads,
        last_cache_bytes=target.l3_bytes,
        peak_gflops=limits.fma_gflops_all,
        memory_gbs=limits.read_gbs_all,
        cache_gbs=limits.l3_gbs_all,
        versions=_versions((*_LIBRARIES, *extra_libraries)),
        commit=_commit(),
        sources=_sources(),
        started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The checkout's commit; empty for an installed package."""
    command = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 and (_PACKAGE / ".git").exists() else ""


def _sources() -> str:
    """Digest of everything that may change a result: the package's Python files, without tests and environments."""
    state = hashlib.blake2b(digest_size=8)
    folders = [
        path for path in _PACKAGE.iterdir() if path.is_dir() and path.name not in _NO_SOURCES and path.name[0] != "."
    ]
    for file in sorted([*_PACKAGE.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]):
        state.update(f"{file.relative_to(_PACKAGE)}\0".encode() + file.read_bytes())
    return state.hexdigest()


class MemoryState:
    """Tells in which state memory is: on shared machines its rate may change by a factor of two within a minute."""

    def __init__(self) -> None:
        size = _COPIED_BYTES // 4
        self._threads = detect_target().threads
        self._source = np.ones(size, np.float32)
        self._copy = np.zeros_like(self._source)

    def copy_gbs(self) -> float:
        """Rate of copying with all threads, bytes read plus bytes written, in GB/s; takes some 20 milliseconds."""
        return 2 * self._source.nbytes / min(self._seconds() for _ in range(_ATTEMPTS)) / 1e9

    def _seconds(self) -> float:
        parts = zip(np.array_split(self._copy, self._threads), np.array_split(self._source, self._threads), strict=True)
        workers = [threading.Thread(target=np.copyto, args=part) for part in parts]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - start
