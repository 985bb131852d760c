"""Verdicts: what was decided for a whole function, kept so that another process need not measure again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..database.record import PlanRecord
from ..database.store import Database, library_versions, now
from ..ir.graph import Graph
from ..ir.graph_text import digest
from ..ir.measure import AllocatorMode
from ..ir.target import Target
from ..passes.schedule import SCHEDULE_VERSION, ScheduleError, Trace, trace_from_json, trace_to_json
from .kernels import BACKEND
from .planning import NativePlan


def allocator_mode() -> AllocatorMode:
    """Whether glibc was told to keep its pages, which changes what large temporaries cost."""
    return "keep" if os.environ.get("MALLOC_MMAP_MAX_") == "0" and "MALLOC_TRIM_THRESHOLD_" in os.environ else "stock"


def graph_key(graph: Graph) -> str | None:
    """Identity of a function across processes; None if something in it exists in this process only."""
    return None if graph.opaque else digest(graph)


def plans_digest(natives: Sequence[NativePlan]) -> str:
    """Identity of a function's native calls: plans and code."""
    state = hashlib.blake2b(digest_size=16)
    for native in natives:
        state.update(native.plan.digest.encode())
        for symbol in sorted(native.kernels):
            state.update(symbol.encode())
    return state.hexdigest()


class _Partition(BaseModel):
    """The JSON in a record's ``partition``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    effort: int
    traces: dict[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided.

    Args:
        chosen: native code, or the original.
        effort: how hard was tried.
        traces: by task key.
        ratio: time of `jax.jit` divided by ours, if it was timed.
        verified: digest of the native calls that were checked.
    """

    chosen: Literal["native", "xla"]
    effort: int
    traces: Mapping[str, Trace]
    ratio: float | None
    verified: str


def load_verdict(database: Database, key: str, target: Target) -> Verdict | None:
    """The stored verdict for a function on this machine, if it is understood."""
    record = database.plan(key, target.fingerprint, _versions(), target.threads, allocator_mode())
    if record is None:
        return None
    try:
        partition = _Partition.model_validate_json(record.partition)
        traces = {k: trace_from_json(text) for k, text in partition.traces.items()}
    except (ValidationError, ScheduleError):
        return None
    return Verdict(record.chosen, partition.effort, traces, record.ratio, record.verified_digest)


def store_verdict(database: Database, key: str, target: Target, verdict: Verdict) -> None:
    """Keep a verdict for other processes."""
    traces = {k: trace_to_json(t) for k, t in sorted(verdict.traces.items())}
    database.add(
        PlanRecord(
            target=target.fingerprint,
            threads=target.threads,
            allocator=allocator_mode(),
            versions=_versions(),
            created_at=now(),
            graph_digest=key,
            chosen=verdict.chosen,
            partition=json.dumps({"effort": verdict.effort, "traces": traces}),
            ratio=verdict.ratio,
            verified_digest=verdict.verified if verdict.chosen == "native" else "",
        )
    )


def _versions() -> dict[str, str]:
    """Everything whose change makes a verdict void."""
    return {**library_versions(), "backend": BACKEND, "schedule": str(SCHEDULE_VERSION)}
