"""Legal steps of graph traces: what search and the property tests draw from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..ir.graph import Graph
from .chains import chains
from .formulations import FORMULATIONS
from .graph_trace import Grouping, apply_graph_step, value_name
from .layout_choices import features_last
from .lower import IDENTITIES, VIEWS
from .lower_blocks import CONTRACTIONS, WINDOWS
from .regions import Region
from .schedule import ScheduleError, Step

Enumerator = Callable[[Grouping], Iterator[Step]]
ENUMERATORS: dict[str, Enumerator] = {}


def enumerates(fn: Enumerator) -> Enumerator:
    """Register an enumerator under the name of its graph primitive, which is its own."""
    ENUMERATORS[fn.__name__] = fn
    return fn


def graph_candidates(grouping: Grouping, name: str) -> Iterator[Step]:
    """Steps of one graph primitive that may apply.

    Args:
        grouping: a graph and its regions.
        name: the primitive.

    Raises:
        ScheduleError: there is no such primitive.
    """
    found = ENUMERATORS.get(name)
    if found is None:
        raise ScheduleError(f"expected one of the graph primitives {sorted(ENUMERATORS)}, found {name!r}")
    return found(grouping)


def graph_choices(grouping: Grouping, name: str) -> Iterator[Step]:
    """Steps of one graph primitive that do apply; each is tried."""
    for step in graph_candidates(grouping, name):
        try:
            apply_graph_step(grouping, step)
        except ScheduleError:
            continue
        yield step


@enumerates
def set_layout(grouping: Grouping) -> Iterator[Step]:
    """Features of convolutions last."""
    for steps in features_last(grouping.graph):
        yield from steps


@enumerates
def group(grouping: Grouping) -> Iterator[Step]:
    """Each region with each one that feeds it, and chains of several regions."""
    made = {grouping.result(r): r for r in grouping.regions}
    for region in grouping.regions:
        read = dict.fromkeys(v for m in region.members for v in grouping.graph.ops[m].operands)
        for value in read:
            if value in made and made[value] is not region:
                yield Step("group", value_name(grouping.result(region)), (value_name(value),))
    for *feeding, last in chains(grouping):
        if len(feeding) > 1:
            names = tuple(value_name(grouping.result(region)) for region in feeding)
            yield Step("group", value_name(grouping.result(last)), names)


@enumerates
def rematerialize(grouping: Grouping) -> Iterator[Step]:
    """Each elementwise region that several read, none of them once for every term of a product or window."""
    graph = grouping.graph
    for region in grouping.regions:
        value = grouping.result(region)
        users = set(graph.users[value])
        readers = [r for r in grouping.regions if not users.isdisjoint(r.members)]
        stored = value in graph.outputs or not users.issubset(m for r in readers for m in r.members)
        if region.kind != "elementwise" or stored or len(readers) < 2 or any(r.kind == "alias" for r in readers):
            continue
        if not any(_reaches_products(graph, value, r) for r in readers):
            names = tuple(value_name(grouping.result(r)) for r in readers)
            yield Step("rematerialize", value_name(value), names)


@enumerates
def cut(grouping: Grouping) -> Iterator[Step]:
    """Each region at each value inside it, and at all that its products read and make."""
    for region in grouping.regions:
        inside = grouping.values(region)[:-1]
        for value in inside:
            yield Step("cut", value_name(value))
        around = _around_products(grouping, region)
        seams = [value_name(v) for v in inside if v in around]
        if len(seams) > 1:
            yield Step("cut", seams[0], tuple(seams[1:]))


@enumerates
def formulate(grouping: Grouping) -> Iterator[Step]:
    """Each region with a product in each way."""
    for region in grouping.regions:
        if any(grouping.graph.ops[m].opcode in CONTRACTIONS for m in region.members):
            for name in FORMULATIONS:
                yield Step("formulate", value_name(grouping.result(region)), (name,))


def _reaches_products(graph: Graph, value: int, region: Region) -> bool:
    """Whether a product or window of a region reads what is made of a value."""
    made = {value}
    for op in (graph.ops[m] for m in region.members):
        if not made.isdisjoint(op.operands):
            if op.opcode in CONTRACTIONS | WINDOWS.keys():
                return True
            made |= set(op.results)
    return False


def _around_products(grouping: Grouping, region: Region) -> set[int]:
    """What the products of a region make and, seen through views, what they read."""
    graph, found = grouping.graph, set[int]()
    for op in (graph.ops[m] for m in region.members):
        if op.opcode in CONTRACTIONS:
            found |= {op.result, *(_before_views(graph, v) for v in op.operands)}
    return found


def _before_views(graph: Graph, value: int) -> int:
    op = graph.producer(value)
    while op is not None and op.opcode in VIEWS | IDENTITIES:
        value = op.operands[0]
        op = graph.producer(value)
    return value
