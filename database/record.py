"""Records of the tuning database: what was measured, and what was decided for a whole function.

Records are plain data: traces and partitions are JSON text, checked to be JSON and never interpreted here.
A record's id is a digest of its contents, so copying a record twice changes nothing and a damaged one is noticed.
"""

from __future__ import annotations

import hashlib
import json
from statistics import median
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ..ir.measure import AllocatorMode, Status

#: Version of the records' fields. A reader refuses newer ones.
RECORD_SCHEMA = 1
_MAX_TEXT = 16 << 20
_MAX_ERROR = 4000


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("expected JSON, found a text that is nested too deeply") from None


def _json_text(text: str) -> str:
    parse_json(text)
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_ERROR else text[: _MAX_ERROR - 3] + "..."


Key = Annotated[str, Field(min_length=1, max_length=200)]
JsonText = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_json_text)]
ErrorText = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_shortened)]
Versions = dict[Key, Annotated[str, Field(max_length=200)]]
Seconds = Annotated[FiniteFloat, Field(gt=0)]


class _Record(BaseModel):
    """What all records share.

    Args:
        schema_version: version of the fields; written as ``schema``.
        id: digest of everything else; computed if it is left out, and verified if it is not.
        target: `Target.fingerprint` of the machine.
        threads: how many threads were used.
        allocator: allocator mode of the process.
        versions: versions of the libraries involved, by name.
        created_at: when, with time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=RECORD_SCHEMA, alias="schema")
    id: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""
    target: Key
    threads: Annotated[int, Field(ge=1)]
    allocator: AllocatorMode
    versions: Versions
    created_at: AwareDatetime

    @model_validator(mode="after")
    def _identify(self) -> Self:
        digest = self._digest()
        if self.id not in ("", digest):
            raise ValueError(f"the id {self.id} is not the digest of the contents, {digest}: the record was changed")
        object.__setattr__(self, "id", digest)
        return self

    def _digest(self) -> str:
        # Fields at their default don't count, so that a later version may add fields without changing old ids.
        fields = self.model_dump(mode="json", by_alias=True, exclude={"id"}, exclude_defaults=True)
        text = json.dumps({**fields, "schema": self.schema_version}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return self.model_dump(mode="json", by_alias=True)


class TuningRecord(_Record):
    """One candidate of one workload, and what became of it.

    Args:
        workload_digest: digest of the workload's text.
        workload_text: the unscheduled program.
        backend: name of the backend.
        schedule_version: version of what schedule primitives mean.
        trace: the schedule as JSON text.
        latencies_s: raw samples in seconds; at least one if the status is ``ok``.
        status: see `ir.measure.Status`.
        error: why it failed.
        timing_protocol: how it was timed (`TimingProtocol.text`).
        seed: seed of the search that proposed it.
        features: the cost model's features, if they were kept.
        feature_version: version of their meaning.
    """

    workload_digest: Key
    workload_text: Annotated[str, Field(max_length=_MAX_TEXT)]
    backend: Key
    schedule_version: Annotated[int, Field(ge=0)]
    trace: JsonText
    latencies_s: tuple[Seconds, ...] = ()
    status: Status
    error: ErrorText = ""
    timing_protocol: Annotated[str, Field(max_length=200)]
    seed: int = 0
    features: tuple[FiniteFloat, ...] | None = None
    feature_version: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.status == "ok") != bool(self.latencies_s):
            raise ValueError(
                f"expected latencies exactly if the status is ok, found {self.status} with "
                f"{len(self.latencies_s)} of them"
            )
        if (self.features is None) != (self.feature_version is None):
            raise ValueError("expected features and feature_version together")
        return self

    @property
    def median_s(self) -> float:
        """Median latency in seconds; infinite for a failure."""
        return median(self.latencies_s) if self.latencies_s else float("inf")


class PlanRecord(_Record):
    """What was decided for a whole function, so that another process need not measure again.

    Args:
        graph_digest: digest of the function's graph.
        chosen: ``native`` code, or what ``xla`` makes of the function.
        partition: how the graph was partitioned and which schedules its regions got, as JSON text.
        ratio: time of `jax.jit` divided by ours in the deciding comparison; None if it was not timed.
        verified_digest: `ExecPlan.digest` of the plan that was verified; empty if XLA was chosen.
    """

    graph_digest: Key
    chosen: Literal["native", "xla"]
    partition: JsonText
    ratio: Seconds | None = None
    verified_digest: Annotated[str, Field(max_length=200)] = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chosen == "native" and not self.verified_digest:
            raise ValueError("expected the digest of a verified plan with a native choice, found none")
        return self

    @property
    def environment(self) -> str:
        """Digest of what else the verdict holds for: target, versions, threads and allocator mode."""
        return environment_digest(self.target, self.versions, self.threads, self.allocator)


def environment_digest(target: str, versions: Versions, threads: int, allocator: str) -> str:
    """Digest of the conditions under which a plan's verdict holds."""
    text = json.dumps([target, sorted(versions.items()), threads, allocator])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
