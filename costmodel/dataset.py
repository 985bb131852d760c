"""Measured candidates as training data: from the tuning database, and frozen in a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ..ir.parser import parse_ir
from ..ir.target import Target
from ..passes.schedule import ScheduleError, trace_from_json
from .anatomy import dissect
from .features import FEATURE_NAMES, FEATURE_VERSION, extract_features

Seconds = Annotated[FiniteFloat, Field(gt=0)]


class MeasuredRow(Protocol):
    """The part of a tuning record that training needs; `database.record.TuningRecord` has it."""

    @property
    def workload_digest(self) -> str:
        """Digest of the workload."""
        ...

    @property
    def features(self) -> Sequence[float] | None:
        """Features of the candidate, if they were kept."""
        ...

    @property
    def feature_version(self) -> int | None:
        """Version of their meaning."""
        ...

    @property
    def median_s(self) -> float:
        """Median latency in seconds; infinite for a failure."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """What `CostModel.fit` takes.

    Args:
        features: float32[samples, len(FEATURE_NAMES)].
        latency: seconds, float[samples].
        group: number of the workload of each sample, int[samples].
    """

    features: np.ndarray
    latency: np.ndarray
    group: np.ndarray


def from_rows(rows: Iterable[MeasuredRow]) -> TrainingData:
    """Training data from tuning records; those without features of this version, and failures, are left out."""
    groups: dict[str, int] = {}
    features: list[Sequence[float]] = []
    latency: list[float] = []
    group: list[int] = []
    for row in rows:
        if row.features is None or row.feature_version != FEATURE_VERSION or not np.isfinite(row.median_s):
            continue
        if len(row.features) != len(FEATURE_NAMES):
            continue
        features.append(row.features)
        latency.append(row.median_s)
        group.append(groups.setdefault(row.workload_digest, len(groups)))
    matrix = np.array(features, np.float32).reshape(len(features), len(FEATURE_NAMES))
    return TrainingData(matrix, np.array(latency), np.array(group, int))


# ---- files: workloads and traces, so that features can be computed anew when they change


class _TargetModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    features: str
    vector_bits: Literal[128, 256, 512]
    threads: Annotated[int, Field(ge=1)]
    l1_bytes: Annotated[int, Field(gt=0)]
    l2_bytes: Annotated[int, Field(gt=0)]
    l3_bytes: Annotated[int, Field(gt=0)]
    fma_gflops_per_thread: Seconds
    bandwidth_gbs: Seconds
    arch: str


class _GroupModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    workload: str
    samples: list[tuple[str, Seconds]]


class _FileModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: Literal["tilewright measured candidates 1"] = "tilewright measured candidates 1"
    target: _TargetModel
    groups: list[_GroupModel]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured candidate.

    Args:
        name: of the workload, for people.
        workload: text of the unscheduled program.
        trace: the schedule as JSON text.
        latency_s: median latency in seconds.
    """

    name: str
    workload: str
    trace: str
    latency_s: float


def save_samples(path: Path, samples: Iterable[Sample], target: Target) -> None:
    """Write measured candidates to a file that `load_samples` reads."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.workload].append(sample)
    content = _FileModel(
        target=_TargetModel(**asdict(target)),
        groups=[
            _GroupModel(name=own[0].name, workload=text, samples=[(s.trace, s.latency_s) for s in own])
            for text, own in groups.items()
        ],
    )
    path.write_text(content.model_dump_json(indent=1))


def load_samples(path: Path) -> TrainingData:
    """Read measured candidates and compute their features.

    Raises:
        ValueError: the file is not what `save_samples` writes.
    """
    try:
        content = _FileModel.model_validate_json(path.read_text())
        target = Target(**_fields(content.target))
        parts = [_features(group, target) for group in content.groups]
    except (ValidationError, ScheduleError) as error:
        raise ValueError(f"{path}: expected measured candidates, found something else: {error}") from None
    latency = [seconds for group in content.groups for _, seconds in group.samples]
    numbers = [number for number, group in enumerate(content.groups) for _ in group.samples]
    empty = np.zeros((0, len(FEATURE_NAMES)), np.float32)
    return TrainingData(np.concatenate([empty, *parts]), np.array(latency), np.array(numbers, int))


def _fields(model: BaseModel) -> dict[str, Any]:
    return model.model_dump()


def _features(group: _GroupModel, target: Target) -> np.ndarray:
    work = dissect(parse_ir(group.workload))
    return extract_features(work, [trace_from_json(trace) for trace, _ in group.samples], target)
