"""`tilewright db`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from database_rows import plan_fields, record

from tilewright.database.record import PlanRecord
from tilewright.database.store import Database

Cli = Callable[..., Any]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A database of two workloads on two machines, with a failure and a plan."""
    path = tmp_path / "tuning.db"
    with Database(path) as database:
        database.add(
            record(1, 3e-3),
            record(2, 1e-3),
            record(3, None),
            record(4, 2e-3, workload_digest="w2", target="t2"),
            PlanRecord(**plan_fields()),
        )
    return path


class TestList:
    def rows(self, cli: Cli, path: Path, *words: str) -> list[tuple[str, str, float | None]]:
        result = cli("db", "ls", "-d", path, "--json", *words)
        assert result.code == 0
        return [(row["workload"], row["status"], row["median_s"]) for row in result.data["records"]]

    def test_the_fastest_of_each_workload_first(self, cli: Cli, filled: Path) -> None:
        assert self.rows(cli, filled) == [
            ("w1", "ok", 1e-3),
            ("w1", "ok", 3e-3),
            ("w1", "crash", None),
            ("w2", "ok", 2e-3),
        ]

    @pytest.mark.parametrize(
        ("words", "count"),
        [
            (("--workload", "w"), 4),
            (("--workload", "w2"), 1),
            (("--workload", "x"), 0),
            (("--target", "t1"), 3),
            (("--status", "crash"), 1),
            (("--status", "ok", "--target", "t1"), 2),
            (("--limit", "2"), 2),
        ],
    )
    def test_filters(self, cli: Cli, filled: Path, words: tuple[str, ...], count: int) -> None:
        assert len(self.rows(cli, filled, *words)) == count

    def test_plans(self, cli: Cli, filled: Path) -> None:
        (plan,) = cli("db", "ls", "-d", filled, "--plans", "--json").data["plans"]
        assert (plan["graph"], plan["chosen"], plan["ratio"]) == ("g1", "native", 1.5)
        text = cli("db", "ls", "-d", filled, "--plans").stdout
        assert "native" in text and "1.50x" in text
        assert cli("db", "ls", "-d", filled, "--plans", "--workload", "g2", "--json").data["plans"] == []

    def test_for_people(self, cli: Cli, filled: Path) -> None:
        lines = cli("db", "ls", "-d", filled, "--limit", "3").stdout.splitlines()
        assert lines[0].endswith("tuning.db: 4 candidates of 1 workload, 1 plan")  # the text of all four is the same
        assert lines[1].split()[:4] == ["id", "workload", "status", "median"]
        assert cli("db", "show", lines[2].split()[0], "-d", filled).code == 0
        assert "1 ms" in lines[2] and " - " in lines[4]
        assert lines[-1] == "3 of 4; more with --limit"
        assert "nothing matches" in cli("db", "ls", "-d", filled, "--workload", "x").stdout

    def test_narrow_terminals_cut_nothing_off(self, cli: Cli, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "30")
        text = cli("db", "ls", "-d", filled).stdout
        assert "2026-01-02 00:00" in text and "…" not in text

    def test_damaged_rows_are_left_out_and_counted(self, cli: Cli, filled: Path) -> None:
        with sqlite3.connect(filled) as connection:
            connection.execute("UPDATE records SET body = '{}' WHERE median_s = 0.001")
        result = cli("db", "ls", "-d", filled, "--json")
        assert (result.data["damaged"], result.data["matching"]) == (1, 3)
        assert "left out 1 damaged record: " in result.stderr

    def test_a_record_does_not_command_the_terminal(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "hostile.db"
        with Database(path) as database:
            database.add(record(1, None, target="[/x]\x1b[2J", error="\x1b]0;title\x07", backend="[red]x"))
        listed = cli("db", "ls", "-d", path)
        assert listed.code == 0 and "[/x]\\x1b[2J" in listed.stdout and "[red]x" in listed.stdout
        shown = cli("db", "show", cli("db", "ls", "-d", path, "--json").data["records"][0]["id"], "-d", path)
        assert "\\x1b]0;title\\x07" in shown.stdout
        assert "\x1b" not in listed.stdout + shown.stdout

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--status", "okay"), "expected one of ok, rejected"),
            (("--status", "ok", "--plans"), "--plans"),
            (("--limit", "0"), "--limit"),
        ],
    )
    def test_wrong_filters(self, cli: Cli, filled: Path, words: tuple[str, ...], said: str) -> None:
        result = cli("db", "ls", "-d", filled, *words)
        assert (result.code, result.stdout) == (2, "")
        assert said in result.error


