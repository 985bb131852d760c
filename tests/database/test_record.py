"""Records: validated, identified by their contents, never interpreted."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from database_rows import fields, plan_fields
from pydantic import ValidationError

from tilewright.database.record import PlanRecord, TuningRecord, environment_digest


def test_json_round_trip() -> None:
    record = TuningRecord(**fields(features=(1.0, 2.5), feature_version=3))
    again = TuningRecord.model_validate(json.loads(json.dumps(record.to_json())))
    assert again == record
    assert again.id == record.id
    plan = PlanRecord(**plan_fields())
    assert PlanRecord.model_validate(json.loads(json.dumps(plan.to_json()))) == plan


def test_id_is_a_digest_of_the_contents() -> None:
    record = TuningRecord(**fields())
    assert TuningRecord(**fields()).id == record.id
    for change in ({"threads": 1}, {"trace": "[]"}, {"latencies_s": (1e-3,)}, {"workload_text": "other"}, {"seed": 1}):
        assert TuningRecord(**fields(**change)).id != record.id


def test_changed_contents_are_noticed() -> None:
    body = TuningRecord(**fields()).to_json()
    body["latencies_s"] = [1e-9]
    with pytest.raises(ValidationError, match="was changed"):
        TuningRecord.model_validate(body)


def test_median() -> None:
    assert TuningRecord(**fields()).median_s == 2e-3
    assert TuningRecord(**fields(status="crash", latencies_s=(), error="x")).median_s == float("inf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latencies_s": ()}, "exactly if the status is ok"),
        ({"status": "crash"}, "exactly if the status is ok"),
        ({"status": "fine"}, "status"),
        ({"latencies_s": (float("nan"),)}, "finite"),
        ({"latencies_s": (-1.0,)}, "greater than 0"),
        ({"latencies_s": (0.0,)}, "greater than 0"),
        ({"trace": "no json"}, "trace"),
        ({"features": (1.0,)}, "feature_version"),
        ({"features": (float("inf"),), "feature_version": 1}, "finite"),
        ({"threads": 0}, "threads"),
        ({"allocator": "mine"}, "allocator"),
        ({"target": ""}, "target"),
        ({"created_at": datetime.datetime(2026, 1, 2)}, "timezone"),
        ({"schema": 2}, "schema"),
        ({"surprise": 1}, "surprise"),
        ({"id": "zz"}, "id"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TuningRecord(**fields(**change))


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TuningRecord(**fields()).status = "crash"  # type: ignore[misc]


def test_long_errors_are_shortened() -> None:
    record = TuningRecord(**fields(status="crash", latencies_s=(), error="x" * 10_000))
    assert len(record.error) == 4000
    assert TuningRecord.model_validate(record.to_json()) == record


def test_native_plans_must_be_verified() -> None:
    with pytest.raises(ValidationError, match="verified"):
        PlanRecord(**plan_fields(verified_digest=""))
    assert PlanRecord(**plan_fields(chosen="xla", verified_digest="", ratio=None)).ratio is None


def test_environment_is_target_versions_threads_and_allocator() -> None:
    plan = PlanRecord(**plan_fields())
    same = environment_digest("t1", {"jaxlib": "0.10.2", "jax": "0.10.2"}, 2, "keep")
    assert plan.environment == same
    others = [
        environment_digest("t2", {"jaxlib": "0.10.2", "jax": "0.10.2"}, 2, "keep"),
        environment_digest("t1", {"jaxlib": "0.11.0", "jax": "0.10.2"}, 2, "keep"),
        environment_digest("t1", {"jaxlib": "0.10.2", "jax": "0.10.2"}, 1, "keep"),
        environment_digest("t1", {"jaxlib": "0.10.2", "jax": "0.10.2"}, 2, "stock"),
    ]
    assert same not in others
    assert len(set(others)) == 4
