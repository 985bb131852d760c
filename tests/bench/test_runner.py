"""Running a suite: options, journal, resuming after a kill, rows that fail."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import suite_samples as samples

from tilewright.bench import runner
from tilewright.bench.journal import Journal, run_key
from tilewright.bench.report import Machine, RowResult, SuiteOptions, load_report
from tilewright.bench.runner import at_most, expected_seconds, minutes_text, run_suite, suite_options

ROWS = ("softmax", "gelu", "sort")


class Rows:
    """A fake row runner that remembers what it was asked for, and can stop like Ctrl-C."""

    def __init__(self, stop_at: str = "", fail: str = "") -> None:
        self.seen: list[str] = []
        self._stop_at = stop_at
        self._fail = fail

    def __call__(self, name: str, options: SuiteOptions, memory: object, say: Callable[[str], None]) -> RowResult:
        if name == self._stop_at:
            raise KeyboardInterrupt
        self.seen.append(name)
        return samples.failed(name) if name == self._fail else samples.row(name, samples.side("effort 1", 2.0))


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "describe_machine", lambda extra: samples.machine())


def journal_of(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def test_report_holds_every_row_in_order_and_the_journal_is_gone(tmp_path: Path) -> None:
    output, rows = tmp_path / "out.json", Rows()
    report = run_suite(samples.options(*ROWS), output, run=rows)
    assert [row.name for row in report.rows] == list(ROWS) and report.passed
    assert load_report(output) == report
    assert not journal_of(output).exists() and [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite(samples.options(*ROWS), output, run=Rows(stop_at="sort"))
    assert not output.exists()
    again, lines = Rows(), []
    report = run_suite(samples.options(*ROWS), output, say=lines.append, run=again)
    assert again.seen == ["sort"] and [row.name for row in report.rows] == list(ROWS)
    assert any("2 rows are done" in line for line in lines)


def test_limits_are_those_of_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite(samples.options(*ROWS), output, run=Rows(stop_at="sort"))
    monkeypatch.setattr(runner, "describe_machine", lambda extra: samples.machine(peak_gflops=1.0))
    assert run_suite(samples.options(*ROWS), output, run=Rows()).machine.peak_gflops == 500.0


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_unfinished_line_is_dropped(tmp_path: Path, keep: int) -> None:
    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite(samples.options(*ROWS), output, run=Rows(stop_at="sort"))
    whole = journal_of(output).read_bytes().strip().split(b"\n\n")
    assert len(whole) == 2
    journal_of(output).write_bytes(b"\n" + whole[0] + b"\n\n" + whole[1][:keep])
    again = Rows(stop_at="sort")
    with pytest.raises(KeyboardInterrupt):
        run_suite(samples.options(*ROWS), output, run=again)
    assert again.seen == ["gelu"]
    last = Rows()  # what was written after the unfinished line counts
    run_suite(samples.options(*ROWS), output, run=last)
    assert last.seen == ["sort"]


@pytest.mark.parametrize("change", ["sources", "version", "budget"])
def test_rows_of_other_code_versions_or_options_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    output, options = tmp_path / "out.json", samples.options(*ROWS)
    with pytest.raises(KeyboardInterrupt):
        run_suite(options, output, run=Rows(stop_at="sort"))
    other = {"sources": {"sources": "d2"}, "version": {"versions": {"jax": "0.11"}}}.get(change, {})
    monkeypatch.setattr(runner, "describe_machine", lambda extra: samples.machine(**other))
    if change == "budget":
        options = options.model_copy(update={"budget": "21s"})
    again = Rows(stop_at="sort")
    with pytest.raises(KeyboardInterrupt):
        run_suite(options, output, run=again)
    assert again.seen == ["softmax", "gelu"]
    monkeypatch.setattr(runner, "describe_machine", lambda extra: samples.machine())
    first = Rows()  # the rows of the first run are still there
    run_suite(samples.options(*ROWS), output, run=first)
    assert first.seen == ["sort"]


def test_rows_count_whatever_else_was_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite(samples.options(*ROWS), output, run=Rows(stop_at="sort"))
    again = Rows()
    report = run_suite(samples.options("gelu", "sort"), output, run=again)
    assert again.seen == ["sort"] and [row.name for row in report.rows] == ["gelu", "sort"]


_KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import suite_samples as samples
from pathlib import Path
from tilewright.bench import runner
runner.describe_machine = lambda extra: samples.machine()

def run(name, options, memory, say):
    if name == "sort":
        with open({journal!r}, "ab") as file:
            file.write(b'{{"key": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
    return samples.row(name, samples.side("effort 1", 2.0))

runner.run_suite(samples.options(*{rows!r}), Path({output!r}), run=run)
"""


