"""A report in a few numbers: families, means, and how ours stands to the best peer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import suite_samples as samples

from tilewright.bench.report import RowResult, SideResult, SuiteReport
from tilewright.bench.summary import Summary, by_family, peer_ratio, summaries
from tilewright.bench.table import table_text

ABSENT = SideResult(name="tvm", status="not installed", reason="no tvm")


def of_family(row: RowResult, family: str) -> RowResult:
    return row.model_copy(update={"family": family})


@pytest.fixture
def report() -> SuiteReport:
    rows = [
        of_family(samples.row("a", samples.side("effort 1", 2.0), samples.side("torch", 4.0), ABSENT), "memory"),
        of_family(samples.row("b", samples.side("effort 1", 8.0), samples.side("torch", 4.0), ABSENT), "stencil"),
        of_family(samples.row("c", samples.side("effort 1", 0.5), ABSENT), "memory"),
        of_family(samples.failed("d"), "memory"),
    ]
    return samples.report(*rows, peers=["torch", "tvm"])


def found(report: SuiteReport, family: str) -> Summary:
    (summary,) = [s for s in summaries(report) if (s.family, s.allocator) == (family, "stock")]
    return summary


def test_families_have_geometric_means_medians_and_slower_rows(report: SuiteReport) -> None:
    every, memory, stencil = (found(report, family) for family in ("all rows", "memory", "stencil"))
    assert every.mean == pytest.approx(2.0) and every.median == 2.0 and every.lowest == 0.5 and every.slower == 1
    assert memory.speedups == (2.0, 0.5) and memory.mean == pytest.approx(1.0)
    assert stencil.speedups == (8.0,) and stencil.slower == 0
    assert [s.effort for s in summaries(report)] == ["effort 1"] * 6  # effort 0 has no results


def test_only_a_speedup_below_the_noise_counts_as_slower() -> None:
    assert [Summary("f", "stock", "effort 0", (value,), ()).slower for value in (0.96, 0.97, 1.0)] == [1, 0, 0]


def test_peers_are_compared_where_one_was_measured(report: SuiteReport) -> None:
    every = found(report, "all rows")
    assert every.peer_ratios == (0.5, 2.0) and every.ahead == 1
    assert every.peers_text() == "1 of 2, lowest 0.50x"
    assert found(report, "memory").peers_text() == "0 of 1, lowest 0.50x"


def test_the_fastest_peer_counts() -> None:
    ours = samples.side("effort 1", 3.0)
    (mode, _) = samples.row("a", ours, samples.side("torch", 2.0), samples.side("openvino", 6.0)).modes
    assert peer_ratio(mode, ours) == 0.5
    (alone, _) = samples.row("a", samples.side("effort 0", 9.0), ours).modes
    assert peer_ratio(alone, ours) is None  # another effort of ours is no peer


def test_rows_are_grouped_whatever_their_order(report: SuiteReport) -> None:
    assert [(family, [row.name for row in rows]) for family, rows in by_family(report)] == [
        ("memory", ["a", "c", "d"]),
        ("stencil", ["b"]),
    ]
    one = samples.report(samples.row("a"), samples.row("b"))
    assert [(family, len(rows)) for family, rows in by_family(one)] == [("", 2)]


def test_table_shows_groups_and_means(report: SuiteReport) -> None:
    text = table_text(report)
    assert text.index("-- memory --") < text.index(" c ") < text.index("-- stencil --") < text.index(" b ")
    line = next(line for line in text.splitlines() if "effort 1" in line and "all rows" in line)
    assert all(part in line for part in ("stock", " 3 ", "2.00x", "0.50x", "1 of 2, lowest 0.50x"))


def test_page_shows_groups_and_means(report: SuiteReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tilewright.bench.html import write_html

    path = tmp_path / "r.html"
    write_html(report, path)
    text = path.read_text()
    assert "By family" in text and text.count("ahead of the best peer on 1 of 2, lowest 0.50x") == 2
    assert text.index('<td colspan="11">memory</td>') < text.index('<td colspan="11">stencil</td>')


def test_report_without_results_has_no_summary() -> None:
    assert summaries(samples.report(samples.failed("a"))) == []
    assert not math.isnan(found(samples.report(samples.row("a", samples.side("effort 1", 1.5))), "all rows").mean)
