"""How one call is timed, the same for every side and in every process, and in which order sides take turns."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Side = TypeVar("Side")

# Calls shorter than this are repeated for about as long, before the clock starts and while it runs: threads are awake
# then, what other processes pushed out of the caches is there again, and the clock's own cost does not count.
_SETTLED_MS = 2.0
_MOST_CALLS = 50  # at a time, since results are kept


class Stopwatch:
    """Times calls of one side; remembers how long they took to decide how many make a sample."""

    def __init__(self) -> None:
        self._usual_ms = math.inf

    def sample(self, run: Callable[[], object]) -> float:
        """Milliseconds per call.

        Args:
            run: Calls the side on arguments that are ready, waits for the results and returns them.
        """
        calls = max(1, min(_MOST_CALLS, math.ceil(_SETTLED_MS / self._usual_ms)))
        if calls > 1:
            for _ in range(math.ceil(_SETTLED_MS / (calls * self._usual_ms))):
                self._several(run, calls)
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._usual_ms = self._several(run, calls)
        finally:
            if collecting:
                gc.enable()
        return self._usual_ms

    @staticmethod
    def _several(run: Callable[[], object], calls: int) -> float:
        kept = []  # results are freed outside of the time, for all sides alike
        start = time.perf_counter_ns()
        for _ in range(calls):
            kept.append(run())
        return max(time.perf_counter_ns() - start, 1) / calls / 1e6


def turns(sides: Sequence[Side], rounds: int, rng: np.random.Generator) -> list[list[Side]]:
    """In which order the sides are timed in each round.

    The order is random, but every second round is the one before it backwards: going first costs 1 to 5%, which must
    not count for or against a side.

    Args:
        sides: Whatever takes turns.
        rounds: How many rounds.
        rng: Source of the order.
    """
    found: list[list[Side]] = []
    while len(found) < rounds:
        order = [sides[index] for index in rng.permutation(len(sides))]
        found += [order, order[::-1]]
    return found[:rounds]
