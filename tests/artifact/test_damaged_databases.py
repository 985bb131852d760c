"""Damaged, foreign and hostile tuning databases: a clear error, or the good rows and a warning; never a lost file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from database_rows import plan_fields, record

from tilewright.database.engine import DatabaseError
from tilewright.database.exchange import import_lines, merge
from tilewright.database.record import PlanRecord
from tilewright.database.store import Database, now

KEY = ("w1", "t1", "llvm", 1)
ROWS = 40
FLIPS = 150
FLIPS_FULL = 2000
CUTS = 25
CUTS_FULL = 400
DEEP = 100_000
_HEADER = 100


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with some pages of records."""
    path = tmp_path_factory.mktemp("good") / "tuning.db"
    with Database(path) as database:
        for number in range(ROWS):
            database.add(record(number, 1e-3 * (1 + number), workload_text="func matmul\n" + f"# {number}\n" * 40))
        database.add(record(ROWS, None), PlanRecord(**plan_fields(created_at=now())))
    return path.read_bytes()


def read_everything(path: Path) -> int:
    """Use a database in every way that reads it; how many records it still gave."""
    with Database(path) as database:
        found = [*database.records(), *database.plans()]
        best = database.best(*KEY)
        assert best is None or best.status == "ok"
        database.top(5, *KEY, threads=2, allocator="stock")
        database.counts()
        database.plan("g1", "t1", {"jax": "0.10.2", "jaxlib": "0.10.2"}, 2, "keep")
        with contextlib.suppress(LookupError):
            database.show(best.id[:8] if best else "00")
        return len(found)


def check(path: Path, data: bytes) -> str:
    """Read a damaged file; the error, or nothing. It stays as it is."""
    path.write_bytes(data)
    try:
        assert 0 <= read_everything(path) <= ROWS + 2
    except DatabaseError as error:
        text = str(error)
        assert str(path) in text and "\n" not in text and len(text) < 1000, text
        return text
    finally:
        # Only the journal mode in the header is set again where it was damaged.
        assert path.read_bytes()[_HEADER:] == data[_HEADER:], "the file was changed"
        for rest in path.parent.iterdir():
            if rest != path:
                rest.unlink()
    return ""