def test_killed_process_is_continued_by_another(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    script = _KILLED.format(
        folder=str(Path(__file__).parent), journal=str(journal_of(output)), rows=ROWS, output=str(output)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = Rows()
    report = run_suite(samples.options(*ROWS), output, run=again)
    assert again.seen == ["sort"] and report.passed and not journal_of(output).exists()


def test_failed_row_is_a_row_and_the_run_does_not_pass(tmp_path: Path) -> None:
    report = run_suite(samples.options(*ROWS), tmp_path / "out.json", run=Rows(fail="gelu"))
    assert [bool(row.failure) for row in report.rows] == [False, True, False] and not report.passed


def test_hostile_journal_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"\xff\xfe\x00\n[]\n{}\nnull\n" + b"[" * 100_000 + b"\n")
    assert Journal(path, "k").read() == (None, {})


def test_key_is_of_options_and_software() -> None:
    key = run_key(samples.options("a"), samples.machine())
    assert key == run_key(samples.options("b"), samples.machine(started_at="later", peak_gflops=3.0))
    assert key != run_key(samples.options("a", efforts=(2,)), samples.machine())
    assert key != run_key(samples.options("a"), samples.machine(fingerprint="g"))


def test_defaults_are_the_suite_s(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, models, random = (suite_options(suite) for suite in ("kernels", "models", "random"))
    assert len(kernels.rows) == 47 and len(random.rows) == 100 and kernels.efforts == (0, 1)
    assert expected_seconds(kernels) <= 95 * 60 and expected_seconds(models) <= 45 * 60
    assert expected_seconds(random) <= 2 * 60 * 60
    assert expected_seconds(kernels, 1) == pytest.approx(expected_seconds(kernels) / 47)
    assert expected_seconds(suite_options("kernels", budget="5s")) < expected_seconds(kernels)


def test_peer_that_tunes_does_it_once_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.bench.peers.base.find_spec", lambda name: object())
    tvm = runner.PEERS["tvm"]
    plain, beside = suite_options("kernels", rows=["gelu"]), suite_options("kernels", rows=["gelu"], peers=["tvm"])
    assert expected_seconds(beside) - expected_seconds(plain) == pytest.approx(tvm.once_s + 4 * tvm.start_s)
    assert expected_seconds(beside, 3) == pytest.approx(3 * expected_seconds(beside))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "less than a minute"),
        (29.0, "less than a minute"),
        (31.0, "1 minute"),
        (150.1, "3 minutes"),
        (3590.0, "1 hour"),
        (3661.0, "1 hour 1 minute"),
        (2 * 3600.0 + 600.0, "2 hours 10 minutes"),
    ],
)
def test_times_are_said_as_one_says_them(seconds: float, said: str) -> None:
    assert minutes_text(seconds) == said
    assert at_most(seconds) == (said if said.startswith("less") else f"at most about {said}")


def test_rows_keep_the_suite_s_order_and_efforts_are_sorted() -> None:
    found = suite_options("kernels", rows=["sort", "softmax"], efforts=[1, 0, 1], peers=["openvino", "torch"])
    assert found.rows == ("softmax", "sort") and found.efforts == (0, 1) and found.peers == ("torch", "openvino")


def test_seed_and_number_of_draws_decide_the_random_rows() -> None:
    assert suite_options("random", draws=3, seed=7).rows == ("draw-7-000", "draw-7-001", "draw-7-002")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "nothing"}, "expected one of kernels, models, random, found 'nothing'"),
        ({"rows": ["matmul-513"]}, "expected some of matmul-512.*found matmul-513"),
        ({"efforts": [4]}, "expected some of 0, 1, 2, 3, found 4"),
        ({"budget": "soon"}, "expected a time like"),
        ({"peers": ["mxnet"]}, "expected some of torch.*found mxnet"),
        ({"repeats": 0}, "repeats"),
        ({"rounds": 1}, "rounds"),
        ({"timing_s": -1.0}, "timing_s"),
        ({"accuracy_inputs": 5}, "accuracy_inputs"),
        ({"draws": 5}, "expected it with the suite random, found it with kernels"),
        ({"suite": "random", "draws": 0}, "draws: expected 1 to 10000, found 0"),
        ({"suite": "random", "draws": 2, "rows": ["draw-0-002"]}, "expected some of draw-0-000, draw-0-001"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite_options(**{"suite": "kernels", **changes})  # pyright: ignore[reportArgumentType]


def test_machine_bound_is_the_larger_of_arithmetic_and_traffic() -> None:
    found: Machine = samples.machine()  # 500 GFLOP/s, 50 GB/s, 200 GB/s, 32 MiB
    assert found.bound_s(10**9, 10**6, "float32") == pytest.approx(1e9 / 500e9)
    assert found.bound_s(10**6, 10**9, "float32") == pytest.approx(1e9 / 50e9)
    assert found.bound_s(10**6, 10**7, "float32") == pytest.approx(1e7 / 200e9)
    assert found.bound_s(10**9, 10**6, "int8") is None
    assert found.bound_s(10**6, 10**9, "bfloat16") == pytest.approx(1e9 / 50e9)
