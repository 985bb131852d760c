"""What `tilewright doctor` looks at: versions, processor, limits, database, and one real function compiled end to end.

Every part is looked at by itself and imported only when its turn comes, since a broken set-up is what this is for.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..ir.target import Target, detect_target

if TYPE_CHECKING:
    from ..backends.measure.machine import MachineLimits

PACKAGES = ("tilewright", "jax", "jaxlib", "llvmlite", "numpy")
_REINSTALL = "install the package again in a fresh virtual environment: `pip install tilewright`"
_MAX_TEXT = 300

Status = Literal["fine", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: `fine`, `note` (works, but something is worth knowing) or `problem` (does not work).
        found: What was found.
        remedy: What to do about it, or empty.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a set-up.

    Attributes:
        versions: Of Python and the libraries; None where one is missing.
        target: The processor.
        limits: Its measured limits, or None if they could not be measured.
        checks: What was looked at, in order.
    """

    versions: dict[str, str | None]
    target: Target
    limits: MachineLimits | None
    checks: tuple[Check, ...]

    @property
    def fine(self) -> bool:
        """Whether everything works."""
        return all(check.status != "problem" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        return {
            "fine": self.fine,
            "versions": self.versions,
            "target": {**asdict(self.target), "fingerprint": self.target.fingerprint},
            "limits": None if self.limits is None else asdict(self.limits),
            "checks": [asdict(check) for check in self.checks],
        }


def diagnose(database: str | None = None, say: Callable[[str], None] = lambda text: None) -> Diagnosis:
    """Look at everything; takes about ten seconds.

    Args:
        database: Path or URL of the tuning database; None for the user's own.
        say: Called with what is being done.
    """
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    target = detect_target()
    checks = [_packages(versions), _processor(target), _threads(target)]
    checks += [_guarded("allocator", _allocator), _guarded("database", lambda: _database(database))]
    say("compiling a small function ...")
    checks += _function()
    say("measuring the machine ...")
    limits, check = _limits()
    return Diagnosis(versions, target, limits, (*checks, check))


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:
        return Check(name, "problem", _text(error), _REINSTALL)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages(versions: dict[str, str | None]) -> Check:
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        return Check("packages", "problem", f"{', '.join(missing)} not installed", _REINSTALL)
    return Check("packages", "fine", "all installed")


def _processor(target: Target) -> Check:
    found = f"{target.name}, {target.vector_bits}-bit vectors"
    if platform.system() != "Linux":
        remedy = "kernels run on Linux only for now; functions still run, as plain JAX"
        return Check("processor", "problem", f"{platform.system()} on {target.arch}", remedy)
    if target.vector_bits < 256 and target.arch == "x86_64":
        return Check("processor", "note", found, "without AVX2 there is less to gain; nothing to do")
    return Check("processor", "fine", found)


def _threads(target: Target) -> Check:
    total, quota = os.cpu_count() or target.threads, _cpu_quota()
    if quota is not None and quota < target.threads:
        remedy = f"threads will stall each other: start with `taskset -c 0-{max(int(quota), 1) - 1}`"
        return Check("threads", "note", f"{target.threads}, but a CPU quota of {quota:g} processors", remedy)
    if target.threads < total:
        return Check("threads", "fine", f"{target.threads} of {total} processors (limited by affinity)")
    return Check("threads", "fine", f"{target.threads}")


def _cpu_quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Processors' worth of time that this container may use, if that is limited."""
    try:
        quota, period = file.read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return None


def _allocator() -> Check:
    from ..driver.verdicts import allocator_mode

    if allocator_mode() == "keep":
        return Check("allocator", "fine", "keeps its pages")
    remedy = "large arrays cost page faults, with jax.jit as well: see docs/performance.md for what to set"
    return Check("allocator", "note", "as it comes", remedy)


def _database(path: str | None) -> Check:
    from ..database.engine import DatabaseError, describe, open_engine, translated, write

    try:
        engine = open_engine(path)
        name = describe(engine.url)
        try:
            with translated(name), write(engine):  # the right to write is taken, and nothing written
                return Check("database", "fine", f"{name}, writable")
        finally:
            engine.dispose()
    except (DatabaseError, OSError) as error:
        remedy = "until then no results are kept between processes; compile(database=...) takes another path"
        return Check("database", "problem", str(error), remedy)


def _function() -> list[Check]:
    """Compile a small function step by step."""
    try:
        from . import probe
    except Exception as error:
        return [Check("imports", "problem", _text(error), _REINSTALL)]
    checks: list[Check] = []
    state = probe.Probe()
    for name, remedy, step in probe.STEPS:
        try:
            checks.append(Check(name, "fine", step(state)))
        except Exception as error:
            return [*checks, Check(name, "problem", _text(error), remedy)]
    return checks


def _limits() -> tuple[MachineLimits | None, Check]:
    try:
        from ..backends.measure.machine import measure_limits

        limits = measure_limits()
    except Exception as error:
        return None, Check("limits", "problem", _text(error), _REINSTALL)
    return limits, Check("limits", "fine", "measured; a busy machine reads low")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_TEXT]
