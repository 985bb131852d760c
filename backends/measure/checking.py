"""Whether a candidate is right: run in three ways in the worker, compared with the reference each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir import dtypes
from ...ir.measure import Status
from .arguments import CONSTANT_ALIGNMENT, Arguments
from .memory import GuardedBuffer, Layout, Region, close_all
from .native import Native

# Both are "never written" marks: as floats 0xFF.. is NaN; as booleans neither is 0 or 1; and no integer equals both.
_POISONS = (0xFF, 0x5A)


@dataclass(slots=True)
class Candidate:
    """A loaded kernel with its private memory.

    Args:
        function: address of the code.
        extent: trip count of its parallel range.
        chunks: ranges it is cut into.
        threads: how many threads execute it.
        in_place: numbers of inputs that its output may be stored over.
        scratches: private memory, one per thread; empty if it needs none.
        constants: its own layouts of constants, by position.
    """

    function: int
    extent: int
    chunks: int
    threads: int
    in_place: tuple[int, ...] = ()
    scratches: list[GuardedBuffer] = field(default_factory=list)
    constants: dict[int, GuardedBuffer] = field(default_factory=dict)

    def allocate_scratch(self, size: int) -> None:
        """Give every thread its private memory.

        Raises:
            MemoryError: there is not enough.
        """
        for thread in range(self.threads if size else 0):
            self.scratches.append(GuardedBuffer(f"scratch of thread {thread}", size, "tail", CONSTANT_ALIGNMENT))

    def scratch_pointers(self) -> np.ndarray:
        """Address of each thread's private memory, int64[threads]."""
        addresses = [buffer.address for buffer in self.scratches] or [0] * self.threads
        return np.array(addresses, np.int64)

    def regions(self) -> list[Region]:
        """Where its memory lies."""
        return [buffer.region for buffer in (*self.scratches, *self.constants.values())]

    def close(self) -> None:
        """Unmap its memory."""
        close_all((*self.scratches, *self.constants.values()))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks found.

    Args:
        status: ``ok``, ``wrong_result`` or ``non_finite``.
        error: explanation of a failure.
        max_errors: largest absolute error per output, as far as it was compared.
        estimate_s: duration of one execution on all threads, cold.
    """

    status: Status
    error: str = ""
    max_errors: tuple[float, ...] = ()
    estimate_s: float = 0.0


def check(native: Native, candidate: Candidate, arguments: Arguments, cpus: Sequence[int]) -> Verdict:
    """Run a candidate in three ways and compare: whole; in uneven ranges, last one first; on all its threads.

    The last run stores the output over an input if the candidate may do that.

    Args:
        native: the helpers.
        candidate: what to run.
        arguments: what to run it on.
        cpus: processors to pin threads to.
    """
    whole = _run_ranges(native, candidate, arguments, [(0, candidate.extent)])
    if whole.status != "ok":
        return whole
    pieces = _run_ranges(native, candidate, arguments, uneven_ranges(candidate.extent)[::-1], "head")
    if pieces.status != "ok":
        return Verdict(pieces.status, f"run in uneven ranges: {pieces.error}", pieces.max_errors)
    return _run_threads(native, candidate, arguments, cpus)


def uneven_ranges(extent: int) -> list[tuple[int, int]]:
    """Cut ``[0, extent)`` into ranges of 1, 2, 3, 5, 8, ... indices and a rest."""
    ranges: list[tuple[int, int]] = []
    lo, size, following = 0, 1, 2
    while lo < extent:
        hi = min(lo + size, extent)
        ranges.append((lo, hi))
        lo, size, following = hi, following, size + following
    return ranges


def _run_ranges(
    native: Native,
    candidate: Candidate,
    arguments: Arguments,
    ranges: Sequence[tuple[int, int]],
    layout: Layout = "tail",
) -> Verdict:
    buffers = arguments.sets[layout]
    poison = _POISONS[layout == "head"]
    buffers.poison(poison)
    pointers, scratch = buffers.pointers(candidate.constants), int(candidate.scratch_pointers()[0])
    for lo, hi in ranges:
        _poison_scratch(candidate, poison)
        native.run_range(candidate.function, pointers.ctypes.data, lo, hi, scratch)
    return _compare_all(candidate, arguments, layout)


def _run_threads(native: Native, candidate: Candidate, arguments: Arguments, cpus: Sequence[int]) -> Verdict:
    buffers = arguments.sets["tail"]
    buffers.poison(_POISONS[0])
    _poison_scratch(candidate, _POISONS[0])
    pointers, scratches = buffers.pointers(candidate.constants), candidate.scratch_pointers()
    for number in candidate.in_place[:1]:
        buffers.outputs[0].bytes[:] = buffers.inputs[number].bytes
        pointers[number] = buffers.outputs[0].address
    sample = sample_row(candidate, pointers, scratches, warmups=0, inner=1)
    elapsed = native.run_samples(np.array([sample], np.int64), candidate.threads, cpus)
    verdict = _compare_all(candidate, arguments, "tail")
    if verdict.status != "ok":
        how = f"run on {candidate.threads} threads{' and in place' if candidate.in_place else ''}"
        return Verdict(verdict.status, f"{how}: {verdict.error}", verdict.max_errors)
    return Verdict("ok", "", verdict.max_errors, float(elapsed[0]) * 1e-9)


def sample_row(
    candidate: Candidate, pointers: np.ndarray, scratches: np.ndarray, warmups: int, inner: int
) -> tuple[int, ...]:
    """One row of the samples that `Native.run_samples` takes; the arrays must outlive its run."""
    places = (pointers.ctypes.data, scratches.ctypes.data)
    return (candidate.function, *places, candidate.extent, candidate.chunks, warmups, inner, 0)


def _poison_scratch(candidate: Candidate, byte: int) -> None:
    for buffer in candidate.scratches:
        buffer.bytes[:] = byte


def _compare_all(candidate: Candidate, arguments: Arguments, layout: Layout) -> Verdict:
    buffers = arguments.sets[layout]
    for buffer in (*buffers.outputs, *candidate.scratches):
        if not buffer.slack_intact():
            return Verdict("wrong_result", f"stored outside {buffer.label}, next to it")
    errors: list[float] = []
    rows = zip(buffers.results(), arguments.references, arguments.tolerances, strict=True)
    for number, (found, expected, tolerance) in enumerate(rows):
        status, error, largest = compare(found, expected, tolerance)
        errors.append(largest)
        if status != "ok":
            return Verdict(status, f"output {number} {error}", tuple(errors))
    return Verdict("ok", "", tuple(errors))


def compare(found: np.ndarray, expected: np.ndarray, tolerance: float) -> tuple[Status, str, float]:
    """Compare one output with its reference.

    NaN must stand exactly where the reference has NaN, infinities must be equal; integers and booleans must be equal.

    Args:
        found: what the kernel stored.
        expected: the reference, of the same type.
        tolerance: largest absolute error allowed between finite numbers.

    Returns:
        Status, explanation of a failure, and the largest absolute error (infinite where something is not finite).
    """
    name = found.dtype.name
    if name == dtypes.BOOL:
        return _compare_exactly(found.view(np.uint8), expected.view(np.uint8))
    if dtypes.is_integer(name):
        return _compare_exactly(found, expected)
    if name in ("float16", "bfloat16"):
        found, expected = found.astype(np.float32), expected.astype(np.float32)
    with np.errstate(all="ignore"):
        error = np.abs(found - expected)
    largest = float(error.max(initial=0.0))
    if largest <= tolerance:
        return "ok", "", largest
    return _compare_special(found, expected, error, tolerance)


def _compare_exactly(found: np.ndarray, expected: np.ndarray) -> tuple[Status, str, float]:
    off = found != expected
    if not off.any():
        return "ok", "", 0.0
    largest = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    return "wrong_result", _explain(found, expected, off, "they must be equal"), largest


def _compare_special(
    found: np.ndarray, expected: np.ndarray, error: np.ndarray, tolerance: float
) -> tuple[Status, str, float]:
    """The slow way, where something is not finite or too far off."""
    finite = np.isfinite(expected)
    bad = finite & ~np.isfinite(found)
    if bad.any():
        return "non_finite", _explain(found, expected, bad, "perhaps never written"), float("inf")
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    off = np.where(finite, error > tolerance, ~same)
    largest = float(error[finite].max(initial=0.0)) if not (off & ~finite).any() else float("inf")
    if off.any():
        return "wrong_result", _explain(found, expected, off, f"tolerance {tolerance:.3g}"), largest
    return "ok", "", largest


def _explain(found: np.ndarray, expected: np.ndarray, off: np.ndarray, remark: str) -> str:
    place = tuple(int(index) for index in np.unravel_index(int(np.argmax(off)), off.shape))
    values = f"expected {expected[place]!s}, found {found[place]!s}"
    return f"at {list(place)}: {values} ({remark}); {int(off.sum())} of {off.size} elements are off"
