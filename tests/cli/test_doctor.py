"""`tilewright doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tilewright.cli
from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.cli import app, diagnosis, probe
from tilewright.ir.loop import Apply, Block, map_expr, rewrite
from tilewright.passes.schedule import replay

COMMAND = Path(sys.executable).parent / "tilewright"
STEPS = [name for name, _, _ in probe.STEPS]


def type_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the seconds of measuring."""
    monkeypatch.setattr(diagnosis, "_limits", lambda: (None, diagnosis.Check("limits", "fine", "not measured")))


@pytest.fixture
def no_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the seconds of compiling."""
    monkeypatch.setattr(diagnosis, "_function", lambda: [])


def run_doctor(*arguments: str) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    """Exit code, output and checks by name of `tilewright doctor --json`."""
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    found = json.loads(result.stdout)
    return result.exit_code, found, {check["name"]: check for check in found["checks"]}


def test_doctor_finds_this_machine_fine(tmp_path: Path) -> None:
    result = type_command("doctor", "--json", "--database", str(tmp_path / "tuning.db"))
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert found["fine"] is True
    assert {check["status"] for check in checks.values()} <= {"fine", "note"}
    assert [name for name in checks if name in STEPS] == STEPS
    assert found["versions"]["jaxlib"] == version("jaxlib")
    assert found["versions"]["python"].split(".") == [str(n) for n in sys.version_info[:3]]
    assert str(tmp_path / "tuning.db") in checks["database"]["found"]
    assert found["limits"]["threads"] == found["target"]["threads"] >= 1
    assert all(found["limits"][name] > 0 for name in ("fma_gflops_one", "read_gbs_all", "l3_gbs_all"))


def test_the_table_for_people(no_limits: None, no_function: None, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--database", str(tmp_path / "tuning.db")])
    assert result.exit_code == 0
    assert "Everything works." in result.stdout
    assert f"jax {version('jax')}" in result.stdout


@pytest.mark.usefixtures("no_limits", "no_function")
class TestDatabase:
    def test_a_folder_is_no_database(self, tmp_path: Path) -> None:
        code, found, checks = run_doctor("--database", str(tmp_path))
        assert (code, found["fine"], checks["database"]["status"]) == (1, False, "problem")
        assert "is a folder" in checks["database"]["found"]
        assert checks["database"]["remedy"]

    def test_a_foreign_file_stays_as_it_is(self, tmp_path: Path) -> None:
        file = tmp_path / "letter.txt"
        file.write_text("Dear reader")
        code, _, checks = run_doctor("--database", str(file))
        assert (code, checks["database"]["status"]) == (1, "problem")
        assert file.read_text() == "Dear reader"

    def test_problems_are_counted_and_remedies_shown(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["doctor", "--database", str(tmp_path)])
        assert result.exit_code == 1
        assert "1 problem found." in result.stdout
        assert "-> " in result.stdout

    def test_looking_writes_no_records(self, tmp_path: Path) -> None:
        from tilewright.database.store import Database

        assert run_doctor("--database", str(tmp_path / "tuning.db"))[0] == 0
        with Database(tmp_path / "tuning.db") as database:
            assert not list(database.records())


@pytest.mark.usefixtures("no_limits")
class TestBrokenSetUp:
    def test_a_missing_package(self, no_function: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diagnosis, "PACKAGES", (*diagnosis.PACKAGES, "tilewright-missing"))
        code, found, checks = run_doctor()
        assert code == 1
        assert found["versions"]["tilewright-missing"] is None
        assert "tilewright-missing" in checks["packages"]["found"]
        assert "pip install" in checks["packages"]["remedy"]

    def test_a_package_that_does_not_import(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tilewright.cli.probe", None)
        monkeypatch.delattr(tilewright.cli, "probe", raising=False)
        code, _, checks = run_doctor()
        assert (code, checks["imports"]["status"]) == (1, "problem")
        assert not set(checks) & set(STEPS)

    def test_a_worker_that_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise OSError("no more processes")

        monkeypatch.setattr(probe, "WorkerRunner", refuse)
        code, _, checks = run_doctor()
        assert (code, checks["run it in the worker"]["status"]) == (1, "problem")
        assert "no more processes" in checks["run it in the worker"]["found"]
        assert checks["generate a kernel"]["status"] == "fine"
        assert "run it through XLA" not in checks

    def test_a_kernel_that_computes_something_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def cosine(expr: Any) -> Any:
            return replace(expr, op="cos") if isinstance(expr, Apply) and expr.op == "tanh" else expr

        def spoil(stmt: Any) -> Any:
            return replace(stmt, value=map_expr(stmt.value, cosine)) if isinstance(stmt, Block) else stmt

        def build(key: str, func: Any, trace: Any, target: Any) -> Any:
            return compile_kernel(replay(replace(func, body=rewrite(func.body, spoil)), trace), target)

        monkeypatch.setattr(probe, "build_kernel", build)
        code, _, checks = run_doctor()
        assert (code, checks["run it in the worker"]["status"]) == (1, "problem")
        assert "wrong_result" in checks["run it in the worker"]["found"]


@pytest.mark.parametrize(("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)])
def test_cpu_quota_of_a_container(text: str, quota: float | None, tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text + "\n")
    assert diagnosis._cpu_quota(file) == quota
    assert diagnosis._cpu_quota(tmp_path / "missing") is None


def test_a_quota_below_the_threads_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace(diagnosis.detect_target(), threads=4)
    monkeypatch.setattr(diagnosis, "_cpu_quota", lambda: 1.5)
    check = diagnosis._threads(target)
    assert check.status == "note"
    assert "taskset -c 0-0" in check.remedy