def test_flipped_bits(good: bytes, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(20261121)
    full = request.config.getoption("--full")
    used = np.flatnonzero(np.frombuffer(good, np.uint8))
    for number in range(FLIPS_FULL if full else FLIPS):
        # In turn in the header, where the tables are described, and anywhere.
        offset = int([rng.integers(100), rng.choice(used[used < 4096]), rng.choice(used)][number % 3])
        bit = 1 << int(rng.integers(8))
        check(tmp_path / "t.db", good[:offset] + bytes([good[offset] ^ bit]) + good[offset + 1 :])


def test_truncated_and_overwritten(good: bytes, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(7)
    count = CUTS_FULL if request.config.getoption("--full") else CUTS
    for length in [1, 15, 16, 99, 100, 511, 4096, *rng.integers(17, len(good), count).tolist()]:
        assert check(tmp_path / "t.db", good[:length]) or length > 4096
    for _ in range(count):
        start, length = int(rng.integers(len(good))), int(rng.integers(1, 9000))
        noise = rng.bytes(length) if rng.integers(2) else bytes(length)
        check(tmp_path / "t.db", (good[:start] + noise + good[start + length :])[: len(good)])
    for start in range(4096, len(good), 4096):
        check(tmp_path / "t.db", good[:start] + good[4096:8192] + good[start + 4096 :])


@contextlib.contextmanager
def edited(path: Path, good: bytes) -> Iterator[sqlite3.Connection]:
    path.write_bytes(good)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        with connection:
            yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


SCHEMAS = {
    "newer": "UPDATE tilewright_meta SET value = '99' WHERE key = 'version'",
    "negative": "UPDATE tilewright_meta SET value = '-1' WHERE key = 'version'",
    "huge": f"UPDATE tilewright_meta SET value = '{'9' * 6000}' WHERE key = 'version'",
    "other digits": "UPDATE tilewright_meta SET value = '²' WHERE key = 'version'",
    "words": "UPDATE tilewright_meta SET value = 'one' WHERE key = 'version'",
    "blob": "UPDATE tilewright_meta SET value = x'00ff' WHERE key = 'version'",
    "null": "UPDATE tilewright_meta SET value = NULL WHERE key = 'version'",
    "no version": "DELETE FROM tilewright_meta",
    "no records": "DROP TABLE records",
    "other columns": "ALTER TABLE records RENAME COLUMN body TO text",
    "no workloads": "DROP TABLE workloads",
    "a view": "DROP TABLE plans; CREATE VIEW plans AS SELECT 1 AS id",
    "no meta": "DROP TABLE tilewright_meta",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_wrong_schema(name: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with edited(path, good) as connection:
        connection.executescript(SCHEMAS[name])
    message = check(path, path.read_bytes())
    assert message, "expected an error"
    if name == "newer":
        assert "newer release" in message
    if name == "no meta":
        assert "belongs to another program" in message


def test_other_programs_files(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "CREATE TABLE moz_places (id INTEGER, url TEXT); INSERT INTO moz_places VALUES (1, 'x')"
        )
    assert "belongs to another program (it has the tables moz_places)" in check(path, path.read_bytes())
    for data in (b"\x7fELF" + bytes(5000), b"PK\x03\x04" + bytes(100), b'{"kind": "tuning"}\n', b"\x80\x04\x95"):
        assert "is not a tuning database" in check(path, data)
    for length in (16, 100, 4096):
        assert check(path, b"SQLite format 3\0" + b"\xff" * length)


BODIES: dict[str, Any] = {
    "not JSON": "{",
    "deep": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * DEEP + "1" + "}" * DEEP,
    "a list": "[]",
    "null": None,
    "number": 7,
    "blob": b"\xff\xfe\x00",
    "huge number": '{"threads": 1' + "0" * 5000 + "}",
    "NaN": '{"schema": 1, "threads": NaN}',
    "infinity": '{"latencies_s": [Infinity]}',
    "huge text": json.dumps({"error": "x" * (1 << 20)}),
    "unknown fields": json.dumps({"__class__": "os.system", "args": ["true"]}),
    "surrogate": '{"target": "\\ud800"}',
}
COLUMNS = ("id", "status", "median_s", "trace_digest", "workload_digest", "created_at", "threads")
VALUES: tuple[Any, ...] = ("", "ok", "x" * 100_000, b"\xff\x00", 0, -1, 1e308, float("inf"), "2" * 32)


def good_rows_are_left(path: Path, caplog: Any) -> None:
    with Database(path) as database:
        assert len(list(database.records())) == ROWS
        best = database.best(*KEY)
        assert best is not None and best.status == "ok"
        assert len(database.skipped) == 1
    assert "damaged rows" in caplog.text


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("table", ["records", "plans"])
def test_hostile_bodies(name: str, table: str, good: bytes, tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "t.db"
    with edited(path, good) as connection:
        body = BODIES[name]
        connection.executescript(  # without the constraint that refuses NULL
            f"CREATE TABLE copy AS SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE copy RENAME TO {table}"
        )
        connection.execute(
            f'UPDATE {table} SET body = ? WHERE id = (SELECT id FROM {table} WHERE body LIKE \'%"trace": "[0]"%\' '
            "OR body LIKE '%graph_digest%')",
            (body,),
        )
    assert check(path, path.read_bytes()) == ""
    if table == "records":
        good_rows_are_left(path, caplog)
    assert "damaged rows" in caplog.text


@pytest.mark.parametrize("column", COLUMNS)
def test_hostile_columns(column: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    for value in VALUES:
        with edited(path, good) as connection:
            connection.execute(
                f"UPDATE records SET {column} = ? WHERE rowid IN (SELECT rowid FROM records LIMIT 1)", (value,)
            )
        assert check(path, path.read_bytes()) == "", value


def test_text_that_is_no_text(good: bytes, tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "t.db"
    with edited(path, good) as connection:
        connection.execute(
            "UPDATE workloads SET text = CAST(x'66ff00fe' AS TEXT) WHERE digest = "
            "(SELECT text_digest FROM records WHERE status = 'ok' ORDER BY id LIMIT 1)"
        )
    assert check(path, path.read_bytes()) == ""
    good_rows_are_left(path, caplog)


LINES: dict[str, Callable[[], str]] = {
    "deep": lambda: "[" * DEEP + "]" * DEEP,
    "deep kind": lambda: '{"kind": ' + "[" * DEEP + "]" * DEEP + "}",
    "huge number": lambda: '{"kind": "tuning", "threads": 1' + "0" * 5000 + "}",
    "NaN": lambda: '{"kind": "tuning", "latencies_s": [NaN]}',
    "deep trace": lambda: json.dumps({"kind": "tuning", **record().to_json(), "id": "", "trace": "[" * DEEP}),
    "changed": lambda: json.dumps({"kind": "tuning", **record().to_json(), "target": "mine"}),
}


@pytest.mark.parametrize("name", LINES)
def test_hostile_lines_are_skipped(name: str) -> None:
    with Database(":memory:") as database:
        report = import_lines(database, [LINES[name](), json.dumps({"kind": "tuning", **record().to_json()})])
        assert report.added == 1 and sum(report.skipped.values()) == 1


def test_merging_damaged_files(good: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    other = tmp_path / "other.db"
    for _ in range(20):
        start = int(rng.integers(len(good)))
        other.write_bytes(good[:start] + rng.bytes(200) + good[start + 200 :])
        before = other.read_bytes()
        with Database(":memory:") as database:
            with contextlib.suppress(DatabaseError):
                merge(database, other)
            assert database.counts()["records"] <= ROWS + 1
        assert other.read_bytes() == before
