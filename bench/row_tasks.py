"""Tasks of a suite's rows, and candidates of them, without compiling or running anything."""

from __future__ import annotations

import numpy as np

from ..driver.planning import Task, partition
from ..driver.time_tiles import tile_time
from ..frontends.jaxpr import to_graph
from ..ir.target import Target
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES
from ..search.space import Candidate, SearchSpace
from .cases import SuiteName, load_case

_DRAWS = 20


def row_tasks(suite: SuiteName, name: str, target: Target) -> list[Task]:
    """The distinct tasks that `tilewright.compile` tunes for a row.

    Raises:
        ValueError: The suite has no such row.
    """
    import jax

    model = load_case(suite, name).model
    arguments = model.make_input(np.random.default_rng(0))
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(model.fn)(*arguments)))
    return list(partition(tile_time(graph, target)).tasks.values())


def drawn_candidates(task: Task, target: Target, count: int, rng: np.random.Generator) -> list[Candidate]:
    """The preferred default and random candidates, all different: at most `count`."""
    space = SearchSpace(task.workload.func, target)
    found = {candidate.key: candidate for candidate in space.defaults()[:1]}
    for _ in range(_DRAWS * count):
        if len(found) >= count:
            break
        candidate = space.sample(rng)
        if candidate is not None:
            found.setdefault(candidate.key, candidate)
    return list(found.values())
