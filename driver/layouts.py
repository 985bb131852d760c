"""The layout of a whole function: in which order of axes its values are stored, by prediction or by comparison."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..passes.graph_trace import value_name
from ..passes.layout_choices import features_last
from ..passes.schedule import ScheduleError, Step, Trace
from .formulations import predicted_seconds
from .planning import Partition, extended
from .predictions import Predictions

_LOG = logging.getLogger(__name__)

_SURE = 1.01
"""How many times as fast a function has to be predicted to be in a layout for that to be taken unmeasured."""
_WORTH_TRYING = 0.9
"""How many times as fast it has to be predicted to be for the layout to be measured."""

Confirm = Callable[[Partition, Partition], Partition]
"""The faster one of a partition and of another layout of it."""


def laid_out(parts: Partition, predictions: Predictions, confirm: Confirm | None) -> Partition:
    """A partition whose values are stored in the layout that is faster, each connected part for itself.

    Args:
        parts: the greedy partition.
        predictions: of tasks.
        confirm: compares by measuring; None to go by prediction.
    """
    least = _SURE if confirm is None else _WORTH_TRYING
    for steps in features_last(parts.graph):
        found = [p for p in (_after(parts, step) for step in steps) if p is not None]
        if not found:
            continue
        seconds = {id(p): layout_seconds(p, predictions) for p in (parts, *found)}
        best = min(found, key=lambda p: seconds[id(p)])
        _LOG.info("another layout is predicted to be %.3fx as fast", seconds[id(parts)] / seconds[id(best)])
        if seconds[id(parts)] >= least * seconds[id(best)]:
            parts = best if confirm is None else confirm(parts, best)
    return parts


def layout_seconds(parts: Partition, predictions: Predictions) -> float:
    """Predicted seconds of all regions, with the formulations that are predicted to be faster."""
    tasks = parts.tasks.values()
    return sum(t.count * predicted_seconds(t, predictions.seconds(t), predictions.target) for t in tasks)


def _after(parts: Partition, step: Step) -> Partition | None:
    """A partition in a layout; None if that is refused or leaves more to XLA than before."""
    try:
        found = extended(parts, (step,))
        found = extended(found, _weights_apart(found, step))
    except ScheduleError as error:
        _LOG.info("a layout is refused: %s", error)
        return None
    return found if _foreign(found) <= _foreign(parts) else None


def _weights_apart(parts: Partition, step: Step) -> Trace:
    """Steps that store each argument which a layout names once in its new order, instead of reading across it."""
    graph, named = parts.graph, {step.target, *step.args}
    shared = {m for region in parts.grouping.regions for m in region.members if len(region.members) > 1}
    moved = (graph.ops[m] for m in sorted(shared) if graph.ops[m].opcode == "transpose")
    inputs = {value_name(v) for v in graph.inputs} & named
    return tuple(Step("cut", value_name(op.result)) for op in moved if value_name(op.operands[0]) in inputs)


def _foreign(parts: Partition) -> set[int]:
    """Results of the operations that no region contains."""
    inside = {m for region, _ in parts.regions for m in region.members}
    return {v for index, op in enumerate(parts.graph.ops) if index not in inside for v in op.results}
