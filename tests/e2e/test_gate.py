"""Which of two programs is faster, told from paired times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from tilewright.driver import gate
from tilewright.driver.gate import PAIRS, Comparison, compare_speed


class Programs:
    """Two programs on a clock of their own.

    Args:
        native: seconds of our calls, repeated for ever.
        baseline: seconds of the other's.
    """

    def __init__(self, native: list[float], baseline: list[float]) -> None:
        self.now = 0.0
        self.calls = {"native": 0, "baseline": 0}
        self._times: dict[str, Iterator[float]] = {
            "native": itertools.cycle(native),
            "baseline": itertools.cycle(baseline),
        }

    def perf_counter(self) -> float:
        return self.now

    def compare(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 1e9, rounds: int = 1) -> Comparison:
        monkeypatch.setattr(gate, "time", self)
        return compare_speed(self._program("native"), self._program("baseline"), (), seconds, rounds)

    def _program(self, name: str):  # a function without arguments
        def run() -> tuple[()]:
            self.now += next(self._times[name])
            self.calls[name] += 1
            return ()

        return run


def test_times_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Programs([1.0], [1.5]).compare(monkeypatch)
    assert comparison.native_s == (1.0,) * PAIRS
    assert comparison.baseline_s == (1.5,) * PAIRS
    assert comparison.speedup == comparison.lower_bound == 1.5
    assert not comparison.open


def test_another_round_begins_only_while_the_faster_one_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Programs([1.0], [1.1]).compare(monkeypatch, rounds=4).native_s) == PAIRS
    assert len(Programs([1.1], [1.0]).compare(monkeypatch, rounds=4).native_s) == PAIRS
    equal = Programs([1.0, 1.1, 1.0], [1.1, 1.0, 1.0, 1.05])
    comparison = equal.compare(monkeypatch, rounds=4)
    assert comparison.open
    assert len(comparison.native_s) == 4 * PAIRS


def test_it_ends_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Programs([1.0], [1.0]).compare(monkeypatch, seconds=20.0, rounds=4)
    assert gate.MIN_PAIRS <= len(comparison.native_s) == 11


def test_short_programs_are_called_several_times_for_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs([10e-6], [20e-6])
    comparison = programs.compare(monkeypatch)
    assert comparison.speedup == pytest.approx(2.0)
    assert programs.calls["native"] == programs.calls["baseline"] == gate.WARM_UP + 5 * PAIRS


def test_of_a_baseline_that_is_slow_every_other_time_the_average_counts() -> None:
    two_ways = Comparison((6.8e-6, 30e-6) * 40, (7.2e-6,) * 80)
    assert two_ways.lower_bound < 1.0 < two_ways.mean_bound
    assert two_ways.gains and not two_ways.open
    assert two_ways.speedup == pytest.approx((6.8 * 30) ** 0.5 / 7.2)
    few = Comparison((6.8e-6, 30e-6, 6.8e-6), (7.2e-6,) * 3)
    assert not few.gains and few.open


def test_slower_in_the_middle_is_no_gain_whatever_the_average() -> None:
    comparison = Comparison((1.0,) * 60 + (9.0,) * 20, (1.1,) * 80)
    assert comparison.mean_bound > 1.0 > comparison.upper_bound
    assert not comparison.gains and not comparison.open


def test_now_and_then_far_slower_is_no_gain_however_fast_it_is_in_the_middle() -> None:
    usual = (1.0,) * 80
    assert Comparison(usual, (0.5,) * 80).gains
    assert Comparison(usual, (0.5,) * 78 + (20.0,) * 2).gains, "two interruptions of 80 say nothing"
    stalling = Comparison(usual, (0.5,) * 74 + (20.0,) * 6)
    assert stalling.lower_bound > 1.9 and stalling.stalls and not stalling.gains
    both = Comparison((*usual[6:], *(20.0,) * 6), (0.5,) * 74 + (20.0,) * 6)
    assert both.gains and not both.stalls


@pytest.mark.parametrize("name", ["normal", "spikes"])
def test_noise_hardly_ever_stalls(name: str) -> None:
    rng = np.random.default_rng(1)
    times = 1e-6 * np.exp(NOISE[name](rng, (200, 2, 4 * PAIRS)))
    assert sum(Comparison(tuple(a), tuple(b / 1.05)).stalls for a, b in times) <= 2


NOISE = {
    "normal": lambda rng, shape: 0.2 * rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: 0.1 * rng.standard_t(1.5, shape),
    "two ways": lambda rng, shape: 1.5 * (rng.random(shape) < 0.4),
    "spikes": lambda rng, shape: 0.01 * rng.standard_normal(shape) + 2.0 * (rng.random(shape) < 0.03),
}


@pytest.mark.parametrize("name", NOISE)
def test_equal_programs_hardly_ever_gain(name: str) -> None:
    """Over all rounds the median is looked at four times, which is what lets some through; the mean adds hardly any."""
    rng = np.random.default_rng(0)
    gains = by_mean = 0
    for _ in range(500):
        times = 1e-6 * np.exp(NOISE[name](rng, (2, 4 * PAIRS)))
        looks = [Comparison(*(tuple(side[: count * PAIRS]) for side in times)) for count in range(1, 5)]
        last = next((look for look in looks if not look.open), looks[-1])
        gains += last.gains
        by_mean += last.gains and last.lower_bound <= 1.0
    assert gains < 90 and by_mean <= 5
