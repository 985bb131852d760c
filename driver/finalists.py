"""Other kernels for a program that was tuned: what the whole is compared with before it is taken."""

from __future__ import annotations

import numpy as np

from .kernel_source import KernelSource
from .outcome import Outcome
from .planning import Choice

LOSING = 1.1
"""A kernel that takes this many times as long as XLA's code for its region is tried without."""

_LEAST_SHARE = 0.05
"""Kernels that take a smaller part of the time are not worth a comparison of whole programs."""


def untuned(outcome: Outcome, source: KernelSource) -> dict[str, Choice]:
    """The kernels with the default schedules; none where tuning can be trusted, or changed hardly anything.

    Kernels are timed on constants that are in the last-level cache. Those of a program whose constants do not fit come
    from memory, and another schedule may be better then.

    Args:
        outcome: of tuning.
        source: gives kernels, and checks them.
    """
    assert outcome.parts is not None
    arrays = [c.value for c in outcome.parts.graph.constants.values()]
    size = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))  # others are keys of random numbers
    if 2 * size <= source.target.l3_bytes:
        return {}
    own = outcome.choices.keys() & outcome.latencies.keys() - outcome.formulations.keys()
    timed = [t for t in outcome.parts.tasks.values() if t.key in own]
    defaults = {t.key: source.predictions.traces(t) for t in timed}
    tasks = [t for t in timed if defaults[t.key] and defaults[t.key][0] != outcome.choices[t.key].trace]
    seconds = {t.key: t.count * outcome.latencies[t.key] for t in timed}
    if sum(seconds[t.key] for t in tasks) < _LEAST_SHARE * sum(seconds.values()):
        return {}
    built = source.first_built(tasks, defaults)
    failed = source.failing([t for t in tasks if t.key in built], built)
    others = {key: choice for key, choice in built.items() if key not in failed}
    return {**outcome.choices, **others} if others else {}


def winners(outcome: Outcome) -> dict[str, Choice]:
    """The kernels without those for whose regions XLA's code alone is faster; none if all or none of them are."""
    usual, choices = outcome.baseline_s, outcome.choices
    losers = {k for k, s in outcome.latencies.items() if k in usual and s > LOSING * usual[k]}
    kept = {k: c for k, c in choices.items() if k not in losers}
    return kept if len(kept) < len(choices) else {}
