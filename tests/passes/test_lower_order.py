"""In which order a product sums over several axes."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import lax

from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.loop import blocks, reads

# shapes, contracted axes, the operand along whose axes the sum runs as they are stored
CASES = {
    "last of the left": ((3, 4, 5), (5, 4, 6), ((2, 1), (0, 1)), 0),
    "last of the left, in order": ((3, 4, 5), (5, 4, 6), ((1, 2), (1, 0)), 0),
    "last of the right": ((4, 5, 3), (6, 5, 4), ((0, 1), (2, 1)), 1),
    "last of both": ((3, 4, 5), (6, 5, 4), ((2, 1), (1, 2)), 0),
    "last of neither": ((4, 5, 3), (5, 4, 6), ((1, 0), (0, 1)), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_operand_without_the_vectors_is_read_as_it_is_stored(name: str) -> None:
    left, right, contracted, stored = CASES[name]
    x, y = (np.random.default_rng(s).standard_normal(shape).astype(np.float32) for s, shape in enumerate((left, right)))
    graph = to_graph(jax.make_jaxpr(lambda x, y: lax.dot_general(x, y, (contracted, ((), ()))))(x, y))
    (task,) = partition(graph).tasks.values()
    (block,) = (b for b in blocks(task.workload.func.body) if b.monoid is not None)
    order = [i.name for i in block.iters if i.kind == "reduce"]
    read = next(r for r in reads(block.value) if r.buffer == task.workload.func.params[stored].name)
    places = [next(n for n, e in enumerate(read.index) if name in e.variables()) for name in order]
    assert places == sorted(places)
