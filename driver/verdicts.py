"""Verdicts: what was decided for a whole function, kept so that another process need not measure again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..database.record import PlanRecord
from ..database.store import Database, library_versions, now
from ..ir.graph import Graph
from ..ir.graph_text import digest
from ..ir.measure import AllocatorMode
from ..ir.target import Target
from ..passes.schedule import SCHEDULE_VERSION, ScheduleError, Trace, trace_from_json, trace_to_json
from ..search.outcome import SearchBudget
from .assembly import NativePlan
from .kernels import BACKEND


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
    seconds: float | None = None
    trials: int | None = None
    traces: dict[str, str]
    steps: str = "[]"
    formulations: Annotated[dict[str, str], Field(max_length=0)] = {}  # written by earlier versions, void with any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided.

    Args:
        chosen: native code, or the original.
        effort: how hard was tried.
        budget: what the search might cost; None for each limit that it did not have.
        traces: by task key.
        ratio: time of `jax.jit` divided by ours, if it was timed.
        verified: digest of the native calls that were checked.
        steps: the graph trace; the schedules of its formulations' kernels are among ``traces``.
    """

    chosen: Literal["native", "xla"]
    effort: int
    budget: SearchBudget
    traces: Mapping[str, Trace]
    ratio: float | None
    verified: str
    steps: Trace = ()

    def covers(self, effort: int, budget: SearchBudget) -> bool:
        """Whether it was reached with at least this effort and these limits, where both had a limit of the kind."""
        if self.effort < effort:
            return False
        if effort == 0:
            return True
        limits = ((self.budget.seconds, budget.seconds), (self.budget.trials, budget.trials))
        return all(had is None or wanted is None or had >= wanted for had, wanted in limits)


def load_verdict(database: Database, key: str, target: Target) -> Verdict | None:
    """The stored verdict for a function on this machine, if it is understood."""
    record = database.plan(key, target.fingerprint, _versions(), target.threads, allocator_mode())
    if record is None:
        return None
    try:
        partition = _Partition.model_validate_json(record.partition)
        traces = {k: trace_from_json(text) for k, text in partition.traces.items()}
        steps = trace_from_json(partition.steps)
    except (ValidationError, ScheduleError):
        return None
    budget = SearchBudget(partition.seconds, partition.trials)
    return Verdict(record.chosen, partition.effort, budget, traces, record.ratio, record.verified_digest, steps)


def store_verdict(database: Database, key: str, target: Target, verdict: Verdict) -> None:
    """Keep a verdict for other processes."""
    traces = {k: trace_to_json(t) for k, t in sorted(verdict.traces.items())}
    limits = verdict.budget
    partition = _Partition(
        effort=verdict.effort,
        seconds=limits.seconds,
        trials=limits.trials,
        traces=traces,
        steps=trace_to_json(verdict.steps),
    )
    database.add(
        PlanRecord(
            target=target.fingerprint,
            threads=target.threads,
            allocator=allocator_mode(),
            versions=_versions(),
            created_at=now(),
            graph_digest=key,
            chosen=verdict.chosen,
            partition=partition.model_dump_json(exclude={"formulations"}),
            ratio=verdict.ratio,
            verified_digest=verdict.verified if verdict.chosen == "native" else "",
        )
    )


def _versions() -> dict[str, str]:
    """Everything whose change makes a verdict void."""
    return {**library_versions(), "backend": BACKEND, "schedule": str(SCHEDULE_VERSION)}
