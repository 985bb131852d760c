"""Reports as files and texts: round trip, damaged and hostile files, table, page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import suite_samples as samples

from tilewright.bench import __main__ as front
from tilewright.bench.messages import Error
from tilewright.bench.report import ReportError, SideResult, SuiteReport, load_report
from tilewright.bench.table import table_text

MISSING = SideResult(name="tvm", status="not installed", reason="no tvm: pip install 'tilewright[tvm]'")


@pytest.fixture
def report() -> SuiteReport:
    worst = Error(candidate=math.nan, baseline=0.0, scale=math.inf, epsilon=0.0, limit=0.0)
    return samples.report(
        samples.row("softmax", samples.side("effort 0", 0.9), samples.side("effort 1", 2.0, ran="xla"), MISSING),
        samples.row("gelu", samples.side("effort 0", 1.5, error=worst), samples.side("effort 1", 30.0), MISSING),
        samples.failed("sort"),
        peers=["tvm"],
    )


def test_json_round_trip(tmp_path: Path, report: SuiteReport) -> None:
    path = tmp_path / "r.json"
    report.save(path)
    found = load_report(path)
    assert found.model_dump_json() == report.model_dump_json()
    nan = found.rows[1].modes[0].sides[1].errors[0]
    assert math.isnan(nan.candidate) and math.isinf(nan.scale) and not nan.holds
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_pass_needs_every_row_and_the_contract(report: SuiteReport) -> None:
    assert not report.passed
    good = samples.report(samples.row("gelu", samples.side("effort 1", 0.5), MISSING))
    assert good.passed  # slower, or without a peer, is no failure
    bad = samples.report(samples.row("gelu", samples.side("effort 1", error=samples.BAD)))
    assert not bad.passed
    lost = samples.report(samples.row("gelu", SideResult(name="effort 1", status="failed", reason="crash")))
    assert not lost.passed


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 2),
        (("extra",), 1),
        (("options", "suite"), "x"),
        (("options", "accuracy_inputs"), 10**9),
        (("machine", "peak_gflops"), 0),
        (("machine", "memory_gbs"), "Infinity"),
        (("machine", "versions"), ["jax"]),
        (("rows",), None),
        (("rows", 0, "seconds"), -1),
        (("rows", 0, "modes", 0, "sides", 0, "times_ms"), [[0.0]]),
        (("rows", 0, "modes", 0, "sides", 0, "times_ms"), [["NaN"]]),
        (("rows", 0, "modes", 0, "sides", 0, "status"), "__import__('os')"),
        (("rows", 0, "modes", 0, "sides", 1, "speedup", "low"), -1.0),
    ],
)
def test_hostile_values_are_refused(tmp_path: Path, report: SuiteReport, place: tuple[str | int, ...], value) -> None:
    data = json.loads(report.model_dump_json())
    inner = data
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ReportError, match=re.escape(str(path)) + ".*found in .*make it anew"):
        load_report(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_files_that_are_no_reports_are_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text)
    with pytest.raises(ReportError, match="expected a report"):
        load_report(path)


def test_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"absent\.json: can't be read: No such file"):
        load_report(tmp_path / "absent.json")
    with pytest.raises(ReportError, match="can't be read: Is a directory"):
        load_report(tmp_path)


def test_table_has_every_row_side_and_reason(report: SuiteReport) -> None:
    text = table_text(report)
    for part in ("softmax", "gelu", "sort", "effort 0", "effort 1 (xla)", "2.00x [1.98, 2.02]", "BROKEN", "40-80"):
        assert part in text, part
    assert "tvm (not installed)" in text and text.count("pip install 'tilewright[tvm]'") == 1
    assert "tvm: not installed (softmax, gelu): no tvm" in text and "FAILED sort: it <burned>" in text
    # 1e9 operations and 1e8 bytes in 5 ms; 1e8 bytes at 50 GB/s are 2 ms.
    line = next(line for line in text.splitlines() if "effort 1 (xla)" in line)
    assert " 5 " in line and " 200 " in line and " 20 " in line and "2.5x" in line


def test_page_has_every_row_figure_and_detail(tmp_path: Path, report: SuiteReport) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from tilewright.bench.html import write_html

    path = tmp_path / "r.html"
    write_html(report, path)
    text = path.read_text()
    table = text[text.rindex("<tbody>") : text.rindex("</tbody>")]
    for row in report.rows:
        assert f"<td>{row.name}</td>" in table
    assert text.count("<svg") == 3  # bars, and a roofline per allocator mode
    bars = text[text.index("<svg") : text.index("</svg>")]
    assert all(f">{name}</text>" in bars for name in ("softmax", "gelu"))
    assert "not installed: no tvm" in table and "failed: see below" in table
    assert "it &lt;burned&gt;" in text and "why &lt;effort 1&gt;" in text and "a &lt;processor&gt; &amp; more" in text
    assert "<burned>" not in text
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import|<script""", text)  # nothing to load
    assert not re.search(r"#(?:0[0-9a-f]){3}\b", text)  # every stand-in colour became a variable


def test_page_of_failures_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tilewright.bench.html import write_html

    write_html(samples.report(samples.failed("sort")), tmp_path / "r.html")
    assert "<svg" not in (tmp_path / "r.html").read_text()


def test_front_compares_and_says_what_is_wrong(
    tmp_path: Path, report: SuiteReport, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    samples.report(samples.row("gelu", samples.side("effort 1", 2.0))).save(before)
    samples.report(samples.row("gelu", samples.side("effort 1", 1.0))).save(after)
    assert front.main(["compare", str(before), str(before)]) == 0
    assert "no regression found" in capsys.readouterr().out
    assert front.main(["compare", str(before), str(after)]) == 1
    assert "slower" in capsys.readouterr().out
    assert front.main(["compare", str(before), str(tmp_path / "absent")]) == 2
    assert "error: " in capsys.readouterr().err
    assert front.main(["--rows", "nothing"]) == 2
    assert "expected some of matmul-512" in capsys.readouterr().err


@pytest.mark.parametrize("absent", ["jinja2", "matplotlib"])
def test_libraries_of_the_page_are_missed_before_anything_is_measured(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tilewright.bench.html.find_spec", lambda name: None if name == absent else object())
    monkeypatch.setattr(front, "run_suite", lambda *args, **options: pytest.fail("it measures"))
    assert front.main(["--rows", "gelu", "--html", str(tmp_path / "r.html")]) == 1
    assert f"--html needs {absent}; pip install 'tilewright[bench]'" in capsys.readouterr().err


def test_front_lists_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["--rows", "sort,gelu", "--list"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["gelu", "sort"] and "minutes" in captured.err
    assert front.main(["--rows", "gelu", "--efforts", "0", "--repeats", "1", "--timing", "0.1", "--list"]) == 0
    assert capsys.readouterr().err == "less than a minute\n"