@pytest.mark.parametrize("words", [("ls",), ("show", "ab"), ("export", "x.jsonl")], ids=" ".join)
def test_looking_creates_no_database(cli: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "missing.db"
    result = cli("db", *words, "-d", path)
    assert (result.code, result.stdout) == (2, "")
    assert f"{path}: there is no such database" in result.error
    assert not path.exists() and not Path("x.jsonl").exists()


@pytest.mark.parametrize("words", [("ls",), ("show", "ab"), ("import", __file__)], ids=lambda words: words[0])
def test_a_foreign_file_is_refused_and_stays_as_it_is(cli: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader")
    result = cli("db", *words, "-d", path, "--json")
    assert result.code == 1
    assert "is not a tuning database" in result.data["error"]
    assert path.read_text() == "Dear reader"


class TestShow:
    def test_a_record_by_the_beginning_of_its_id(self, cli: Cli, filled: Path) -> None:
        ids = [row["id"] for row in cli("db", "ls", "-d", filled, "--json").data["records"]]
        shown = cli("db", "show", ids[0][:10], "-d", filled)
        assert shown.code == 0 and f"id: {ids[0]}" in shown.stdout and "func matmul" in shown.stdout
        data = cli("db", "show", ids[0], "-d", filled, "--json").data
        assert data["record"]["id"] == ids[0] and data["text"] == shown.stdout.removesuffix("\n")

    @pytest.mark.parametrize(("id_", "said"), [("00ff00ff", "no record begins"), ("xyz", "hexadecimal"), ("", "hexa")])
    def test_no_such_record(self, cli: Cli, filled: Path, id_: str, said: str) -> None:
        result = cli("db", "show", id_, "-d", filled)
        assert result.code == 2
        assert said in result.error and "`tilewright db ls`" in result.error


class TestExchange:
    def test_exported_records_are_imported_once(self, cli: Cli, filled: Path, tmp_path: Path) -> None:
        lines, other = tmp_path / "a.jsonl", tmp_path / "other.db"
        exported = cli("db", "export", lines, "-d", filled, "--json")
        assert (exported.code, exported.data["records"], exported.data["damaged"]) == (0, 5, 0)
        assert {json.loads(line)["kind"] for line in lines.read_text().splitlines()} == {"tuning", "plan"}
        first = cli("db", "import", lines, "-d", other, "--json")
        assert (first.code, first.data["added"], first.data["present"], first.data["refused"]) == (0, 5, 0, 0)
        again = cli("db", "import", lines, lines, "-d", other)
        assert again.stdout.endswith("other.db: 0 records added, 10 there already\n")
        with Database(other) as database:
            assert len(list(database.records())) == 4

    def test_export_overwrites_only_on_request(self, cli: Cli, filled: Path) -> None:
        before = filled.read_bytes()
        refused = cli("db", "export", filled, "-d", filled)
        assert refused.code == 2 and "--force" in refused.error
        assert filled.read_bytes() == before
        target = filled.with_name("old.jsonl")
        target.write_text("old")
        assert cli("db", "export", target, "-d", filled, "--force").code == 0
        assert len(target.read_text().splitlines()) == 5

    def test_lines_that_are_no_records_are_refused(self, cli: Cli, filled: Path, tmp_path: Path) -> None:
        lines = tmp_path / "a.jsonl"
        cli("db", "export", lines, "-d", filled)
        good, *_ = lines.read_text().splitlines()
        changed = good.replace('"threads": 2', '"threads": 64')
        lines.write_text("\n".join([good, "{}", "not json", changed, '{"kind": "plan"}', "", "[1]"]))
        result = cli("db", "import", lines, "-d", tmp_path / "other.db", "--json")
        assert (result.code, result.data["added"], result.data["refused"]) == (1, 1, 5)
        assert "the record was changed" in " ".join(result.data["reasons"])
        text = cli("db", "import", lines, "-d", tmp_path / "other.db").stdout
        assert "5 refused: " in text

    def test_a_database_is_not_imported_as_lines(self, cli: Cli, filled: Path, tmp_path: Path) -> None:
        result = cli("db", "import", filled, "-d", tmp_path / "other.db")
        assert result.code == 1
        assert "`tilewright db merge`" in result.error

    def test_merging_keeps_the_sources(self, cli: Cli, filled: Path, tmp_path: Path) -> None:
        other, both = tmp_path / "other.db", tmp_path / "both.db"
        with Database(other) as database:
            database.add(record(1, 3e-3), record(9, 9e-3))
        result = cli("db", "merge", filled, other, "--into", both, "--json")
        assert (result.code, result.data["added"], result.data["present"]) == (0, 6, 1)
        assert cli("db", "merge", filled, other, "--into", both, "--json").data["added"] == 0
        with Database(other) as database:
            assert len(list(database.records())) == 2

    def test_what_can_not_be_merged(self, cli: Cli, filled: Path, tmp_path: Path) -> None:
        missing = cli("db", "merge", tmp_path / "tunning.db", "--into", tmp_path / "both.db")
        assert missing.code == 2 and "did you mean 'tuning.db'" in missing.error
        (tmp_path / "letter.txt").write_text("Dear reader")
        foreign = cli("db", "merge", tmp_path / "letter.txt", "--into", tmp_path / "both.db")
        assert foreign.code == 1 and "is not a tuning database" in foreign.error
        with sqlite3.connect(filled) as connection:
            connection.execute("UPDATE records SET body = '{}' WHERE median_s = 0.001")
        damaged = cli("db", "merge", filled, "--into", tmp_path / "both.db", "--json")
        assert (damaged.code, damaged.data["added"], damaged.data["refused"]) == (1, 4, 1)
