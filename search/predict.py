"""Choosing a schedule without measuring anything."""

from __future__ import annotations

import math

import numpy as np

from ..costmodel.roofline import RooflineCostModel
from ..ir.loop import LoopFunc
from ..ir.target import Target
from .ranking import Ranker
from .space import Candidate, SearchSpace

_MARGIN = math.log2(1.15)
"""How much faster than the default (binary logarithm) a candidate must be predicted to be to replace it."""
_SAMPLES = 512
_SPARE = 4
"""Candidates that are kept in reserve for the preferred one."""


def predicted_choice(func: LoopFunc, target: Target, seed: int = 0) -> Candidate | None:
    """The first of `predicted_choices`; None if every sketch refuses its own default."""
    return next(iter(predicted_choices(func, target, seed)), None)


def predicted_choices(func: LoopFunc, target: Target, seed: int = 0) -> list[Candidate]:
    """The candidate that the roofline prefers, then those to try where no code can be generated for it.

    Args:
        func: an unscheduled program.
        target: the CPU.
        seed: of the sample that stands for a space too large to list.

    Returns:
        The preferred sketch's default, or another candidate that is predicted to be clearly faster; then the next ones
        by prediction, and what the other sketches choose by themselves. Empty if every sketch refuses its own default.
    """
    return preferred(SearchSpace(func, target), func, target, seed)


def preferred(space: SearchSpace, func: LoopFunc, target: Target, seed: int = 0) -> list[Candidate]:
    """`predicted_choices` from the space of a program that was made before."""
    defaults = space.defaults()
    if not defaults:
        return []
    if space.enumerable:
        others = list(space.enumerate())
    else:
        rng = np.random.default_rng(seed)
        others = [c for c in (space.sample(rng) for _ in range(_SAMPLES)) if c is not None]
    candidates = [*defaults, *others]
    scores = Ranker(func, target, RooflineCostModel())(candidates)
    best = int(np.argmin(scores))
    first = candidates[best] if scores[best] < scores[0] - _MARGIN else defaults[0]
    following = [candidates[int(n)] for n in np.argsort(scores, kind="stable")[:_SPARE]]
    return list({c.key: c for c in (first, *following, *defaults)}.values())
