"""Reports of the benchmark suite made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.bench.messages import Error
from tilewright.bench.report import Interval, Machine, ModeResult, RowResult, SideResult, SuiteOptions, SuiteReport

GOOD = Error(candidate=1e-6, baseline=1e-6, scale=1.0, epsilon=1e-7, limit=4e-6)
BAD = GOOD.model_copy(update={"candidate": 1.0})


def machine(**changes: object) -> Machine:
    base = Machine(
        fingerprint="f",
        processor="a <processor> & more",
        threads=2,
        last_cache_bytes=32 * 2**20,
        peak_gflops=500.0,
        memory_gbs=50.0,
        cache_gbs=200.0,
        versions={"jax": "0.10.2", "tilewright": "0.1.0"},
        commit="abc",
        sources="d1",
        started_at="2026-01-01T00:00:00+00:00",
    )
    return base.model_copy(update=changes)


def options(*rows: str, efforts: Sequence[int] = (0, 1), peers: Sequence[str] = ()) -> SuiteOptions:
    return SuiteOptions(
        suite="kernels",
        rows=rows,
        efforts=tuple(efforts),
        budget="20s",
        peers=tuple(peers),
        repeats=1,
        rounds=4,
        timing_s=1.0,
        row_timeout_s=60.0,
        accuracy_inputs=1,
        seed=0,
    )


def side(name: str, speedup: float = 1.0, width: float = 0.01, error: Error = GOOD, ran: str = "") -> SideResult:
    interval = Interval(median=speedup, low=speedup / (1 + width), high=speedup * (1 + width))
    return SideResult(
        name=name,
        status="measured",
        version="1",
        times_ms=[[10.0 / speedup] * 4] * 2,
        speedup=interval,
        compile_s=[1.0],
        errors=[error],
        ran=ran,
        explanation=f"why <{name}>",
    )


def row(name: str, *sides: SideResult) -> RowResult:
    modes = [
        ModeResult(allocator=allocator, copy_gbs=[40.0, 80.0], sides=[side("jit"), *sides])
        for allocator in ("stock", "page-keeping")
    ]
    return RowResult(
        name=name, family="memory", flops=10**9, bytes=10**8, dtype="float32", calls=1, modes=modes, seconds=3.0
    )


def failed(name: str, reason: str = "it <burned>") -> RowResult:
    return RowResult(name=name, failure=reason, seconds=1.0)


def report(*rows: RowResult, peers: Sequence[str] = ()) -> SuiteReport:
    return SuiteReport(options=options(*(r.name for r in rows), peers=peers), machine=machine(), rows=list(rows))
