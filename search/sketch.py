"""Sketches: rule-derived families of traces for a workload, with typed decisions and a model-chosen default.

A sketch fixes the structure of a schedule (which Block is the root, what is computed at its tile, what is packed) and
leaves numbers and orders as decisions. The default decisions need no measurement: tile shapes come from counting
instructions, loop orders from counting bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import Trace

Decisions = Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Sketch:
    """A family of traces.

    Args:
        name: what kind of schedule it is.
        choices: every decision with its legal values.
        default: the values chosen without measuring.
        build: the trace of given decisions; it may still be refused by `passes.schedule.replay`.
    """

    name: str
    choices: Mapping[str, tuple[int | str, ...]]
    default: Decisions
    build: Callable[[Decisions], Trace]

    @property
    def size(self) -> int:
        """Number of points."""
        total = 1
        for values in self.choices.values():
            total *= len(values)
        return total


SketchRule = Callable[[LoopFunc, Target], Sketch | None]


def sketches(func: LoopFunc, target: Target) -> tuple[Sketch, ...]:
    """All sketches whose rule applies to a workload, the preferred one first; the last one always applies."""
    from . import rules

    found = (rule(func, target) for rule in rules.RULES)
    return tuple(s for s in found if s is not None)
