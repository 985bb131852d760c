"""The A/B benchmark: statistics, child processes and their failures, the machine's limits."""

from __future__ import annotations

import dataclasses
import io
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tilewright.backends.measure.machine import measure_limits
from tilewright.bench import ab, demo
from tilewright.bench.ab import AbOptions
from tilewright.bench.contest import Contest, ContestResult
from tilewright.bench.messages import Error, Prepared
from tilewright.bench.paired import paired_speedup
from tilewright.bench.sessions import SessionError
from tilewright.ir.target import detect_target

GOOD = {"candidate": 1e-6, "baseline": 1e-6, "scale": 1.0, "epsilon": 1e-7, "limit": 4e-6}


def result(accuracy: list[dict[str, float]], candidate_ms: float = 1.0) -> ContestResult:
    errors = [Error(**item) for item in accuracy]
    ours = Prepared(version="1", compile_s=3.0, errors=errors, explanation="because [fused]")
    sides: dict[str, Any] = {"jit": Prepared(version="1", compile_s=1.0), "candidate": ours}
    return ContestResult(sides, {"jit": [2.0] * 5, "candidate": [candidate_ms] * 5}, [2.0] * 5)


def merge(*results: ContestResult) -> ab.AbRow:
    return ab._merge("m", 1, "stock", results, np.random.default_rng(0))


def test_speedup_of_paired_times_ignores_common_drift() -> None:
    rng = np.random.default_rng(0)
    drift = rng.uniform(1.0, 5.0, (3, 50))
    noise = rng.uniform(0.99, 1.01, (3, 50))
    found = paired_speedup((drift * 2.0 * noise).tolist(), drift.tolist(), rng)
    assert found.low < found.median < found.high
    assert found.median == pytest.approx(2.0, rel=0.01) and found.high - found.low < 0.02


def test_speedup_interval_knows_that_processes_differ() -> None:
    baseline = [[1.0] * 20, [1.2] * 20]
    found = paired_speedup(baseline, [[1.0] * 20] * 2, np.random.default_rng(0))
    assert (found.low, found.high) == pytest.approx((1.0, 1.2))


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        ([], [], "at least one process"),
        ([[1.0]], [[1.0, 2.0]], "equally many times.*1 and 2"),
        ([[]], [[]], "at least one, found 0"),
        ([[1.0]], [[0.0]], "positive times, found 0.0"),
    ],
)
def test_times_that_do_not_pair_are_refused(baseline: Any, candidate: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_speedup(baseline, candidate, np.random.default_rng(0))


def test_jit_against_itself_in_both_allocators() -> None:
    options = AbOptions("encoder", candidate="jit", rounds=2, accuracy_inputs=1)
    lines: list[str] = []
    report = ab.run_ab(["encoder"], [0], options, repeats=1, say=lines.append)
    assert report.failures == [] and report.passed
    assert [row.allocator for row in report.rows] == ["stock", "page-keeping"] and len(lines) == 2
    for row in report.rows:
        assert row.pairs == 2 and row.candidate_ms > 0 and row.alone_ms > 0 and row.baseline_compile_s[0] > 0
        assert row.accuracy["candidate"] == row.accuracy["baseline"] > 0


def test_processes_alternate_between_allocators_and_errors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, int, int]] = []

    def broken(contest: Contest) -> None:
        seen.append((contest.allocator, contest.row, contest.seed, contest.accuracy_inputs))
        raise SessionError("stopped here")

    monkeypatch.setattr(ab, "hold", broken)
    found = ab._run_case(AbOptions("encoder"), repeats=2, timeout_s=1.0, say=lambda text: None)
    modes = ["stock", "page-keeping", "page-keeping", "stock"]
    assert seen == [(mode, "encoder", n // 2, 2 - 2 * (n // 2)) for n, mode in enumerate(modes)]
    assert found == {name: ["stopped here"] * 2 for name in ("stock", "page-keeping")}


def test_failing_model_is_reported() -> None:
    found = ab._contest(AbOptions("no-such-model"), "stock", timeout_s=60.0)
    assert isinstance(found, str) and "no-such-model" in found


def test_slow_model_is_ended() -> None:
    start = time.perf_counter()
    found = ab._contest(AbOptions("resnet50"), "stock", timeout_s=0.1)
    assert found == "no reply within 0 s" and time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("errors", "accurate", "worst"),
    [
        ([1e-6, 3e-6], True, 3e-6),
        ([5e-6, 1e-6], False, 5e-6),
        ([5e-6, float("nan")], False, float("nan")),
    ],
)
def test_worst_output_decides_about_accuracy(errors: list[float], accurate: bool, worst: float) -> None:
    row = merge(result([GOOD]), result([{**GOOD, "candidate": error} for error in errors]))
    assert row.accurate is accurate
    assert row.accuracy["candidate"] == pytest.approx(worst, nan_ok=True)


def test_row_without_accuracy_does_not_pass() -> None:
    assert not ab.AbReport({}, "tilewright", [merge(result([]))], []).passed
    assert ab.AbReport({}, "tilewright", [merge(result([GOOD]))], []).passed
    failed = [ab.AbFailure("m", 1, "stock", "error")]
    assert not ab.AbReport({}, "tilewright", [merge(result([GOOD]))], failed).passed


def test_report_and_demonstration_say_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [merge(result([GOOD])), merge(result([{**GOOD, "candidate": 1.0}], candidate_ms=4.0))]
    report = ab.AbReport({}, "tilewright", rows, [ab.AbFailure("m", 0, "stock", "[boom]")])
    console = Console(file=io.StringIO(), width=200)
    demo.show(report, console)
    table, text = capsys.readouterr().out, console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "2.000 [2.000, 2.000]" in table and "BROKEN" in table and "[boom]" in table
    assert "2.00 times faster" in text and "2.00 times slower" in text and "because [fused]" in text


@pytest.mark.parametrize(
    "arguments", [["--models", "x"], ["--effort", "4"], ["--rounds", "0"], ["--accuracy-inputs", "0"]]
)
def test_bad_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        ab.main(arguments)
    assert stopped.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_machine_limits_are_plausible() -> None:
    target = dataclasses.replace(detect_target(), l3_bytes=2**20)
    limits = measure_limits(target)
    assert limits.threads == target.threads and limits.vector_bits == target.vector_bits
    for field in dataclasses.fields(limits):
        assert getattr(limits, field.name) > 0.1, field.name
    assert limits.fma_gflops_one < 2000 and limits.read_gbs_one < 2000
    assert limits.l2_gbs_one > limits.read_gbs_one / 2
    measured = limits.applied_to(target)
    assert measured.fingerprint == target.fingerprint and measured.bandwidth_gbs == limits.read_gbs_all
