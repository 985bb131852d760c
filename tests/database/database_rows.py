"""Records for the tests of the database."""

from __future__ import annotations

import datetime
import json
from typing import Any

from tilewright.database.record import TuningRecord


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "workload_digest": "w1",
        "workload_text": "func matmul",
        "target": "t1",
        "backend": "llvm",
        "schedule_version": 1,
        "threads": 2,
        "allocator": "stock",
        "trace": '[["split", "i", [8]]]',
        "latencies_s": (1e-3, 2e-3, 4e-3),
        "status": "ok",
        "timing_protocol": "race-1 warm",
        "versions": {"tilewright": "0.1.0"},
        "created_at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        **changes,
    }


def plan_fields(**changes: Any) -> dict[str, Any]:
    return {
        "graph_digest": "g1",
        "target": "t1",
        "threads": 2,
        "allocator": "keep",
        "versions": {"jax": "0.10.2", "jaxlib": "0.10.2"},
        "chosen": "native",
        "partition": '{"regions": []}',
        "ratio": 1.5,
        "verified_digest": "p1",
        "created_at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        **changes,
    }


def record(trace: int = 0, seconds: float | None = 1e-3, **changes: Any) -> TuningRecord:
    failure = {"status": "crash", "error": "SIGILL"} if seconds is None else {}
    latencies = () if seconds is None else (seconds,)
    return TuningRecord(**fields(trace=json.dumps([trace]), latencies_s=latencies, **{**failure, **changes}))
