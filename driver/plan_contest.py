"""Steps of graph traces chosen by measuring: the regions that a step changes, before and after it, as two programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from ..ir.target import Target
from ..passes.schedule import ScheduleError
from .gate import compare_speed, runnable
from .planning import Choice, Partition, Task, assemble, extended, part_of
from .plans import Offer, speedup
from .predictions import Predictions
from .references import random_array

_LOG = logging.getLogger(__name__)

_WORTH_TRYING = 0.8
"""How many times as fast changed regions have to be predicted to be for a step to be measured."""
_COMPARE_SECONDS = 0.3
"""How long two programs are compared."""

Kernels = Callable[[Sequence[Task]], Mapping[str, Choice]]
"""Kernels of tasks that passed their check, by task key."""


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
            ratio = self._ratio(parts, offer)
            if ratio > 1.0:
                before = len(offer.steps) * sum(map(self.predictions.seconds, offer.before))
                faster.append((before * (1 - 1 / ratio), offer))
        return [offer for _, offer in sorted(faster, key=lambda item: -item[0])]

    def _late(self) -> bool:
        return time.perf_counter() - self.start_s > self.seconds

    def _ratio(self, parts: Partition, offer: Offer) -> float:
        """How many times as fast the changed regions surely are; 0 where that can't be told."""
        step, touched = offer.steps[0]
        try:
            before = part_of(parts, touched)
            after = extended(before, (step,))
        except ScheduleError as error:
            _LOG.info("%s can't be compared: %s", step, error)
            return 0.0
        self._build([*before.tasks.values(), *after.tasks.values()])
        if not {*before.tasks, *after.tasks} <= self.choices.keys():
            return 0.0
        rng = np.random.default_rng(self.seed)
        examples = [jax.device_put(random_array(t.shape, t.dtype, rng)) for t in before.graph.inputs.values()]
        ours, usual = (runnable(assemble(p, self.choices, self.target)[0]) for p in (after, before))
        comparison = compare_speed(ours, usual, examples, _COMPARE_SECONDS)
        _LOG.info("%s: %.3fx, at least %.3fx", step, comparison.speedup, comparison.lower_bound)
        return comparison.lower_bound

    def _build(self, tasks: Sequence[Task]) -> None:
        wanted = [task for task in tasks if task.key not in self.tried]
        self.tried.update(task.key for task in wanted)
        if wanted:
            self.choices.update(self.kernels(wanted))
