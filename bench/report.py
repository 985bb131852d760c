"""What a run of a suite found, as data: written as JSON, read back with every field checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .cases import SuiteName
from .messages import JIT, Error

SCHEMA_VERSION = 1
_MAX_BYTES = 64 * 2**20

_STRICT = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ReportError(ValueError):
    """A file is no report that this version can read."""


class SuiteOptions(BaseModel):
    """What a run was asked to do.

    Attributes:
        suite: Which suite.
        rows: Names of its rows, in order.
        efforts: Efforts of `tilewright.compile` to measure.
        budget: Tuning time of each compilation with an effort above 0, for example `20s`.
        peers: Names of other compilers and runtimes.
        repeats: Processes per allocator mode.
        rounds: Most samples of each side per process.
        timing_s: Stop sampling in a process after about this time.
        row_timeout_s: Longest time for a row; what is not done then fails.
        accuracy_inputs: Inputs on which results are compared with float64.
        seed: Decides inputs and order.
    """

    model_config = _STRICT
    suite: SuiteName
    rows: tuple[str, ...]
    efforts: tuple[int, ...]
    budget: str
    peers: tuple[str, ...] = ()
    repeats: int = Field(ge=1)
    rounds: int = Field(ge=2)
    timing_s: _Positive
    row_timeout_s: _Positive
    accuracy_inputs: int = Field(ge=1, le=4)
    seed: int = Field(ge=0)


class Interval(BaseModel):
    """A median ratio of pairs with the bounds of its 95% interval."""

    model_config = _STRICT
    median: _Positive
    low: _Positive
    high: _Positive


class Machine(BaseModel):
    """Where and with what a run was made.

    Attributes:
        fingerprint: What kernels depend on: processor, features, threads.
        processor: Its name.
        threads: How many threads every side may use.
        last_cache_bytes: Size of the last-level cache.
        peak_gflops: float32 multiply-adds of all threads, as measured at the start.
        memory_gbs: Reading memory with all threads, as measured at the start.
        cache_gbs: Reading the last-level cache, likewise.
        versions: Of the libraries.
        commit: Of the checkout, with `-dirty` if files were changed; empty where there is none.
        sources: Digest of the package's sources.
        started_at: When, in UTC.
    """

    model_config = _STRICT
    fingerprint: str
    processor: str
    threads: int = Field(ge=1)
    last_cache_bytes: int = Field(ge=0)
    peak_gflops: _Positive
    memory_gbs: _Positive
    cache_gbs: _Positive
    versions: dict[str, str]
    commit: str
    sources: str
    started_at: str

    def bound_s(self, flops: int, moved: int, dtype: str) -> float | None:
        """Seconds below which no code can get: the roofline (Williams et al., CACM 2009).

        Args:
            flops: Arithmetic operations.
            moved: Bytes of traffic at least.
            dtype: Element type.

        Returns:
            None where arithmetic would decide and its peak was not measured: for all but float32.
        """
        # What fits into half of the last-level cache is there already when it is called again.
        rate = self.cache_gbs if moved <= self.last_cache_bytes // 2 else self.memory_gbs
        traffic = moved / rate / 1e9
        arithmetic = flops / self.peak_gflops / 1e9
        if dtype != "float32" and arithmetic > traffic:
            return None
        return max(arithmetic, traffic)


class SideResult(BaseModel):
    """One side in one allocator mode.

    Attributes:
        name: `jit`, `effort N` or a peer.
        status: `measured`, or why not.
        reason: In words, if it was not measured.
        version: Of its library.
        times_ms: Per process the milliseconds of a call; equal positions of all sides belong together.
        speedup: `jax.jit`'s time over this side's, by pairs.
        compile_s: Seconds until the first result, per process, tuning included.
        errors: Errors against float64, per input and output.
        ran: How it runs, for ours `native` or `xla`.
        explanation: What ours says about itself, in the first process.
    """

    model_config = _STRICT
    name: str
    status: Literal["measured", "not installed", "not expressed", "failed"]
    reason: str = ""
    version: str = ""
    times_ms: list[list[_Positive]] = []
    speedup: Interval | None = None
    compile_s: list[_NotNegative] = []
    errors: list[Error] = []
    ran: str = ""
    explanation: str = ""

    @property
    def median_ms(self) -> float:
        """Median of all samples.

        Raises:
            ValueError: It was not measured.
        """
        found = sorted(value for process in self.times_ms for value in process)
        if not found:
            raise ValueError(f"{self.name}: expected a side that was measured, found status {self.status}")
        middle = len(found) // 2
        return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2

    @property
    def accurate(self) -> bool | None:
        """Whether the accuracy contract held; None if nothing was compared."""
        return all(error.holds for error in self.errors) if self.errors else None

    @property
    def error_share(self) -> float | None:
        """The worst error in units of what the contract allows."""
        if not self.errors:
            return None
        shares = [_share(error) for error in self.errors]
        return max(shares)


def _share(error: Error) -> float:
    if not error.holds:
        return error.candidate / error.limit if error.candidate > error.limit > 0 else float("inf")
    return error.candidate / error.limit if error.limit > 0 else 0.0


class ModeResult(BaseModel):
    """One row in one allocator mode.

    Attributes:
        allocator: `stock` or `page-keeping`.
        copy_gbs: Rate of copying memory, before and after each process: the state of the machine.
        sides: `jit` first.
    """

    model_config = _STRICT
    allocator: str
    copy_gbs: list[_Positive]
    sides: list[SideResult]

    def side(self, name: str) -> SideResult | None:
        """The side of that name."""
        return next((side for side in self.sides if side.name == name), None)

    def peers(self) -> list[SideResult]:
        """The sides that are neither `jax.jit` nor ours."""
        return [side for side in self.sides if not _is_ours(side)]


class RowResult(BaseModel):
    """One row.

    Attributes:
        name: The row.
        detail: What it computes, where the name does not say it.
        failure: Why there is no result, or empty.
        family: What kind of work it is.
        flops: Arithmetic operations of a call.
        bytes: Minimal traffic of a call.
        dtype: Element type.
        calls: How many dependent calls were timed as one program.
        modes: By allocator.
        seconds: Time the row took.
    """

    model_config = _STRICT
    name: str
    detail: str = ""
    failure: str = ""
    family: str = ""
    flops: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    dtype: str = ""
    calls: int = Field(default=1, ge=1)
    modes: list[ModeResult] = []
    seconds: _NotNegative

    def mode(self, allocator: str) -> ModeResult | None:
        """The results in that allocator mode."""
        return next((mode for mode in self.modes if mode.allocator == allocator), None)


class SuiteReport(BaseModel):
    """Everything that a run found, with what is needed to read it."""

    model_config = _STRICT
    schema_version: Literal[1] = SCHEMA_VERSION
    options: SuiteOptions
    machine: Machine
    rows: list[RowResult]

    @property
    def passed(self) -> bool:
        """Whether every row was measured and everything of ours kept the accuracy contract."""
        return all(not row.failure and _sound(row) for row in self.rows)

    def row(self, name: str) -> RowResult | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def save(self, path: Path) -> None:
        """Write the report as JSON, all or nothing."""
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(self.model_dump_json(indent=1) + "\n")
        unfinished.replace(path)


def _sound(row: RowResult) -> bool:
    """Whether `jax.jit` and every side of ours were measured, and were accurate wherever that was looked at."""
    ours = [side for mode in row.modes for side in mode.sides if _is_ours(side)]
    return all(side.status == "measured" and side.accurate is not False for side in ours)


def _is_ours(side: SideResult) -> bool:
    """Whether this is `jax.jit` or an effort of `tilewright.compile`."""
    return side.name == JIT or side.name.startswith("effort")


def load_report(path: Path) -> SuiteReport:
    """Read a report.

    Raises:
        ReportError: The file can't be read, or is no report of this version; the message says what is wrong.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ReportError(f"{path}: expected a report of at most {_MAX_BYTES} bytes, found {size}")
        return SuiteReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path}: can't be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReportError(
            f"{path}: expected a report of `tilewright bench`, found in {where}: {first['msg']}; "
            "make it anew with this version"
        ) from None
