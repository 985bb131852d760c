"""From a dead worker to a reason a reader understands."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.measure import Status
from .memory import GUARD_BYTES

_NULL_PAGE = 4096
_PAGE_SLACK = 1 << 16  # data and guard are less than a page (of any size) apart


@dataclass(frozen=True, slots=True)
class CrashNote:
    """What the worker's fault handler wrote."""

    signal: int
    address: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a candidate is out."""

    status: Status
    error: str


def explain(
    returncode: int, note: CrashNote | None, regions: Sequence[tuple[str, int, int, bool]], stderr: str
) -> Fault:
    """Tell what killed a worker.

    Args:
        returncode: as `subprocess` gives it: negative for a signal.
        note: the fault handler's last word, if there was one.
        regions: the candidate's memory as ``(label, address, size, readonly)``.
        stderr: the end of what the worker printed.
    """
    tail = f"; it printed: {stderr.strip()[-500:]}" if stderr.strip() else ""
    if note is not None and note.signal in (signal.SIGSEGV, signal.SIGBUS):
        status, error = _explain_access(note.address, regions)
        return Fault(status, f"{_name(note.signal)}: {error}{tail}")
    if note is not None:
        return Fault("crash", f"{_name(note.signal)} at code address {note.address:#x}{tail}")
    if returncode == -signal.SIGKILL:
        return Fault("crash", f"killed from outside, perhaps by the system because memory ran out{tail}")
    if returncode == -signal.SIGSEGV:
        return Fault("crash", f"SIGSEGV without a fault address, probably a stack overflow{tail}")
    if returncode < 0:
        return Fault("crash", f"died of {_name(-returncode)}{tail}")
    return Fault("crash", f"the worker ended with exit code {returncode}{tail}")


def _explain_access(address: int, regions: Sequence[tuple[str, int, int, bool]]) -> tuple[Status, str]:
    for label, start, size, readonly in regions:
        end = start + size
        if start <= address < end:
            if readonly:
                return "modified_input", f"stored to {label} at byte {address - start} of {size}"
            return "crash", f"access to {label} at byte {address - start} of {size}"
        if end <= address < end + _PAGE_SLACK + GUARD_BYTES // 2:
            return "crash", f"access {address - end} bytes past the end of {label} ({size} bytes)"
        if start - _PAGE_SLACK - GUARD_BYTES // 2 <= address < start:
            return "crash", f"access {start - address} bytes before the start of {label} ({size} bytes)"
    if address < _NULL_PAGE:
        return "crash", f"access through a null pointer (address {address:#x}), perhaps memory that was refused"
    return "crash", f"access to address {address:#x}, which belongs to no argument"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
