"""Moving records between databases: merging files, and JSON lines that can be concatenated."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

from .engine import DatabaseError, check_file
from .record import PlanRecord, TuningRecord, parse_json
from .rows import reason
from .store import Database

_BATCH = 500
_MAX_LINE = 64 << 20
_KINDS: dict[str, type[TuningRecord] | type[PlanRecord]] = {"tuning": TuningRecord, "plan": PlanRecord}


@dataclass(slots=True)
class MergeReport:
    """What a merge or an import did.

    Args:
        added: records that were new.
        present: records that were there already.
        skipped: how many did not validate, by reason.
    """

    added: int = 0
    present: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def merge(database: Database, other: str | os.PathLike[str]) -> MergeReport:
    """Copy all records of another database, of any machine and backend, into this one. Repeating it changes nothing.

    Args:
        database: where records are added.
        other: path of an SQLite file, or a database URL. A file is not changed, not even upgraded.

    Raises:
        DatabaseError: there is no such database, or it is foreign, damaged or of a newer version.
    """
    with _snapshot(os.fspath(other)) as source:
        report = _add_all(database, _all_records(source))
        report.skipped.update(source.skipped.values())
    return report


def export_lines(database: Database, file: TextIO) -> int:
    """Write every valid record as a self-contained JSON line; files are merged by concatenation.

    Returns:
        Number of lines.
    """
    count = 0
    for record in _all_records(database):
        kind = "plan" if isinstance(record, PlanRecord) else "tuning"
        file.write(json.dumps({"kind": kind, **record.to_json()}, sort_keys=True) + "\n")
        count += 1
    return count


def import_lines(database: Database, lines: Iterable[str]) -> MergeReport:
    """Add records from JSON lines, skipping what does not validate."""
    report = MergeReport()
    records = _parsed(lines, report)
    added = _add_all(database, records)
    return MergeReport(added.added, added.present, report.skipped)


def _add_all(database: Database, records: Iterator[TuningRecord | PlanRecord]) -> MergeReport:
    report = MergeReport()
    while batch := list(islice(records, _BATCH)):
        added = database.add(*batch)
        report.added += added
        report.present += len(batch) - added
    return report


def _all_records(database: Database) -> Iterator[TuningRecord | PlanRecord]:
    yield from database.records()
    yield from database.plans()


def _parsed(lines: Iterable[str], report: MergeReport) -> Iterator[TuningRecord | PlanRecord]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield parse_line(line)
        except ValueError as error:
            report.skipped[reason(error)] += 1


def parse_line(line: str) -> TuningRecord | PlanRecord:
    """One exported line.

    Raises:
        ValueError: it is no record.
    """
    if len(line) > _MAX_LINE:
        raise ValueError(f"a line of {len(line)} characters is too long")
    fields = parse_json(line)
    kind = fields.pop("kind", None) if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"expected an object whose kind is one of {', '.join(_KINDS)}, found {line.strip()[:60]}")
    return _KINDS[kind].model_validate(fields)


@contextlib.contextmanager
def _snapshot(other: str) -> Iterator[Database]:
    """A consistent copy of an SQLite file, so that the file itself is never upgraded; other databases directly."""
    if "://" in other:
        with Database(other) as source:
            yield source
        return
    if not Path(other).is_file():
        raise DatabaseError(f"{other} can't be merged: there is no such file")
    check_file(other)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        try:
            _copy(Path(other), copy)
        except sqlite3.Error as error:
            raise DatabaseError(f"{other} can't be merged: {error}. Nothing was changed") from error
        with Database(copy) as source:
            yield source


def _copy(source: Path, target: Path) -> None:
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True)) as reader,
        contextlib.closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)
