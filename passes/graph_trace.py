"""Graph traces: how a graph is cut into regions, as steps over the greedy partition.

A schedule belongs to one region; what crosses regions is decided by a graph trace. Its steps are data like those of
schedules, and are replayed from the greedy partition. A *graph primitive* is one function registered with
`graph_primitive`: it returns another grouping or refuses with a `ScheduleError` that says what was expected and what
was found. Values are named as the graph prints them, ``%12``; a step never changes the number of a value, whatever it
changes about how the value is computed and stored.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..ir.graph import Graph
from .regions import Region
from .schedule import ReplayError, ScheduleError, Step, Trace


@dataclass(frozen=True, slots=True)
class Grouping:
    """A graph and its regions.

    Args:
        graph: the graph.
        regions: what kernels compute, in order of their last operation; other operations stay XLA's.
        greedy: makes the greedy regions of another graph; None once steps have changed the regions.
    """

    graph: Graph
    regions: tuple[Region, ...]
    greedy: Callable[[Graph], Grouping] | None = None

    def result(self, region: Region) -> int:
        """The value that is all others read of a region."""
        return self.graph.ops[region.members[-1]].result

    def values(self, region: Region) -> tuple[int, ...]:
        """The values that a region computes, in order."""
        return tuple(self.graph.ops[m].result for m in region.members)

    def region_of(self, value: int) -> Region:
        """The region that computes a value.

        Raises:
            ScheduleError: there is none.
        """
        index = self.graph.producers.get(value)
        for region in self.regions:
            if index in region.members:
                return region
        raise ScheduleError(f"expected a value that a region computes, found %{value}")

    def named(self, name: str) -> Region:
        """The region with a result of some name.

        Raises:
            ScheduleError: there is none.
        """
        value = value_of(name)
        region = self.region_of(value)
        if self.result(region) != value:
            raise ScheduleError(f"expected the result of a region, found {name}, which is inside one")
        return region


def value_name(value: int) -> str:
    """How steps name a value."""
    return f"%{value}"


def value_of(name: str) -> int:
    """The value of a name.

    Raises:
        ScheduleError: it is none.
    """
    digits = name.removeprefix("%")
    if not (name.startswith("%") and digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise ScheduleError(f"expected the name of a value, like %12, found {name[:40]!r}")
    return int(digits)


GraphPrimitive = Callable[..., Grouping]
GRAPH_PRIMITIVES: dict[str, GraphPrimitive] = {}


def graph_primitive(fn: GraphPrimitive) -> GraphPrimitive:
    """Register a rewrite of groupings under its name; its signature is ``(grouping, target, *args) -> Grouping``."""
    GRAPH_PRIMITIVES[fn.__name__] = fn
    return fn


def graph_primitives() -> Mapping[str, GraphPrimitive]:
    """Every graph primitive by name, whichever modules were imported before."""
    importlib.import_module(f"{__package__}.graph_primitives")
    return GRAPH_PRIMITIVES


def apply_graph_step(grouping: Grouping, step: Step) -> Grouping:
    """Apply one step.

    Raises:
        ScheduleError: the primitive does not exist, takes other arguments, or refuses.
    """
    fn = graph_primitives().get(step.primitive)
    if fn is None:
        raise ScheduleError(
            f"expected one of the graph primitives {sorted(GRAPH_PRIMITIVES)}, found {step.primitive!r}"
        )
    if not all(isinstance(arg, str) for arg in step.args):
        raise ScheduleError(f"expected names as arguments of {step.primitive}, found {step.args}")
    try:
        inspect.signature(fn).bind(grouping, step.target, *step.args)
    except TypeError as error:
        raise ScheduleError(f"wrong arguments for {step.primitive}: {error}") from None
    return fn(grouping, step.target, *step.args)


def replay_graph(grouping: Grouping, trace: Trace) -> Grouping:
    """Apply a graph trace to the greedy partition.

    Raises:
        ReplayError: a step was refused; carries its index and the reason.
    """
    for index, step in enumerate(trace):
        try:
            grouping = apply_graph_step(grouping, step)
        except ScheduleError as error:
            raise ReplayError(index, step, str(error)) from error
    return grouping
