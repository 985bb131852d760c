"""The machine's limits: how long an attempt is, and where its threads run."""

from __future__ import annotations

import os
import threading

import pytest

from tilewright.backends.measure import machine


@pytest.mark.parametrize("interrupted", [0, 1, 4])
def test_an_interruption_does_not_pass_for_work(interrupted: int) -> None:
    """Else a single repetition would be taken for enough, and the limit would be that of starting threads."""
    tries = iter(range(1000))

    def seconds(count: int) -> float:
        return count * 1e-6 + (0.1 if next(tries) == interrupted else 0.0)

    assert 5_000 <= machine._enough(seconds) <= 80_000


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system can't keep threads on cores")
def test_each_thread_has_a_core_of_its_own_and_the_caller_keeps_all() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    lock = threading.Lock()

    def note() -> None:
        with lock:
            seen.append(os.sched_getaffinity(0))

    machine._run([note] * len(before) if len(before) > 1 else [note, note])
    assert all(len(cores) == 1 for cores in seen)
    assert set.union(*seen) == before == os.sched_getaffinity(0)
