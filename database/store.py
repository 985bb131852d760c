"""The tuning database: add records, find the best ones."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite

from ..ir.measure import DISQUALIFYING, AllocatorMode, MeasureResult, Status, TaskKey, TimingProtocol
from ..ir.text import parse_ir, print_ir
from ..passes.schedule import replay, trace_from_json
from .engine import describe, open_engine, plan_table, record_table, translated, workload_table, write
from .record import PlanRecord, TuningRecord, environment_digest
from .rows import columns, decode_row, reason
from .versions import library_versions

_LOG = logging.getLogger(__name__)
_PAGE_ROWS = 500
_RecordT = TypeVar("_RecordT", TuningRecord, PlanRecord)


class Database:
    """Tuning records and plans, safe to use from many threads and processes at once.

    A row that does not validate is skipped and noted in `skipped`; it stays in the database.

    Args:
        path_or_url: path of an SQLite file, an SQLAlchemy URL, ``":memory:"`` (keeps nothing), or None for
            `default_database_path`.

    Raises:
        DatabaseError: the file is foreign, damaged or of a newer version, or can't be reached. It is left as it is.
    """

    def __init__(self, path_or_url: str | os.PathLike[str] | None = None) -> None:
        """Open it; a new file is created."""
        self._engine = open_engine(path_or_url)
        self.name = describe(self._engine.url)
        #: Reasons why rows were skipped, by id.
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> Database:
        """The database itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # ---- adding

    def add(self, *records: TuningRecord | PlanRecord) -> int:
        """Store records, all or none; those that are there already are left alone.

        Returns:
            How many were new.

        Raises:
            DatabaseError: they can't be stored.
        """
        if not records:
            return 0
        with translated(self.name), write(self._engine) as connection:
            return sum(_insert(connection, record) for record in records)

    def add_result(
        self,
        key: TaskKey,
        trace: str,
        result: MeasureResult,
        timing: TimingProtocol,
        *,
        seed: int = 0,
        features: Sequence[float] | None = None,
        feature_version: int | None = None,
    ) -> TuningRecord:
        """Store what became of a candidate.

        Args:
            key: what it holds for.
            trace: the schedule as JSON text.
            result: the result.
            timing: how it was timed.
            seed: seed of the search that proposed it.
            features: the cost model's features of the candidate.
            feature_version: version of their meaning; needed with ``features``.

        Returns:
            The record.
        """
        record = TuningRecord(
            workload_digest=key.workload_digest,
            workload_text=key.workload_text,
            target=key.target,
            backend=key.backend,
            schedule_version=key.schedule_version,
            threads=key.threads,
            allocator=key.allocator,
            trace=trace,
            latencies_s=result.latencies_s,
            status=result.status,
            error=result.error,
            timing_protocol=timing.text,
            seed=seed,
            features=None if features is None else tuple(float(value) for value in features),
            feature_version=feature_version,
            versions=library_versions(),
            created_at=now(),
        )
        self.add(record)
        return record

    # ---- finding

    def best(
        self,
        workload_digest: str,
        target: str,
        backend: str,
        schedule_version: int,
        *,
        threads: int | None = None,
        allocator: AllocatorMode | None = None,
    ) -> TuningRecord | None:
        """The fastest correct record, or None (see `top`)."""
        return next(
            iter(self.top(1, workload_digest, target, backend, schedule_version, threads=threads, allocator=allocator)),
            None,
        )

    def top(
        self,
        count: int,
        workload_digest: str,
        target: str,
        backend: str,
        schedule_version: int,
        *,
        threads: int | None = None,
        allocator: AllocatorMode | None = None,
    ) -> list[TuningRecord]:
        """The fastest correct traces, one record each, fastest first.

        A trace that was measured several times counts with the median of its medians, so that one lucky run does not
        win. One that ever crashed or was wrong under this key is out.

        Args:
            count: how many.
            workload_digest: digest of the workload.
            target: fingerprint of the machine.
            backend: name of the backend.
            schedule_version: version of the schedule primitives.
            threads: only records for this number of threads.
            allocator: only records for this allocator mode.
        """
        column = record_table.c
        query = select(column.id, column.trace_digest, column.status, column.median_s).where(
            column.workload_digest == workload_digest,
            column.target == target,
            column.backend == backend,
            column.schedule_version == schedule_version,
            column.status.in_(("ok", *DISQUALIFYING)),
        )
        if threads is not None:
            query = query.where(column.threads == threads)
        if allocator is not None:
            query = query.where(column.allocator == allocator)
        with translated(self.name), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        found: list[TuningRecord] = []
        for ids in _ranked([tuple(row) for row in rows]):
            if len(found) >= count:
                break
            valid = (record for id_ in ids if isinstance(record := self.get(id_), TuningRecord))
            found += islice(valid, 1)
        return found

    def best_traces(self, key: TaskKey, count: int) -> list[tuple[str, float]]:
        """The fastest known correct traces of a task as ``(trace, median latency in seconds)``, fastest first."""
        records = self.top(
            count,
            key.workload_digest,
            key.target,
            key.backend,
            key.schedule_version,
            threads=key.threads,
            allocator=key.allocator,
        )
        return [(record.trace, record.median_s) for record in records]

    def records(
        self,
        *,
        workload_digest: str | None = None,
        target: str | None = None,
        backend: str | None = None,
        status: Status | None = None,
    ) -> Iterator[TuningRecord]:
        """All tuning records with the given properties, in order of their ids.

        Read in pages: what others add meanwhile may or may not be among them, and no lock is held in between.
        """
        query = select(record_table, workload_table.c.text.label("workload_text")).join(workload_table, isouter=True)
        wanted = {"workload_digest": workload_digest, "target": target, "backend": backend, "status": status}
        for name, value in wanted.items():
            if value is not None:
                query = query.where(record_table.c[name] == value)
        for row in self._pages(query, record_table):
            if (record := self._decode(TuningRecord, row)) is not None:
                yield record

    def plans(self, *, graph_digest: str | None = None) -> Iterator[PlanRecord]:
        """All plan records, or those of one graph, in order of their ids."""
        query = select(plan_table)
        if graph_digest is not None:
            query = query.where(plan_table.c.graph_digest == graph_digest)
        for row in self._pages(query, plan_table):
            if (record := self._decode(PlanRecord, row)) is not None:
                yield record

    def plan(
        self, graph_digest: str, target: str, versions: Mapping[str, str], threads: int, allocator: AllocatorMode
    ) -> PlanRecord | None:
        """The latest verdict for a function under exactly these conditions, or None."""
        environment = environment_digest(target, dict(versions), threads, allocator)
        query = select(plan_table).where(
            plan_table.c.graph_digest == graph_digest, plan_table.c.environment == environment
        )
        with translated(self.name), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(plan_table.c.created_at.desc())).mappings().all()
        records = (self._decode(PlanRecord, dict(row)) for row in rows)
        return next((record for record in records if record is not None), None)

    def get(self, id_: str) -> TuningRecord | PlanRecord | None:
        """A record by its full id; None if there is none or it does not validate."""
        query = select(record_table, workload_table.c.text.label("workload_text")).join(workload_table, isouter=True)
        with translated(self.name), self._engine.connect() as connection:
            row = connection.execute(query.where(record_table.c.id == id_)).mappings().first()
            plan = connection.execute(select(plan_table).where(plan_table.c.id == id_)).mappings().first()
        if row is not None:
            return self._decode(TuningRecord, dict(row))
        return self._decode(PlanRecord, dict(plan)) if plan is not None else None

    def counts(self) -> dict[str, int]:
        """Number of rows: ``records``, ``plans`` and ``workloads``, invalid ones included."""
        with translated(self.name), self._engine.connect() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (record_table, plan_table, workload_table)
            }

    def find(self, prefix: str) -> TuningRecord | PlanRecord:
        """A record by the beginning of its id.

        Raises:
            LookupError: none or several begin so, or the one that does is damaged.
        """
        if not prefix or not set(prefix) <= set("0123456789abcdef"):
            raise LookupError(f"expected the beginning of a record's id (hexadecimal digits), found {prefix!r}")
        ids: list[str] = []
        with translated(self.name), self._engine.connect() as connection:
            for table in (record_table, plan_table):
                query = select(table.c.id).where(table.c.id.startswith(prefix)).limit(3)
                ids += connection.execute(query).scalars()
        if len(ids) != 1:
            found = ", ".join(sorted(map(str, ids)))
            raise LookupError(
                f"{prefix}: {f'several begin with it ({found}, ...)' if ids else 'no record begins with it'}"
            )
        record = self.get(ids[0])
        if record is None:
            raise LookupError(f"record {ids[0]} is damaged: {self.skipped.get(ids[0], 'it is gone')}")
        return record

    def show(self, prefix: str) -> str:
        """A record for a reader; for a candidate with its workload, its trace and the scheduled program.

        Args:
            prefix: the beginning of its id.

        Raises:
            LookupError: none or several begin so, or the one that does is damaged.
        """
        record = self.find(prefix)
        fields = record.to_json()
        long = {name: fields.pop(name) for name in ("workload_text", "trace", "partition") if name in fields}
        parts = ["\n".join(f"{name}: {_shown(value)}" for name, value in fields.items())]
        parts += [f"{name}:\n{value}" for name, value in long.items()]
        if isinstance(record, TuningRecord):
            parts.append(f"scheduled:\n{_scheduled(record)}")
        return "\n\n".join(parts)

    # ---- rows

    def _pages(self, query: Select[Any], table: Table) -> Iterator[Mapping[str, Any]]:
        last = ""
        while True:
            page = query.where(table.c.id > last).order_by(table.c.id).limit(_PAGE_ROWS)
            with translated(self.name), self._engine.connect() as connection:
                rows = connection.execute(page).mappings().all()
            yield from map(dict, rows)
            if len(rows) < _PAGE_ROWS:
                return
            last = rows[-1]["id"]

    def _decode(self, kind: type[_RecordT], row: Mapping[str, Any]) -> _RecordT | None:
        """A row's record, or None and a note."""
        try:
            return decode_row(kind, row)
        except ValueError as error:
            if not self.skipped:
                _LOG.warning("%s has damaged rows, which are ignored, the first for: %s", self.name, reason(error))
            self.skipped[str(row["id"])] = reason(error)
            return None


