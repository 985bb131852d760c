"""A plan's stages between barriers: what the native driver walks through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ...ir.plan import ExecPlan, Stage


@dataclass(frozen=True, slots=True)
class Phase:
    """Stages between two barriers: one stage in chunks, or any number of one-chunk stages.

    Args:
        stages: in order; all of them one-chunk stages, or a single one.
        chunks: into how many parts the phase is cut.
        count: how often the stages run before the barrier; more than once only without chunks.
    """

    stages: tuple[Stage, ...]
    chunks: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Phases that are gone through ``count`` times."""

    phases: tuple[Phase, ...]
    count: int = 1


def groups_of(plan: ExecPlan) -> tuple[Group, ...]:
    """Group a plan's stages: neighbouring stages of one chunk need no barrier in between; empty ones need nothing.

    A repeat that has only stages of one chunk is a single phase, which one thread runs without any barrier.
    """
    groups: list[Group] = []
    done = 0
    for repeat in plan.repeats:
        groups += _once(plan.stages[done : repeat.first])
        phases = _phases(plan.stages[repeat.first : repeat.end])
        if len(phases) == 1 and phases[0].chunks == 1:
            groups.append(Group((Phase(phases[0].stages, 1, repeat.count),)))
        elif phases:
            groups.append(Group(phases, repeat.count))
        done = repeat.end
    return (*groups, *_once(plan.stages[done:]))


def _once(stages: Sequence[Stage]) -> list[Group]:
    phases = _phases(stages)
    return [Group(phases)] if phases else []


def _phases(stages: Sequence[Stage]) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    live = [stage for stage in stages if stage.extent > 0]
    for serial, run in groupby(live, key=lambda stage: stage.chunks == 1):
        if serial:
            phases.append(Phase(tuple(run), 1))
        else:
            phases.extend(Phase((stage,), stage.chunks) for stage in run)
    return tuple(phases)
