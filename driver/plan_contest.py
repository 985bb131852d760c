"""Steps of graph traces chosen by measuring: the regions that a step changes, before and after it, as two programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import jax
import numpy as np

from ..ir.target import Target
from ..passes.schedule import ScheduleError
from .assembly import assemble
from .gate import Comparison, compare_speed, runnable
from .planning import Choice, Partition, Task, extended, part_of
from .plans import Kernels, Offer, speedup
from .predictions import Predictions
from .references import random_array

_LOG = logging.getLogger(__name__)

_WORTH_TRYING = 0.8
"""How many times as fast changed regions have to be predicted to be for a step to be measured."""
_SURE = 1.03
"""How many times as fast they surely have to be: many steps are tried, and some would win by chance."""
_COMPARE_SECONDS = 0.3
"""How long two programs are compared."""

_CONFIRM_SECONDS = 1.0
"""How long whole programs are compared."""

Finish = Callable[[Partition, Mapping[str, Choice]], Partition]
"""A partition with other kernels for some regions than those of tasks, which are given by task key."""


def as_it_is(parts: Partition, choices: Mapping[str, Choice]) -> Partition:
    """Nothing is done to a partition."""
    return parts


@dataclass(slots=True)
class PlanContest:
    """Decides by paired comparisons, as long as there is time.

    Args:
        predictions: say what is worth a comparison, and which comes first.
        kernels: builds and checks.
        target: the CPU.
        seconds: how long to go on.
        seed: of the random arguments.
    """

    predictions: Predictions
    kernels: Kernels
    target: Target
    seconds: float
    seed: int
    choices: dict[str, Choice] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    start_s: float = field(default_factory=time.perf_counter)

    def __call__(self, parts: Partition, offers: Sequence[Offer]) -> list[Offer]:
        """Offers that were confirmed to be faster, those with the largest gain first."""
        ranked = sorted(offers, key=lambda o: -speedup(o, self.predictions.first_seconds))
        faster: list[tuple[float, Offer]] = []
        for offer in ranked:
            if speedup(offer, self.predictions.first_seconds) < _WORTH_TRYING or self._late():
                break
            found = self._compared(parts, offer)
            if found is not None and found.lower_bound >= _SURE:
                faster.append((len(offer.steps) * (median(found.baseline_s) - median(found.native_s)), offer))
        return [offer for _, offer in sorted(faster, key=lambda item: -item[0])]

    def confirmed(
        self, start: Partition, found: Partition, examples: Sequence[Any], finish: Finish = as_it_is
    ) -> Partition:
        """The partition that was found if the whole program is surely faster with it, else what was started from.

        Args:
            start: what was started from.
            found: the same after steps.
            examples: arguments of the graph.
            finish: what is done to both before they are compared.
        """
        if found.trace == start.trace:
            return start
        comparison = self._comparison(start, found, examples, _CONFIRM_SECONDS, finish)
        return found if comparison is not None and comparison.lower_bound > 1.0 else start

    def _late(self) -> bool:
        return time.perf_counter() - self.start_s > self.seconds

    def _compared(self, parts: Partition, offer: Offer) -> Comparison | None:
        """Times of the changed regions before (the baseline) and after a step; None where that can't be told."""
        step, touched = offer.steps[0]
        try:
            before = part_of(parts, touched)
            after = extended(before, (step,))
        except ScheduleError as error:
            _LOG.info("%s can't be compared: %s", step, error)
            return None
        rng = np.random.default_rng(self.seed)
        examples = [jax.device_put(random_array(t.shape, t.dtype, rng)) for t in before.graph.inputs.values()]
        return self._comparison(before, after, examples, _COMPARE_SECONDS)

    def _comparison(
        self,
        before: Partition,
        after: Partition,
        examples: Sequence[Any],
        seconds: float,
        finish: Finish = as_it_is,
    ) -> Comparison | None:
        """Times of a graph in two partitions; None if they run the same kernels or a region that differs has none."""
        self._build([*before.tasks.values(), *after.tasks.values()])
        differing = _differing(before, after)
        if not differing or not differing <= self.choices.keys():
            return None
        whole = (finish(p, self.choices) for p in (after, before))
        ours, usual = (runnable(assemble(p, self.choices, self.target)[0]) for p in whole)
        comparison = compare_speed(ours, usual, examples, seconds)
        _LOG.info("%s: %.3fx, at least %.3fx", after.trace, comparison.speedup, comparison.lower_bound)
        return comparison

    def _build(self, tasks: Sequence[Task]) -> None:
        wanted = {task.key: task for task in tasks if task.key not in self.tried}
        self.tried.update(wanted)
        if wanted:
            self.choices.update(self.kernels(list(wanted.values())))


def _differing(before: Partition, after: Partition) -> set[str]:
    """Keys of the tasks that one partition has more often than the other."""
    first, second = ({key: task.count for key, task in parts.tasks.items()} for parts in (before, after))
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