def now() -> datetime.datetime:
    """The present time with its zone."""
    return datetime.datetime.now(datetime.UTC)


def _scheduled(record: TuningRecord) -> str:
    """The program of a record after its trace, or why there is none: a row may come from anywhere."""
    try:
        return print_ir(replay(parse_ir(record.workload_text), trace_from_json(record.trace)))
    except (ValueError, RecursionError) as error:
        return f"(not shown: {error})"


def _insert(connection: Connection, record: TuningRecord | PlanRecord) -> bool:
    """Insert a record unless it is there; whether it was new."""
    if isinstance(record, PlanRecord):
        return _insert_new(connection, plan_table, columns(record))
    row = columns(record)
    _insert_new(connection, workload_table, {"digest": row["text_digest"], "text": record.workload_text})
    return _insert_new(connection, record_table, row)


def _insert_new(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    return connection.execute(statement).rowcount > 0


def _ranked(rows: Sequence[tuple[str, str, str, float | None]]) -> list[list[str]]:
    """Ids of the records of each usable trace, fastest trace first."""
    banned = {trace for _, trace, status, _ in rows if status != "ok"}
    traces: dict[str, list[tuple[float, str]]] = {}
    for id_, trace, _, median_s in rows:
        if isinstance(id_, str) and trace not in banned and isinstance(median_s, float):  # else the row is damaged
            traces.setdefault(trace, []).append((median_s, id_))
    ranked = sorted(traces.values(), key=lambda runs: (median(seconds for seconds, _ in runs), runs))
    return [[id_ for _, id_ in _typical_first(runs)] for runs in ranked]


def _typical_first(runs: list[tuple[float, str]]) -> list[tuple[float, str]]:
    middle = median(seconds for seconds, _ in runs)
    return sorted(runs, key=lambda run: (abs(run[0] - middle), run))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
