"""Verdicts of the regression gate on made-up runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import suite_samples as samples

from tilewright.bench.compare import compare, comparison_text
from tilewright.bench.paired import paired_speedup
from tilewright.bench.report import Interval, SuiteReport


def run(speedup: float, width: float = 0.01, **changes: object) -> SuiteReport:
    return samples.report(samples.row("gelu", samples.side("effort 1", speedup, width, **changes)))  # pyright: ignore


def verdict(before: SuiteReport, after: SuiteReport) -> str:
    found = {change.verdict for change in compare(before, after).changes}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("before", "after", "width", "expected"),
    [
        (2.0, 2.0, 0.01, "same"),
        (2.0, 1.5, 0.01, "slower"),
        (2.0, 2.6, 0.01, "faster"),
        (2.0, 1.5, 0.5, "undecided"),
        (2.0, 2.0, 0.2, "undecided"),
        (2.0, 1.96, 0.001, "same"),  # surely slower, but by less than counts
        (2.0, 1.88, 0.02, "slower"),
        (2.0, 1.88, 0.06, "undecided"),
    ],
)
def test_verdict(before: float, after: float, width: float, expected: str) -> None:
    assert verdict(run(before, width), run(after, width)) == expected


def test_faster_and_slower_mirror_each_other() -> None:
    forth, back = compare(run(2.0), run(3.0)), compare(run(3.0), run(2.0))
    for one, other in zip(forth.changes, back.changes, strict=True):
        assert (one.verdict, other.verdict) == ("faster", "slower")
        assert one.ratio is not None and other.ratio is not None
        assert one.ratio.median * other.ratio.median == pytest.approx(1.0)
        assert one.ratio.low * other.ratio.high == pytest.approx(1.0)


def measured(rng: np.random.Generator, speedup: float, state: float, spread: float = 0.01) -> SuiteReport:
    """A run on a machine in some state, with 6% noise per call and some per process."""
    baseline, ours = [], []
    for _ in range(2):
        drift = state * rng.uniform(0.9, 1.1, 30)
        process = math.exp(rng.normal(0.0, spread))
        baseline.append((10.0 * drift * rng.normal(1.0, 0.06, 30)).tolist())
        ours.append((10.0 / speedup * process * drift * rng.normal(1.0, 0.06, 30)).tolist())
    found = paired_speedup(baseline, ours, rng)
    interval = Interval(median=found.median, low=found.low, high=found.high)
    side = samples.side("effort 1").model_copy(update={"speedup": interval, "times_ms": ours})
    row = samples.row("gelu", side)
    stock = row.modes[0].model_copy(update={"sides": [samples.side("jit"), side]})
    stock.sides[0] = stock.sides[0].model_copy(update={"times_ms": baseline})
    return samples.report(row.model_copy(update={"modes": [stock]}))


def test_gate_on_noisy_runs_in_different_states() -> None:
    rng = np.random.default_rng(0)
    verdicts = {"equal": [], "slower": []}
    for _ in range(12):
        before = measured(rng, 3.0, state=1.0)
        verdicts["equal"].append(compare(before, measured(rng, 3.0, state=2.0)).changes[0].verdict)
        verdicts["slower"].append(compare(before, measured(rng, 2.4, state=2.0)).changes[0].verdict)
    assert verdicts["equal"].count("slower") + verdicts["equal"].count("faster") <= 1
    assert verdicts["slower"].count("slower") >= 11


def test_processes_that_differ_do_not_make_a_regression() -> None:
    rng = np.random.default_rng(1)
    verdicts = [
        compare(measured(rng, 3.0, 1.0, spread=0.2), measured(rng, 3.0, 1.0, spread=0.2)).changes[0].verdict
        for _ in range(40)
    ]
    assert verdicts.count("slower") + verdicts.count("faster") <= 4
    assert compare(measured(rng, 3.0, 1.0, spread=0.2), measured(rng, 0.5, 1.0, spread=0.2)).regressed


def test_one_process_of_each_kind_leaves_doubt() -> None:
    def alone(speedup: float) -> SuiteReport:
        side = samples.side("effort 1", speedup).model_copy(update={"times_ms": [[10.0 / speedup] * 4]})
        row = samples.row("gelu", side)
        for mode in row.modes:
            mode.sides[0] = mode.sides[0].model_copy(update={"times_ms": [[10.0] * 4]})
        return samples.report(row)

    assert verdict(alone(2.0), alone(1.85)) == "undecided"
    assert verdict(alone(2.0), alone(1.6)) == "slower"


def test_side_that_is_gone_is_missing_and_a_regression() -> None:
    before = run(2.0)
    gone = samples.report(samples.row("gelu"))
    other = samples.report(samples.row("sort", samples.side("effort 1")))
    failed = samples.report(samples.failed("gelu", "no reply"))
    broken = run(2.0, error=samples.BAD)
    for after, reason in ((gone, "no effort 1"), (other, "no such row"), (failed, "no reply"), (broken, "contract")):
        found = compare(before, after)
        assert found.regressed and {c.verdict for c in found.changes} == {"missing"}
        assert all(reason in change.reason for change in found.changes)
        assert "REGRESSED" in comparison_text(found)


def test_new_rows_are_no_regression() -> None:
    before = run(2.0)
    after = samples.report(*before.rows, samples.row("sort", samples.side("effort 1", 0.1)))
    assert not compare(before, after).regressed


def test_text_puts_regressions_first_and_names_differences() -> None:
    before = samples.report(
        samples.row("gelu", samples.side("effort 1", 2.0)), samples.row("sort", samples.side("effort 1", 2.0))
    )
    after = samples.report(
        samples.row("gelu", samples.side("effort 1", 2.0)), samples.row("sort", samples.side("effort 1", 1.0))
    )
    after = after.model_copy(update={"machine": samples.machine(versions={"jax": "0.11"})})
    lines = comparison_text(compare(before, after)).splitlines()
    assert lines[0] == "note: jax differs: 0.10.2 and 0.11"
    assert lines[1].split()[:2] == ["slower", "sort"] and "0.500x as fast [0.4" in lines[1]
    assert lines[3].split()[:2] == ["same", "gelu"]
    assert lines[-2:] == ["2 slower, 2 same; changes up to 1.05x count as none", "REGRESSED"]


def test_other_suites_and_margins_are_refused() -> None:
    other = run(2.0)
    other = other.model_copy(update={"options": other.options.model_copy(update={"suite": "models"})})
    with pytest.raises(ValueError, match="one suite, found kernels and models"):
        compare(run(2.0), other)
    with pytest.raises(ValueError, match="margin: expected a factor above 1, found 1"):
        compare(run(2.0), run(2.0), margin=1)
