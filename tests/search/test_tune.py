"""Tuning on fakes: exact, seeded, in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from search_fakes import FakeDatabase, FakeRunner, bowl, build, factors, sketch, task

from tilewright.bench.random_search import RandomSearch
from tilewright.costmodel.dataset import TrainingData
from tilewright.costmodel.features import FEATURE_NAMES
from tilewright.costmodel.roofline import RooflineCostModel
from tilewright.ir.measure import MeasureResult, TimingProtocol
from tilewright.passes.schedule import ScheduleError
from tilewright.search import space as space_module
from tilewright.search.contest import TuneTask
from tilewright.search.space import Candidate
from tilewright.search.tune import Progress, SearchBudget, TuneResult, timing_of, tune_tasks


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only sketch is that of the fakes."""
    monkeypatch.setattr(space_module, "sketches", lambda func, target: (sketch(),))


def tune(tasks: list[TuneTask], runner: FakeRunner, budget: SearchBudget, **options: Any) -> TuneResult:
    options = {
        "database": None,
        "build": build,
        "rng": np.random.default_rng(0),
        "model": RooflineCostModel(),
        "builders": 1,
        "clock": runner.clock,
        **options,
    }
    return tune_tasks(tasks, runner, options.pop("database"), budget, **options)


def random_strategy(space: Any, ranker: Any, rng: np.random.Generator) -> RandomSearch:
    return RandomSearch(space, rng)


def test_same_seed_same_trials() -> None:
    runners = [FakeRunner(noise=0.05) for _ in range(2)]
    first, second = (tune([task()], r, SearchBudget(trials=20)) for r in runners)
    assert runners[0].requests == runners[1].requests
    assert first.outcomes[0].candidate == second.outcomes[0].candidate


def test_finds_the_minimum_of_an_exhausted_space() -> None:
    result = tune([task()], FakeRunner(), SearchBudget())
    outcome = result.outcomes[0]
    assert result.stopped == "exhausted"
    assert outcome.candidate is not None and factors(outcome.candidate.key) == (4, 16)
    assert outcome.trials == 36
    assert outcome.latency_s == pytest.approx(10e-6)
    assert outcome.speedup == pytest.approx((10 + 3 * 3 + 2 * 4) / 10)
    assert outcome.interval[0] > 1


def test_the_default_is_measured_first() -> None:
    runner = FakeRunner()
    tune([task()], runner, SearchBudget(trials=3))
    assert factors(runner.requests[0]) == (32, 1)


def test_noise_alone_never_replaces_the_default() -> None:
    for seed in range(5):
        runner = FakeRunner(latency=lambda key: 10e-6, noise=0.3, rng=np.random.default_rng(seed))
        outcome = tune([task()], runner, SearchBudget()).outcomes[0]
        assert outcome.speedup == 1.0
        assert outcome.candidate is not None and factors(outcome.candidate.key) == (32, 1)


@pytest.mark.parametrize("trials", [1, 2, 7, 8, 9, 30])
def test_trials_are_respected(trials: int) -> None:
    runner = FakeRunner()
    result = tune([task(), task(rows=32)], runner, SearchBudget(trials=trials))
    assert result.trials == trials == sum(o.trials for o in result.outcomes)
    assert result.stopped == "budget"


def test_seconds_are_respected() -> None:
    runner = FakeRunner(seconds_each=0.1)
    result = tune([task(rows=rows) for rows in (8, 16, 32, 64)], runner, SearchBudget(seconds=6.0))
    assert result.stopped == "budget"
    assert 3.0 < result.elapsed_s < 8.0


def test_heavy_tasks_get_more_trials() -> None:
    light, heavy = task(1.0, rows=64), task(50.0, rows=32)
    result = tune([light, heavy], FakeRunner(), SearchBudget(trials=40), strategy=random_strategy)
    assert result.outcomes[1].trials > result.outcomes[0].trials >= 4


def test_failures_are_counted_and_recorded_but_end_nothing() -> None:
    database = FakeDatabase()

    def latency(key: str) -> float | MeasureResult:
        return MeasureResult("crash", error="signal 11") if factors(key)[0] == 16 else bowl(key)

    def fragile(own: TuneTask, candidate: Candidate) -> Any:
        if factors(candidate.key)[1] == 8:
            raise ScheduleError("expected something else")
        if factors(candidate.key)[1] == 2:
            raise ZeroDivisionError("a bug")
        return build(own, candidate)

    result = tune([task()], FakeRunner(latency), SearchBudget(), build=fragile, database=database)
    outcome = result.outcomes[0]
    assert outcome.candidate is not None and factors(outcome.candidate.key) == (4, 16)
    assert outcome.failures == {"crash": 4, "rejected": 6, "compile_error": 6}
    assert outcome.rejections == {"tiles: expected something else": 6}
    statuses = [result.status for _, _, result in database.rows]
    assert (statuses.count("crash"), statuses.count("rejected"), statuses.count("compile_error")) == (4, 6, 6)
    assert len({trace for _, trace, _ in database.rows}) == 36


def test_a_broken_default_is_replaced_by_what_works() -> None:
    def latency(key: str) -> float | MeasureResult:
        return MeasureResult("wrong_result") if factors(key) == (32, 1) else bowl(key)

    outcome = tune([task()], FakeRunner(latency), SearchBudget()).outcomes[0]
    assert outcome.candidate is not None and factors(outcome.candidate.key) == (4, 16)
    assert outcome.default_s == float("inf") and outcome.speedup == 1.0


