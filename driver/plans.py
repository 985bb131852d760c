"""Search over graph traces: steps that make a function's plan faster, from the greedy partition on.

Each legal step changes a few regions; only these are lowered and compared. Equal steps on equal regions are taken
together, so that a decision costs once however often a network repeats it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.graph import Graph
from ..passes.graph_choices import graph_candidates
from ..passes.graph_trace import Grouping, apply_graph_step, value_of
from ..passes.regions import Region
from ..passes.schedule import ScheduleError, Step, Trace
from .planning import Choice, Partition, Task, extended, region_task
from .predictions import Predictions

_LOG = logging.getLogger(__name__)

_PRIMITIVES = ("cut", "group", "rematerialize")
"""Formulations are chosen once the regions are known (`formulations.py`)."""
_ROUNDS = 4
_LEAST_SHARE = 0.05
"""Regions with a smaller part of the predicted time are left as they are."""
_MOST_OPERATIONS = 6000
"""Operations in the regions that are tried, in all; networks need a thousand. A long unrolled program has thousands of
possible steps, each on hundreds of operations, and trying one takes as long as its regions have operations."""

Values = tuple[int, ...]
_Alike = list[tuple[Step, frozenset[Values]]]
"""Equal steps on equal regions, each with the values of the regions that it changes."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Equal steps on equal regions.

    Args:
        steps: each with the values of the regions that it changes.
        before: tasks of the regions that one of them replaces.
        after: tasks of the regions that it puts there.
    """

    steps: tuple[tuple[Step, frozenset[Values]], ...]
    before: tuple[Task, ...]
    after: tuple[Task, ...]


Choose = Callable[[Partition, Sequence[Offer]], Sequence[Offer]]
"""Those of some offers on a partition that make it faster, the best first."""


def improved(parts: Partition, predictions: Predictions, choose: Choose) -> Partition:
    """A partition after all steps that make it faster.

    Args:
        parts: the greedy partition.
        predictions: of tasks.
        choose: decides which offers are taken.
    """
    tried = _Tried()
    for _ in range(_ROUNDS):
        taken = choose(parts, list(_offers(parts, predictions, tried)))
        if not taken:
            break
        for offer in taken:
            parts = _with(parts, offer)
    return parts


def _with(parts: Partition, offer: Offer) -> Partition:
    """A partition after those steps of an offer whose regions are still what they were."""
    grouping, taken = parts.grouping, list[Step]()
    for step, touched in offer.steps:
        if touched <= set(map(grouping.values, grouping.regions)):
            try:
                grouping = apply_graph_step(grouping, step)
            except ScheduleError as error:
                _LOG.info("a step that applies to an equal region is refused: %s", error)
            else:
                taken.append(step)
    return extended(parts, tuple(taken)) if taken else parts


def total_seconds(parts: Partition, predictions: Predictions) -> float:
    """Predicted seconds of all regions."""
    return sum(predictions.first_seconds(parts.tasks[key]) for _, key in parts.regions if key)


@dataclass(slots=True)
class _Tried:
    """What was tried so far.

    Attributes:
        likenesses: Steps that were, or equal ones.
        operations: In the regions that these change.
        forms: Numbers of what regions look like; that is large, and a number is as good.
    """

    likenesses: set[object] = field(default_factory=set)
    operations: int = 0
    forms: dict[object, int] = field(default_factory=dict)


def _promising(parts: Partition, own: Mapping[int, Task], predictions: Predictions, tried: _Tried) -> list[_Alike]:
    """Equal steps whose like was not tried before, on regions that may gain much, as many as may be tried."""
    least = _LEAST_SHARE * total_seconds(parts, predictions)
    found: list[tuple[float, int, object, _Alike]] = []
    for likeness, steps in _alike(parts.grouping, tried.forms).items():
        tasks = [own[values[-1]] for values in steps[0][1] if values[-1] in own]
        seconds = sum(map(predictions.first_seconds, tasks))
        arithmetic = sum(map(predictions.arithmetic, tasks))
        if likeness in tried.likenesses or len(steps) * seconds < least or seconds < _LIKELY * arithmetic:
            continue
        found.append((len(steps) * seconds, len(found), likeness, steps))
    taken: list[tuple[int, _Alike]] = []
    for _, place, likeness, steps in sorted(found, key=lambda item: -item[0]):
        if tried.operations >= _MOST_OPERATIONS:
            _LOG.info(
                "leaving out %d kinds of steps of %d: the regions are too large", len(found) - len(taken), len(found)
            )
            break
        tried.likenesses.add(likeness)
        tried.operations += sum(map(len, steps[0][1]))
        taken.append((place, steps))
    return [steps for _, steps in sorted(taken, key=lambda item: item[0])]


def _offers(parts: Partition, predictions: Predictions, tried: _Tried) -> Iterator[Offer]:
    """Offers on a partition whose like was not tried before; regions that can't gain much are left out."""
    grouping = parts.grouping
    own = {grouping.values(region)[-1]: parts.tasks[key] for region, key in parts.regions if key}  # by its last value
    for steps in _promising(parts, own, predictions, tried):
        changed = _changed(grouping, steps[0][0])
        if changed is not None and all(map(predictions.schedulable, changed[1])):
            gone, made = changed
            offer = Offer(tuple(steps), tuple(own[v[-1]] for v in gone if v[-1] in own), made)
            # What is compared by time has no formulations yet: those that are expected count as predicted.
            if not any(map(predictions.in_chunks, offer.before)) or speedup(offer, predictions.first_seconds) > _LIKELY:
                yield offer


