"""How calls are timed and in which order sides take turns."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from tilewright.bench import timing
from tilewright.bench.timing import Stopwatch, turns


def test_every_side_is_timed_once_a_round_and_every_second_round_is_reversed() -> None:
    found = turns("abcd", 41, np.random.default_rng(0))
    assert len(found) == 41 and all(sorted(order) == list("abcd") for order in found)
    assert all(found[n] == found[n + 1][::-1] for n in range(0, 40, 2))
    assert len({tuple(order) for order in found}) > 8


def test_long_calls_are_timed_one_by_one_and_short_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    calls: list[int] = []
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)

    def lasting(nanoseconds: int) -> None:
        nonlocal now
        now += nanoseconds
        calls.append(nanoseconds)

    watch = Stopwatch()
    assert [watch.sample(lambda: lasting(5_000_000)) for _ in range(2)] == [5.0, 5.0]
    assert len(calls) == 2
    short = Stopwatch()
    assert short.sample(lambda: lasting(1_000)) == 0.001
    before = len(calls)
    assert short.sample(lambda: lasting(1_000)) == pytest.approx(0.001)
    settling = len(calls) - before - timing._MOST_CALLS
    assert settling * 1_000 == timing._SETTLED_MS * 1e6


def test_garbage_is_collected_outside_of_the_time() -> None:
    seen: list[bool] = []
    assert gc.isenabled()
    Stopwatch().sample(lambda: seen.append(gc.isenabled()))
    assert seen == [False] and gc.isenabled()


def test_failing_call_leaves_the_collector_on() -> None:
    with pytest.raises(ZeroDivisionError):
        Stopwatch().sample(lambda: 1 / 0)
    assert gc.isenabled()
