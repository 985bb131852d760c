"""From records to table rows and back; what comes out of a table is validated again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from .engine import plan_table, record_table
from .record import PlanRecord, TuningRecord, parse_json

_RecordT = TypeVar("_RecordT", TuningRecord, PlanRecord)


def decode_row(kind: type[_RecordT], row: Mapping[str, Any]) -> _RecordT:
    """Validate a row.

    Raises:
        ValueError: it is damaged, or of another schema.
    """
    if not isinstance(row["body"], str):
        raise ValueError(f"expected a body that is text, found {type(row['body']).__name__}")
    body = parse_json(row["body"])
    if not isinstance(body, dict):
        raise ValueError(f"expected a JSON object, found {str(body)[:40]}")
    if "workload_text" in row:
        body["workload_text"] = row["workload_text"]
    record = kind.model_validate(body)
    for name, value in columns(record).items():
        if name != "body" and row[name] != value:
            raise ValueError(f"expected the column {name} to be {value!r} as in the body, found {row[name]!r}")
    return record


def columns(record: TuningRecord | PlanRecord) -> dict[str, Any]:
    """The row of a record, the workload's text left out."""
    body = record.to_json()
    body.pop("workload_text", None)
    names = plan_table.columns.keys() if isinstance(record, PlanRecord) else record_table.columns.keys()
    own = {name: getattr(record, name) for name in names if hasattr(record, name)}
    own |= {"body": json.dumps(body, sort_keys=True), "created_at": body["created_at"]}
    if isinstance(record, TuningRecord):
        own["trace_digest"] = _digest(record.trace)
        own["text_digest"] = _digest(record.workload_text)
        own["median_s"] = record.median_s if record.latencies_s else None
    return own


def reason(error: ValueError) -> str:
    """A validation error in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    return f"not a record: {error}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