def _alike(grouping: Grouping, forms: dict[object, int]) -> dict[object, _Alike]:
    """All steps that may apply, with the values of the regions that they name; equal ones on equal regions together."""
    found: dict[object, _Alike] = {}
    known: dict[tuple[int, ...], tuple[int, dict[int, int], frozenset[Values]]] = {}
    region_of = {v: r for r in grouping.regions for v in grouping.values(r)}
    for step in (step for name in _PRIMITIVES for step in graph_candidates(grouping, name)):
        named = [value_of(str(name)) for name in (step.target, *step.args)]
        touched = sorted({region_of[v].members[-1]: region_of[v] for v in named}.items())
        regions = [region for _, region in touched]
        ends = tuple(end for end, _ in touched)
        if ends not in known:
            values = [grouping.values(region) for region in regions]
            places = {value: place for place, value in enumerate(itertools.chain(*values))}
            number = forms.setdefault(_form(grouping.graph, regions), len(forms))
            known[ends] = number, places, frozenset(values)
        form, places, touched_values = known[ends]
        likeness = step.primitive, form, tuple(places[v] for v in named)
        found.setdefault(likeness, []).append((step, touched_values))
    return found


def _form(graph: Graph, regions: Sequence[Region]) -> object:
    """What equal regions have in common: their operations, and how these feed each other."""
    members = [(number, m) for number, region in enumerate(regions) for m in region.members]
    place = {graph.ops[m].result: n for n, (_, m) in enumerate(members)}
    inside = {m for _, m in members}
    rows: list[object] = []
    for number, member in members:
        op = graph.ops[member]
        operands = tuple(place.get(v, (v in graph.constants, str(graph.types[v]))) for v in op.operands)
        read = op.result in graph.outputs or not inside.issuperset(graph.users[op.result])
        rows.append((number, op.opcode, str(op.type), repr(op.params), operands, read))
    return tuple(rows)


def _changed(grouping: Grouping, step: Step) -> tuple[list[Values], tuple[Task, ...]] | None:
    """Values of the regions that a step replaces, and tasks of those that it makes; None if it is refused."""
    try:
        after = apply_graph_step(grouping, step)
    except ScheduleError:
        return None
    old = [grouping.values(r) for r in grouping.regions]
    new = {after.values(r): r for r in after.regions}
    tasks = [region_task(after.graph, new[v]) for v in new.keys() - set(old) if new[v].kind != "alias"]
    return [v for v in old if v not in new], tuple(t for t in tasks if t is not None)


# ---- by prediction


_LIKELY = 1.1
"""How many times as fast changed regions have to be with their sketches' defaults for other schedules to be tried."""
_SURE = 1.25
"""How many times as fast they have to be predicted to be for a step to be taken unmeasured."""


Kernels = Callable[[Sequence[Task]], Mapping[str, Choice]]
"""Kernels of those of some tasks that can be built and pass their check, by task key."""


def predicted_faster(offers: Sequence[Offer], predictions: Predictions, kernels: Kernels) -> list[Offer]:
    """Offers that are clearly faster by prediction and have kernels, those that gain most first."""
    gains = [(len(offer.steps) * _gain(offer, predictions), offer) for offer in offers]
    ranked = [offer for gain, offer in sorted(gains, key=lambda item: -item[0]) if gain > 0]
    usable = kernels(list({task.key: task for offer in ranked for task in offer.after}.values())).keys()
    return [offer for offer in ranked if usable >= {task.key for task in offer.after}]


def _gain(offer: Offer, predictions: Predictions) -> float:
    """Seconds that one step of an offer gains by prediction; 0 if it is not sure."""
    if speedup(offer, predictions.first_seconds) < _LIKELY:
        return 0.0
    if speedup(offer, predictions.seconds) < _SURE:
        return 0.0
    return sum(map(predictions.seconds, offer.before)) - sum(map(predictions.seconds, offer.after))


def speedup(offer: Offer, seconds: Callable[[Task], float]) -> float:
    """How many times as fast the regions that a step changes are after it."""
    return sum(map(seconds, offer.before)) / sum(map(seconds, offer.after))


def replayed(parts: Partition, steps: Trace) -> Partition:
    """A partition after recorded steps; itself where they are refused, as another version's may be."""
    try:
        return extended(parts, steps)
    except ScheduleError as error:
        _LOG.warning("ignoring a graph trace that is refused here: %s", error)
        return parts
