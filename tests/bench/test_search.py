"""The comparison of strategies: its table of latencies, its searches on it, its statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from search_fakes import TARGET, bowl, sketch, task

from tilewright.bench import search
from tilewright.bench.random_search import RandomSearch
from tilewright.bench.search_contestants import CONTESTANTS
from tilewright.bench.search_oracle import LANES, RACES, Oracle, OutOfTimeError, trace_digest
from tilewright.bench.search_plot import draw
from tilewright.bench.search_report import (
    SearchReport,
    WorkloadCurves,
    compared,
    mean_slowdown,
    slowdowns,
    table_text,
)
from tilewright.bench.search_runs import run_search
from tilewright.ir.measure import MeasureData, MeasureRequest, MeasureResult, TimingProtocol
from tilewright.search import space as space_module
from tilewright.search.space import Candidate, SearchSpace

TIMING = TimingProtocol(2, quick_repeats=3, repeats=5)


@dataclass(slots=True)
class DriftingRunner:
    """Latencies by code, on a machine that becomes slower with every race."""

    latency: dict[bytes, float] = field(default_factory=dict)
    fails: set[bytes] = field(default_factory=set)
    races: list[int] = field(default_factory=list)

    def measure(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        self.races.append(len(requests))
        drift = 1.0 + 0.3 * len(self.races)
        results = []
        for request in requests:
            code = request.kernel.object_code
            seconds = self.latency.setdefault(code, 1e-5 * (1 + len(self.latency))) * drift
            ok = code not in self.fails
            results.append(MeasureResult("ok", (seconds,) * timing.repeats) if ok else MeasureResult("crash"))
        return results


def oracle(folder: Path, runner: DriftingRunner, deadline: float = float("inf")) -> Oracle:
    return Oracle(task(), space(), runner, folder / "table.json", TIMING, deadline)


def space() -> SearchSpace:
    return SearchSpace(task().func, TARGET, [sketch((1, 2, 4))])


def candidates() -> list[Candidate]:
    return list(space().enumerate())


# ---- the table


def test_latencies_do_not_depend_on_when_they_were_measured(tmp_path: Path) -> None:
    runner = DriftingRunner()
    own = oracle(tmp_path, runner)
    everyone = candidates()
    found = own.latencies(everyone)
    assert len(everyone) > LANES, "several races"
    default_s = own.table.default_s
    assert default_s == pytest.approx(1.3e-5), "the default, measured alone in the first race"
    codes = [own.kernel(c).object_code for c in everyone]
    assert found == pytest.approx([1.3 * runner.latency[code] for code in codes], rel=1e-4)
    assert own.best_s == min(found) and own.repeatability == pytest.approx(0.0, abs=1e-5)


def test_settling_gives_every_candidate_its_races(tmp_path: Path) -> None:
    runner = DriftingRunner()
    own = oracle(tmp_path, runner)
    everyone = candidates()
    found = own.latencies(everyone)
    assert {len(row.ratios) for row in own.table.rows.values()} == {1} and len(own.unsettled) == len(everyone)
    own.settle()
    assert {len(row.ratios) for row in own.table.rows.values()} == {RACES} and not own.unsettled
    assert own.latencies(everyone) == pytest.approx(found, rel=1e-4)
    assert len(runner.races) == 1 + RACES * -(-len(everyone) // LANES)


def test_the_median_race_counts(tmp_path: Path) -> None:
    own = oracle(tmp_path, DriftingRunner())
    (candidate,) = candidates()[:1]
    own.latencies([candidate])
    digest = trace_digest(candidate)
    own.table.rows[digest] = own.table.rows[digest].model_copy(update={"ratios": (0.5, 0.9, 1.1)})
    assert own.latencies([candidate]) == [own.table.default_s * 0.9]
    assert own.repeatability == pytest.approx(0.2 / 0.9)


def test_failures_are_infinite_and_kept(tmp_path: Path) -> None:
    runner = DriftingRunner()
    own = oracle(tmp_path, runner)
    good, bad = [c for c in candidates() if c != own.default][:2]
    runner.fails.add(own.kernel(bad).object_code)
    found = own.latencies([good, bad])
    assert np.isfinite(found[0]) and found[1] == float("inf")
    assert oracle(tmp_path, runner).table.rows[trace_digest(bad)].status == "crash"


def test_ends_in_time_and_goes_on_later(tmp_path: Path) -> None:
    runner = DriftingRunner()
    late = oracle(tmp_path, runner, deadline=0.0)
    with pytest.raises(OutOfTimeError, match="no time left for 1 candidates"):
        late.latencies(candidates()[:1])
    own = oracle(tmp_path, runner)
    some = candidates()[:3]
    own.latencies(some)
    assert oracle(tmp_path, runner, deadline=0.0).latencies(some) == own.latencies(some)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "expected a table of latencies"),
        (lambda text: json.dumps({**json.loads(text), "extra": 1}), "expected a table of latencies"),
        (lambda text: json.dumps({**json.loads(text), "format": "another"}), "expected a table of latencies"),
        (lambda text: json.dumps({**json.loads(text), "target": "elsewhere"}), "other ground"),
        (lambda text: json.dumps({**json.loads(text), "schedule_version": 0}), "other ground"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: object, message: str) -> None:
    own = oracle(tmp_path, DriftingRunner())
    own.latencies(candidates()[:1])
    path = tmp_path / "table.json"
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        oracle(tmp_path, DriftingRunner())


# ---- searches


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only sketch is that of the fakes."""
    monkeypatch.setattr(space_module, "sketches", lambda func, target: (sketch(),))