def test_nothing_works() -> None:
    outcome = tune([task()], FakeRunner(lambda key: MeasureResult("oom")), SearchBudget()).outcomes[0]
    assert outcome.candidate is None and outcome.kernel is None and outcome.source == "none"
    assert outcome.failures == {"oom": 36}


def test_interruption_keeps_the_best_so_far() -> None:
    def interrupt(call: int) -> None:
        if call == 6:
            raise KeyboardInterrupt

    runner = FakeRunner(before=interrupt)
    result = tune([task()], runner, SearchBudget(), strategy=random_strategy)
    assert result.stopped == "interrupted"
    outcome = result.outcomes[0]
    assert 8 <= outcome.trials < 36
    assert outcome.latency_s < 27e-6 and outcome.kernel is not None


def test_a_runner_that_fails_ends_the_search_with_a_reason() -> None:
    def fail(call: int) -> None:
        if call == 2:
            raise RuntimeError("no worker can be started")

    result = tune([task()], FakeRunner(before=fail), SearchBudget())
    assert result.stopped == "runner failed" and "no worker" in result.error
    assert result.outcomes[0].candidate is not None


@pytest.mark.parametrize("budget", [SearchBudget(trials=0), SearchBudget(seconds=0)], ids=["trials", "seconds"])
def test_database_only(budget: SearchBudget) -> None:
    database, known, unknown = FakeDatabase(), task(), task(rows=32)
    tune([known], FakeRunner(), SearchBudget(), database=database)
    runner = FakeRunner()
    result = tune([known, unknown], runner, budget, database=database)
    assert runner.calls == result.trials == 0
    first, second = result.outcomes
    assert first.source == "database" and first.candidate is not None and factors(first.candidate.key) == (4, 16)
    assert first.latency_s == pytest.approx(10e-6)
    assert second.source == "default" and second.candidate is not None and factors(second.candidate.key) == (32, 1)


def test_warm_start_measures_the_known_best_and_nothing_known_to_be_slower() -> None:
    database = FakeDatabase()
    tune([task()], FakeRunner(), SearchBudget(trials=20), database=database)
    before = database.best_traces(task().key, 100)
    runner = FakeRunner()
    result = tune([task()], runner, SearchBudget(), database=database)
    assert set(runner.requests) & {trace for trace, _ in before[2:]} <= {runner.requests[0]}
    assert before[0][0] in runner.requests
    assert result.outcomes[0].candidate is not None and factors(result.outcomes[0].candidate.key) == (4, 16)


def test_damaged_traces_in_the_database_are_refusals() -> None:
    database, own = FakeDatabase(), task()
    database.rows.append((own.key, '["nonsense"]', MeasureResult("ok", (1e-6,))))
    result = tune([own], FakeRunner(), SearchBudget(trials=2), database=database)
    assert any(reason.startswith("database:") for reason in result.outcomes[0].rejections)
    assert result.outcomes[0].candidate is not None


def test_progress_is_reported() -> None:
    seen: list[Progress] = []
    tune([task()], FakeRunner(), SearchBudget(trials=24), progress=seen.append)
    assert [p.trials for p in seen] == sorted({p.trials for p in seen})
    assert seen[-1].now_s <= seen[0].now_s <= seen[0].default_s


class RecordingModel(RooflineCostModel):
    """Remembers what it was trained on."""

    def __init__(self) -> None:
        self.fits: list[tuple[np.ndarray, np.ndarray]] = []

    def fit(self, features: np.ndarray, latency: np.ndarray, group: np.ndarray) -> None:
        self.fits.append((latency, group))


def test_the_model_learns_from_this_run_and_from_earlier_ones() -> None:
    model = RecordingModel()
    features = np.zeros((3, len(FEATURE_NAMES)), np.float32)
    history = TrainingData(features, np.array([1.0, 2.0, 3.0]), np.array([0, 0, 4]))
    tune([task()], FakeRunner(), SearchBudget(trials=20), model=model, history=history)
    assert model.fits[0][0].tolist() == [1.0, 2.0, 3.0]
    latency, group = model.fits[-1]
    assert len(latency) == 23 and latency[:3].tolist() == [1.0, 2.0, 3.0]
    assert group.tolist() == [0, 0, 4, *[5] * 20]


def test_no_tasks() -> None:
    assert tune([], FakeRunner(), SearchBudget(seconds=1.0)).outcomes == ()


def test_building_in_threads_gives_the_same_choice() -> None:
    outcome = tune([task()], FakeRunner(), SearchBudget(), builders=3).outcomes[0]
    assert outcome.candidate is not None and factors(outcome.candidate.key) == (4, 16)


@pytest.mark.parametrize(("l3_bytes", "cache"), [(256 << 10, "warm"), ((256 << 10) - 1, "rotate")])
def test_workloads_that_fill_the_last_cache_are_timed_on_changing_buffers(l3_bytes: int, cache: str) -> None:
    workload = task(rows=64)  # 64 KB in, 64 KB out
    workload = replace(workload, target=replace(workload.target, l3_bytes=l3_bytes))
    timing = TimingProtocol(threads=2, repeats=9)
    assert timing_of(workload, timing) == replace(timing, cache=cache)
