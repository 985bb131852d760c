"""The store: look-ups, damaged rows, foreign files, versions, merging, and many writers at once."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from database_rows import plan_fields, record
from sqlalchemy import Connection, text

from tilewright.database import engine as engine_module
from tilewright.database import exchange
from tilewright.database.engine import DatabaseError, default_database_path
from tilewright.database.exchange import export_lines, import_lines, merge
from tilewright.database.record import PlanRecord
from tilewright.database.store import Database, library_versions
from tilewright.ir.measure import MeasureResult, TaskKey, TimingProtocol

KEY = ("w1", "t1", "llvm", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.db"


# ---- look-ups


@pytest.mark.parametrize("where", ["file", ":memory:"])
def test_add_and_read_back(path: Path, where: str) -> None:
    with Database(path if where == "file" else where) as database:
        one, plan = record(), PlanRecord(**plan_fields())
        assert database.add(one, plan) == 2
        assert database.add(one, plan) == 0
        assert database.get(one.id) == one
        assert database.get(plan.id) == plan
        assert database.get("0" * 32) is None
        assert list(database.records()) == [one]
        assert list(database.plans()) == [plan]
        assert database.counts() == {"records": 1, "plans": 1, "workloads": 1}
        assert database.skipped == {}
    if where == "file":
        with Database(str(path)) as database:
            assert database.get(one.id) == one


def test_best_needs_the_whole_key() -> None:
    with Database(":memory:") as database:
        best = record(1, 1e-3)
        database.add(record(0, 2e-3), best, record(2, 3e-3))
        database.add(record(3, 1e-6, target="t2"), record(3, 1e-6, backend="pallas"))
        database.add(record(3, 1e-6, workload_digest="w2"), record(3, 1e-6, schedule_version=2))
        assert database.best(*KEY) == best
        assert database.best("w1", "t3", "llvm", 1) is None
        other = record(4, 1e-6, threads=1, allocator="keep")
        database.add(other)
        assert database.best(*KEY) == other
        assert database.best(*KEY, threads=2) == best
        assert database.best(*KEY, allocator="keep") == other
        assert [found.trace for found in database.top(2, *KEY, threads=2)] == ["[1]", "[0]"]
        assert database.top(0, *KEY) == []


def test_one_lucky_run_does_not_win() -> None:
    with Database(":memory:") as database:
        lucky = [record(0, seconds) for seconds in (1e-4, 5e-3, 6e-3)]
        database.add(*lucky, record(1, 2e-3))
        assert [found.trace for found in database.top(5, *KEY)] == ["[1]", "[0]"]
        assert database.top(5, *KEY)[1].median_s == 5e-3


@pytest.mark.parametrize("status", ["crash", "wrong_result", "non_finite", "modified_input"])
def test_a_trace_that_was_ever_wrong_is_out(status: str) -> None:
    with Database(":memory:") as database:
        database.add(record(0, 1e-4), record(1, 2e-3), record(0, None, status=status))
        assert [found.trace for found in database.top(5, *KEY)] == ["[1]"]


@pytest.mark.parametrize("status", ["timeout", "oom", "rejected", "compile_error"])
def test_other_failures_may_have_been_the_machines_fault(status: str) -> None:
    with Database(":memory:") as database:
        database.add(record(0, 1e-4), record(0, None, status=status))
        assert database.best(*KEY) == record(0, 1e-4)


def test_add_result_satisfies_the_search() -> None:
    key = TaskKey("w1", "text", "t1", "llvm", 1, threads=2)
    with Database(":memory:") as database:
        timing = TimingProtocol(threads=2)
        stored = database.add_result(
            key, "[1]", MeasureResult("ok", (2e-3, 1e-3, 3e-3)), timing, seed=7, features=[1, 2], feature_version=4
        )
        database.add_result(key, "[2]", MeasureResult("crash", error="SIGSEGV"), timing)
        assert database.get(stored.id) == stored
        assert stored.timing_protocol == timing.text
        assert (stored.features, stored.seed) == ((1.0, 2.0), 7)
        assert stored.versions["tilewright"] == library_versions()["tilewright"]
        assert database.best_traces(key, 3) == [("[1]", 2e-3)]
        assert database.best_traces(TaskKey("w1", "text", "t1", "llvm", 1, threads=1), 3) == []
        assert [r.status for r in database.records(status="crash")] == ["crash"]


def test_plans_are_found_under_exactly_their_conditions() -> None:
    with Database(":memory:") as database:
        old = PlanRecord(**plan_fields(ratio=1.1))
        new = PlanRecord(**plan_fields(ratio=1.2, created_at=old.created_at.replace(year=2027)))
        database.add(new, old)
        conditions = ("g1", "t1", old.versions, 2, "keep")
        assert database.plan(*conditions) == new
        assert database.plan("g2", *conditions[1:]) is None
        assert database.plan("g1", "t2", old.versions, 2, "keep") is None
        assert database.plan("g1", "t1", {"jax": "0.11"}, 2, "keep") is None
        assert database.plan("g1", "t1", old.versions, 4, "keep") is None
        assert database.plan("g1", "t1", old.versions, 2, "stock") is None
        assert list(database.plans(graph_digest="g2")) == []


def test_show() -> None:
    with Database(":memory:") as database:
        one, plan = record(3), PlanRecord(**plan_fields())
        database.add(one, plan)
        shown = database.show(one.id[:8])
        assert "func matmul" in shown
        assert "status: ok" in shown
        assert "scheduled:\n(not shown: " in shown  # the workload of the test is no program
        assert "chosen: native" in database.show(plan.id)
        for prefix, words in (("", "hexadecimal"), ("%", "hexadecimal"), ("0" * 32, "no record")):
            with pytest.raises(LookupError, match=words):
                database.show(prefix)
        database.add(*(record(trace) for trace in range(40)))
        with pytest.raises(LookupError, match="several"):
            for digit in "0123456789abcdef":
                database.show(digit)


def test_more_records_than_a_page(path: Path) -> None:
    with Database(path) as database:
        records = [record(trace) for trace in range(1203)]
        assert database.add(*records) == 1203
        seen = []
        for found in database.records():  # adding while reading neither blocks nor fails
            if not seen:
                database.add(record(5000, workload_digest="w2"))
            seen.append(found.id)
        assert {one.id for one in records} <= set(seen)
        assert len(seen) == len(set(seen))
        assert database.counts()["workloads"] == 1


# ---- damaged rows


def damage(path: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE records SET body = 'garbage' WHERE id = ?", "not a record"),
        ("UPDATE records SET body = '[]' WHERE id = ?", "JSON object"),
        ("UPDATE records SET body = '{}' WHERE id = ?", "Field required"),
        ("UPDATE records SET body = x'ff00' WHERE id = ?", "not a record"),
        ("UPDATE records SET body = replace(body, '0.001', '0.0001') WHERE id = ?", "was changed"),
        ("UPDATE records SET body = json_set(body, '$.surprise', 1) WHERE id = ?", "surprise"),
        ("UPDATE records SET body = json_set(body, '$.schema', 99) WHERE id = ?", "schema"),
        ("UPDATE records SET median_s = 1e-9 WHERE id = ?", "median_s"),
        ("UPDATE records SET target = 't9' WHERE id = ?", "target"),
        ("UPDATE workloads SET text = 'another' WHERE 1 OR digest = ?", "was changed"),
    ],
)
def test_damaged_rows_are_skipped_and_noted(path: Path, statement: str, words: str) -> None:
    good, bad = record(0, 1e-2, workload_text="good"), record(1, 1e-3)
    with Database(path) as database:
        database.add(bad) if "workloads" in statement else database.add(good, bad)
    damage(path, statement, bad.id)
    with Database(path) as database:
        assert bad not in list(database.records())
        assert words in database.skipped[bad.id]
        assert database.best(*KEY) == (None if "workloads" in statement else good)
        assert database.counts()["records"] == (1 if "workloads" in statement else 2)
        with pytest.raises(LookupError, match="damaged"):
            database.show(bad.id)


def test_damaged_plans_are_skipped(path: Path) -> None:
    plan = PlanRecord(**plan_fields())
    with Database(path) as database:
        database.add(plan)
    damage(path, "UPDATE plans SET body = 'x' WHERE id = ?", plan.id)
    with Database(path) as database:
        assert database.plan("g1", "t1", plan.versions, 2, "keep") is None
        assert list(database.plans()) == []
        assert set(database.skipped) == {plan.id}


# ---- files that are not ours


def test_text_file_is_refused_and_kept(path: Path) -> None:
    path.write_text("my precious notes\n" * 100)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"not a tuning database.*my precious"):
        Database(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_programs_database_is_refused_and_kept(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"belongs to another program.*bookmarks"):
        Database(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [100, 5000])
def test_damaged_file_is_refused_and_kept(path: Path, cut: int) -> None:
    with Database(path) as database:
        database.add(*(record(trace) for trace in range(100)))
    damaged = path.read_bytes()[:cut] + b"\xde\xad" * 4000
    for leftover in path.parent.glob("tuning.db-*"):
        leftover.unlink()
    path.write_bytes(damaged)
    with pytest.raises(DatabaseError, match=r"damaged.*Nothing was deleted"), Database(path) as database:
        list(database.records())
        database.add(record(7, 1e-5))
    assert path.exists()


def test_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    with Database(path) as database:
        assert database.counts()["records"] == 0


def test_folder_missing_folder_and_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="is a folder"):
        Database(tmp_path)
    with pytest.raises(DatabaseError, match="no folder"):
        Database(tmp_path / "missing" / "tuning.db")
    with pytest.raises(DatabaseError, match="mysql"):
        Database("mysql://user:secret@host/db")
    with pytest.raises(DatabaseError, match="URL"):
        Database("://")


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in default_database_path().parents
    with Database() as database:
        database.add(record())
    assert default_database_path().exists()


# ---- versions


def test_newer_version_is_refused_and_kept(path: Path) -> None:
    Database(path).close()
    damage(path, "UPDATE tilewright_meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(DatabaseError, match=r"version 99.*newer release"):
        Database(path)


def test_unreadable_version_is_refused(path: Path) -> None:
    Database(path).close()
    damage(path, "UPDATE tilewright_meta SET value = 'x' WHERE key = 'version'")
    with pytest.raises(DatabaseError, match="damaged"):
        Database(path)


def test_older_version_is_upgraded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database(path) as database:
        database.add(record())

    def add_notes(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE notes (id TEXT)"))

    monkeypatch.setattr(engine_module, "MIGRATIONS", [*engine_module.MIGRATIONS, add_notes])
    for _ in range(2):
        with Database(path) as database:
            assert list(database.records()) == [record()]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM tilewright_meta").fetchall() == [("2",)]
        assert connection.execute("SELECT count(*) FROM notes").fetchall() == [(0,)]
    connection.close()


def test_failed_upgrade_leaves_the_old_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database(path) as database:
        database.add(record())

    def fail(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (id TEXT)"))
        connection.execute(text("DELETE FROM records"))
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "MIGRATIONS", [*engine_module.MIGRATIONS, fail])
        with pytest.raises(RuntimeError, match="power cut"):
            Database(path)
    with Database(path) as database:
        assert list(database.records()) == [record()]


# ---- merging


def test_merge_is_idempotent_and_keeps_foreign_rows(path: Path, tmp_path: Path) -> None:
    mine, common, theirs = record(0), record(1), record(2, target="another machine", backend="pallas")
    plan, other = PlanRecord(**plan_fields()), tmp_path / "other.db"
    with Database(other) as colleague:
        colleague.add(common, theirs, plan)
    before = other.read_bytes()
    with Database(path) as database:
        database.add(mine, common)
        report = merge(database, other)
        assert (report.added, report.present, sum(report.skipped.values())) == (2, 1, 0)
        report = merge(database, str(other))
        assert (report.added, report.present) == (0, 3)
        assert {found.id for found in database.records()} == {mine.id, common.id, theirs.id}
        assert database.plan("g1", "t1", plan.versions, 2, "keep") == plan
    assert other.read_bytes() == before


def test_merge_skips_what_does_not_validate(path: Path, tmp_path: Path) -> None:
    other, bad = tmp_path / "other.db", record(0)
    with Database(other) as colleague:
        colleague.add(bad, record(1), record(2))
    damage(other, "UPDATE records SET body = replace(body, 'ok', 'OK') WHERE id = ?", bad.id)
    with Database(path) as database:
        report = merge(database, other)
        assert (report.added, report.present) == (2, 0)
        assert sum(report.skipped.values()) == 1
        assert "status" in next(iter(report.skipped))


def test_merge_reads_what_is_still_in_the_log(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with Database(other) as colleague, Database(path) as database:
        colleague.add(record(0))
        assert merge(database, other).added == 1


def test_a_false_workload_text_cannot_displace_the_true_one(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with Database(other) as colleague:
        colleague.add(record(0, 5e-3, workload_text="something else under the same digest"))
    with Database(path) as database:
        merge(database, other)
        database.add(record(1))
        assert database.best(*KEY) == record(1)
        assert database.skipped == {}


def test_merge_refuses_missing_and_foreign_files(path: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x" * 100)
    with Database(path) as database:
        with pytest.raises(DatabaseError, match="no such file"):
            merge(database, tmp_path / "missing.db")
        with pytest.raises(DatabaseError, match="not a tuning database"):
            merge(database, tmp_path / "notes.txt")
    assert not (tmp_path / "missing.db").exists()


def test_lines_round_trip_and_concatenate(path: Path) -> None:
    first, second = io.StringIO(), io.StringIO()
    plan = PlanRecord(**plan_fields())
    with Database(":memory:") as database:
        database.add(record(0), record(1), plan)
        assert export_lines(database, first) == 3
    with Database(":memory:") as database:
        database.add(record(1), record(2))
        assert export_lines(database, second) == 2
    lines = (first.getvalue() + second.getvalue()).splitlines(keepends=True)
    assert all("func matmul" in line for line in lines if '"tuning"' in line)
    with Database(path) as database:
        report = import_lines(database, lines)
        assert (report.added, report.present, sum(report.skipped.values())) == (4, 1, 0)
        assert {found.id for found in database.records()} == {record(trace).id for trace in range(3)}
        assert list(database.plans()) == [plan]


@pytest.mark.parametrize(
    "line",
    ["garbage", "[1]", "{}", '{"kind": "other"}', '{"kind": []}', '{"kind": "tuning"}', '{"kind": "plan", "x": 1}'],
)
def test_bad_lines_are_skipped_and_counted(line: str) -> None:
    with Database(":memory:") as database:
        good = json.dumps({"kind": "tuning", **record().to_json()})
        report = import_lines(database, [line, "", good])
        assert (report.added, sum(report.skipped.values())) == (1, 1)


def test_overlong_lines_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_MAX_LINE", 10)
    with Database(":memory:") as database:
        assert "too long" in next(iter(import_lines(database, ["x" * 11]).skipped))


# ---- many at once


@pytest.fixture
def writer(path: Path) -> list[str]:
    """Command that writes records and prints the id of each once it is committed."""
    return [sys.executable, str(Path(__file__).with_name("write_rows.py")), str(path)]


def test_several_processes_create_and_write_at_once(path: Path, writer: list[str]) -> None:
    processes = [subprocess.Popen([*writer, str(who), "40"], stdout=subprocess.PIPE, text=True) for who in range(4)]
    written = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert all(len(ids) == 40 for ids in written)
    with Database(path) as database:
        assert {found.id for found in database.records()} == {id_ for ids in written for id_ in ids}
        assert database.skipped == {}


def test_a_killed_writer_loses_nothing_committed(path: Path, writer: list[str]) -> None:
    survivor = subprocess.Popen([*writer, "1", "60"], stdout=subprocess.PIPE, text=True)
    victim = subprocess.Popen([*writer, "2", "1000000"], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    committed = [victim.stdout.readline().strip() for _ in range(25)]
    os.kill(victim.pid, signal.SIGKILL)
    committed += victim.stdout.read().split("\n")[:-1]  # the last line may be cut
    victim.communicate()
    others = survivor.communicate(timeout=60)[0].split()
    assert survivor.returncode == 0
    with Database(path) as database:
        stored = {found.id for found in database.records()}
        assert {*committed, *others} <= stored
        assert len(stored) <= len(committed) + len(others) + 1
        assert database.skipped == {}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_killed_while_a_transaction_is_open(path: Path) -> None:
    Database(path).close()
    program = """
        import sys, time
        from sqlalchemy import text
        from tilewright.database.engine import write
        from tilewright.database.store import Database
        database = Database(sys.argv[1])
        with write(database._engine) as connection:
            connection.execute(text("INSERT INTO workloads VALUES ('half', 'written')"))
            print("inside", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "inside"
    with Database(path) as database:
        assert database.counts()["workloads"] == 0  # readers don't wait
        threading.Timer(0.3, process.kill).start()
        database.add(record())  # waits until the other one is gone
        assert database.counts()["workloads"] == 1
    process.communicate()


@pytest.mark.parametrize("where", ["file", ":memory:"])
def test_many_threads(path: Path, where: str) -> None:
    with Database(path if where == "file" else where) as database:
        errors: list[BaseException] = []

        def work(who: int) -> None:
            try:
                for number in range(15):
                    database.add(record(number, 1e-3, seed=who))
                    assert database.best(*KEY) is not None
                    assert len(list(database.records())) > number
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert database.counts()["records"] == 90


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("folder", ["/dev/null", "/proc/nobody"])
def test_a_default_folder_that_can_not_be_made(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    with pytest.raises(DatabaseError, match=r"can't be created: .*set XDG_CACHE_HOME"):
        Database()


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is not None, reason="psycopg is installed")
def test_a_driver_that_is_missing() -> None:
    with pytest.raises(DatabaseError, match="needs the package psycopg: pip install psycopg"):
        Database("postgresql+psycopg://somebody@localhost/tuning")


def test_a_forked_child_gets_its_own_connection(path: Path) -> None:
    with Database(path) as database:
        database.add(record(0))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                database.add(record(1))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        database.add(record(2))
        assert len(list(database.records())) == 3
