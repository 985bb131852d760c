"""Records of a database as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import printable
from .output import duration

if TYPE_CHECKING:
    from rich.console import Console

    from ..database.record import PlanRecord, TuningRecord
    from ..database.store import Database

_DIGEST_DIGITS = 8
_MAX_WIDTH = 1000
_HEADINGS = {"median_s": "median", "created_at": "created"}


def record_rows(database: Database, workload: str, target: str, status: Any) -> list[dict[str, Any]]:
    """Matching candidates, workload by workload, the fastest first."""
    found = _matching(database.records(status=status), workload, target)
    ranked = sorted(found, key=lambda record: (record.workload_digest, record.median_s, record.id))
    return [
        {
            "id": record.id,
            "workload": record.workload_digest,
            "status": record.status,
            "median_s": record.median_s if record.latencies_s else None,
            "steps": len(_steps(record)),
            "target": record.target,
            "backend": record.backend,
            "threads": record.threads,
            "allocator": record.allocator,
            "created_at": record.created_at.isoformat(timespec="seconds"),
        }
        for record in ranked
    ]


def _matching(records: Iterator[TuningRecord], workload: str, target: str) -> Iterator[TuningRecord]:
    return (r for r in records if r.workload_digest.startswith(workload) and r.target.startswith(target))


def _steps(record: TuningRecord) -> list[Any]:
    steps = json.loads(record.trace)
    return steps if isinstance(steps, list) else []


def plan_rows(database: Database, graph: str, target: str) -> list[dict[str, Any]]:
    """Matching plans, the latest first."""
    found = [p for p in database.plans() if p.graph_digest.startswith(graph) and p.target.startswith(target)]
    return [_plan_row(plan) for plan in sorted(found, key=lambda plan: plan.created_at, reverse=True)]


def _plan_row(plan: PlanRecord) -> dict[str, Any]:
    return {
        "id": plan.id,
        "graph": plan.graph_digest,
        "chosen": plan.chosen,
        "ratio": plan.ratio,
        "target": plan.target,
        "threads": plan.threads,
        "allocator": plan.allocator,
        "created_at": plan.created_at.isoformat(timespec="seconds"),
    }


def show_rows(console: Console, head: str, rows: list[dict[str, Any]], matching: int) -> None:
    """Prints rows under a line that says where they are from.

    Args:
        console: Where to.
        head: That line.
        rows: What `record_rows` or `plan_rows` gave, or the first of it.
        matching: How many there were.
    """
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(_HEADINGS.get(name, name), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(_cell(name, value))) for name, value in row.items()))
    # A narrow terminal may break lines, but nothing is cut off: ids are there to be copied.
    needed = Measurement.get(console, console.options.update(max_width=_MAX_WIDTH), table).maximum
    console.width = max(needed, len(head), console.width)
    console.print(head, markup=False)
    console.print(table if rows else "nothing matches")
    if matching > len(rows):
        console.print(f"{len(rows)} of {matching}; more with --limit")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "median_s":
        return duration(value)
    if name == "ratio":
        return f"{value:.2f}x"
    if name == "created_at":
        return value[: len("2026-01-02T03:04")].replace("T", " ")
    return str(value)[:_DIGEST_DIGITS] if name in ("id", "workload", "graph") else str(value)
