"""Paired timings: the speed-up of one function over another with a bootstrap confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Speedup:
    """Median over pairs of baseline time divided by candidate time; above 1 the candidate is faster.

    `low` and `high` bound it with 95% confidence.
    """

    median: float
    low: float
    high: float


def paired_speedup(
    baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]], rng: np.random.Generator
) -> Speedup:
    """Speed-up of a candidate that was timed alternately with its baseline.

    The interval comes from a two-level bootstrap: processes are drawn first, then pairs inside them, because what
    differs between processes (page placement, thread placement) does not average out inside one.

    Args:
        baseline: Times of the baseline, one sequence per process.
        candidate: Times of the candidate, the same length and order: equal positions were timed next to each other.
        rng: Source of the bootstrap's draws.

    Raises:
        ValueError: The two don't pair up, a process has no pairs, or a time is not positive.
    """
    ratios = [_ratios(b, c) for b, c in zip(baseline, candidate, strict=True)]
    if not ratios:
        raise ValueError("expected the pairs of at least one process, found none")
    medians = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        chosen = [ratios[index] for index in rng.integers(len(ratios), size=len(ratios))]
        medians[draw] = np.median(np.concatenate([rng.choice(values, len(values)) for values in chosen]))
    low, high = np.quantile(medians, (0.025, 0.975))
    return Speedup(float(np.median(np.concatenate(ratios))), float(low), float(high))


def _ratios(baseline: Sequence[float], candidate: Sequence[float]) -> NDArray[np.float64]:
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"expected equally many times, at least one, found {len(baseline)} and {len(candidate)}")
    times = np.array([baseline, candidate], np.float64)
    if not (times > 0).all():
        raise ValueError(f"expected positive times, found {times.min()}")
    return times[0] / times[1]