def lookup(found: Sequence[Candidate]) -> list[float]:
    return [bowl(c.key) for c in found]


@pytest.mark.parametrize("name", list(CONTESTANTS))
@pytest.mark.usefixtures("tiles")
def test_a_search_tries_every_candidate_once(name: str) -> None:
    run = run_search(task(), CONTESTANTS[name], lookup, trials=100, batch=8, seed=0)
    assert len(run.latencies) == 36 and min(s for s in run.latencies if s is not None) == pytest.approx(10e-6)
    assert run.latencies[0] == pytest.approx((10 + 3 * 3 + 2 * 4) * 1e-6), "the default comes first"
    assert run.asking_s > 0
    again = run_search(task(), CONTESTANTS[name], lookup, trials=20, batch=8, seed=0)
    assert again.latencies == run.latencies[:20], "a longer search begins like a shorter one"


@pytest.mark.usefixtures("tiles")
def test_failures_are_part_of_a_run() -> None:
    run = run_search(
        task(), CONTESTANTS["random"], lambda found: [float("inf")] * len(found), trials=9, batch=8, seed=0
    )
    assert run.latencies == (None,) * 9


@pytest.mark.usefixtures("tiles")
def test_what_the_table_raises_comes_through() -> None:
    def broken(found: Sequence[Candidate]) -> list[float]:
        raise OutOfTimeError("no time left")

    with pytest.raises(OutOfTimeError, match="no time left"):
        run_search(task(), lambda s, _, g: RandomSearch(s, g), broken, trials=9, batch=8, seed=0)


# ---- statistics


def report(**runs: list[list[float | None]]) -> SearchReport:
    curves = WorkloadCurves(
        name="w",
        points=100,
        distinct=None,
        measured=9,
        failures=1,
        default_us=30.0,
        best_us=10.0,
        repeatability=0.01,
        runs=runs,
        asking_ms=dict.fromkeys(runs, 0.5),
    )
    return SearchReport(
        date="2026-01-01", machine="m", threads=2, versions={}, command="c", trials=8, batch=4, workloads=[curves] * 2
    )


def test_curves_never_rise_and_end_flat() -> None:
    found = report(a=[[None, 30.0, 20.0, 25.0, 10.0], [20.0]])
    curves = slowdowns(found.workloads[0], "a", 8)
    assert curves.tolist() == [[float("inf"), 3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], [2.0] * 8]


def test_means_are_geometric() -> None:
    found = report(a=[[10.0], [40.0]], b=[[20.0], [10.0]])
    assert mean_slowdown(found, "a", 8) == pytest.approx(2.0)
    assert compared(found, "a", "b", 8) == pytest.approx((2**0.5, 2**0.5, 2**0.5)), "both workloads are alike"


def test_the_table_shows_every_strategy_and_workload() -> None:
    text = table_text(report(a=[[10.0], [20.0]], b=[[11.0], [11.0]]))
    assert "| b        | 1.100    | 0.5             |" in text
    assert "| b        | 0.778 (0.778 to 0.778) |" in text
    assert "| w        | a        | 50.0 (25.0 to 75.0) |" in text
    assert "| w        | 100    | -        | 9        | 1      | 30.0       | 10.0    | 3.00  | 1.0%          |" in text


def test_a_report_survives_being_written() -> None:
    found = report(a=[[None, 10.0]])
    assert SearchReport.model_validate_json(found.model_dump_json()) == found


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(report(a=[[20.0, 10.0]], b=[[20.0, 15.0]]), tmp_path / "regret.svg")
    assert (tmp_path / "regret.svg").read_text().count(">w, 100 points<") == 2


# ---- the command


def test_the_command_searches_a_real_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--workloads", "softmax", "--trials", "8", "--seeds", "1", "--folder", str(tmp_path)]
    assert search.main([*words, "--minutes", "0"]) == 1
    assert "run it again" in capsys.readouterr().err
    assert search.main([*words, "--save", str(tmp_path / "samples.json")]) == 0
    assert "softmax" in capsys.readouterr().out
    found = SearchReport.model_validate_json((tmp_path / "report.json").read_text())
    assert set(found.workloads[0].runs) == set(CONTESTANTS)
    best = {min(us for us in run[0] if us is not None) for run in found.workloads[0].runs.values()}
    assert best == {found.workloads[0].best_us}, "all of them exhaust this space"
    assert (tmp_path / "samples.json").exists()


@pytest.mark.parametrize(("option", "value"), [("--workloads", "unknown"), ("--strategies", "mcts,genetic")])
def test_unknown_names_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search.parse_options([option, value])
    assert "expected some of" in capsys.readouterr().err
