"""What gathered lanes cost: whether their lines are still in a cache when their next elements are read."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from tilewright.costmodel.anatomy import dissect
from tilewright.costmodel.nest import read_nests
from tilewright.costmodel.strided import lane_loads
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.loop import blocks
from tilewright.ir.target import Target
from tilewright.passes.schedule import Step, Trace

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 250.0, 40.0)


def turned(c: Any, d: Any) -> Any:
    """A matrix transposed into one half of two, so that no tile of it is transposed in registers."""
    return c + lax.pad(d.T[None], 0.0, [(0, 1, 0), (0, 0, 0), (0, 0, 0)])


def loads(rows: int, columns: int, inner: str = "i1") -> float:
    """Loads per lane of d[rows, columns], read along its rows in vectors, columns in the loop around (or outside)."""
    shapes = [(2, columns, rows), (rows, columns)]
    graph = to_graph(jax.make_jaxpr(turned)(*(np.zeros(s, np.float32) for s in shapes)))
    (task,) = (t for t in partition(graph).tasks.values() if any(op.opcode == "pad" for op in t.region.ops))
    func = task.workload.func
    (block,) = blocks(func.body)
    trace: Trace = (
        Step("split", block.name, ("i0", 1)),
        Step("split", block.name, ("i1", 1)),
        *((Step("split", block.name, ("i2", 16)),) if inner == "i2" else ()),
        Step("vectorize", block.name, ("i2",)),
    )
    work = dissect(func)
    (access,) = (a for a in work.accesses if a.shape.tolist() == [rows, columns])
    return float(lane_loads(access, read_nests(work, [trace]), TARGET)[0])


@pytest.mark.parametrize("size", [100, 264, 520])
def test_lines_that_stay_in_the_nearest_cache(size: int) -> None:
    assert loads(size, size) == loads(64, 64)


def test_rows_a_power_of_two_apart_share_sets() -> None:
    assert loads(264, 264) < loads(256, 256) < loads(1024, 1024)


def test_more_lines_than_the_nearest_cache_holds() -> None:
    assert loads(520, 520) < loads(2056, 2056) < loads(40_000, 40)


def test_vectors_in_a_loop_of_their_own_touch_as_many_lines() -> None:
    assert loads(2056, 2056, inner="i2") == loads(2056, 2056)
