"""The confidence interval that decides contests, and the scheduler's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.search.contest import chunk_count, median_interval
from tilewright.search.task_scheduler import TaskScheduler, TaskState


def test_interval_of_the_median_covers_it() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = median_interval(rng.lognormal(0, 0.5, 31).tolist())
        inside += low <= 1.0 <= high
    assert 0.93 <= inside / 400 <= 0.995


def test_few_samples_say_nothing() -> None:
    assert median_interval([1.0, 1.1, 0.9]) == (-np.inf, np.inf)
    assert median_interval([]) == (-np.inf, np.inf)


def test_known_interval() -> None:
    # Binomial(9, 1/2): P(X <= 1) = 10/512, so the second smallest and largest values hold 96%.
    assert median_interval([float(v) for v in range(1, 10)]) == (2.0, 8.0)


@pytest.mark.parametrize(("extent", "threads", "chunks"), [(1, 4, 1), (5, 2, 5), (100, 2, 8), (100, 1, 1), (0, 2, 1)])
def test_chunks(extent: int, threads: int, chunks: int) -> None:
    assert chunk_count(extent, threads) == chunks


def state(weight: float, best: float = 1.0, flops: float = 1.0, batches: int = 1) -> TaskState:
    return TaskState(weight, flops, 1.0, best_s=best, batches=batches, spent_s=float(batches))


def test_every_task_first_heavy_ones_before() -> None:
    scheduler = TaskScheduler([TaskState(1, 1, 1.0), TaskState(3, 1, 1.0), TaskState(1, 1, 2.0)])
    order = []
    for _ in range(3):
        number = scheduler.next()
        assert number is not None
        order.append(number)
        scheduler.record(number, 1, 1.0, 1.0)
    assert order == [1, 2, 0]


def test_far_from_the_best_rate_goes_first() -> None:
    assert TaskScheduler([state(1, best=1.0), state(1, best=4.0)]).next() == 1


def test_heavy_tasks_go_first() -> None:
    assert TaskScheduler([state(1), state(5)]).next() == 1


def test_expectations_shrink_with_every_batch() -> None:
    assert TaskScheduler([state(1, batches=9), state(1, batches=1)]).next() == 1


def test_improvements_attract_and_stagnation_repels() -> None:
    scheduler = TaskScheduler([state(1), state(1)])
    scheduler.record(1, 8, 1.0, 0.5)
    assert scheduler.next() == 1
    for _ in range(6):
        scheduler.record(1, 8, 1.0, 0.5)
    assert scheduler.next() == 0


def test_cheap_batches_are_preferred() -> None:
    cheap, dear = state(1), state(1)
    dear.spent_s = 10.0
    assert TaskScheduler([dear, cheap]).next() == 1


def test_exhausted_tasks_are_left_alone() -> None:
    tasks = [state(1), state(1)]
    tasks[0].exhausted = tasks[1].exhausted = True
    assert TaskScheduler(tasks).next() is None
