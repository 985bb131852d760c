"""Which part of a box conditions leave, and what parts of a concatenation cost."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.costmodel.anatomy import dissect
from tilewright.costmodel.roofline import predict_native
from tilewright.costmodel.shares import box_ranges, narrowed, remaining
from tilewright.driver.planning import Task, partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.affine import AffineExpr, constant, var
from tilewright.ir.loop import Access, Block, Iter, Read
from tilewright.ir.target import Target
from tilewright.search.space import SearchSpace

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 250.0, 40.0)
PLACE = (var("i"), var("j"))
BOX = Block(
    "copy",
    (Iter("i", constant(0), 6), Iter("j", constant(0), 40)),
    Access("y", PLACE),
    Read("x", PLACE, "float32"),
)


def share(*conditions: AffineExpr, vector: str | None = None, lanes: int = 1) -> float:
    return remaining(BOX, functools.reduce(narrowed, conditions, box_ranges(BOX)), vector, lanes)


@pytest.mark.parametrize(
    ("conditions", "points"),
    [
        ((), 240),
        ((var("j") - 10,), 6 * 30),
        ((10 - var("j"),), 6 * 11),
        ((var("j") * 3 - 10,), 6 * 36),
        ((10 - var("j") * 3,), 6 * 4),
        ((var("j") - 10, 19 - var("j"), var("i") - 4), 2 * 10),
        ((var("j") - 40,), 0),
        ((var("j") + var("i") - 10,), 240),
        ((var("j").floordiv(2) - 10,), 240),
    ],
)
def test_shares_are_those_that_counting_gives(conditions: tuple[AffineExpr, ...], points: int) -> None:
    assert share(*conditions) == pytest.approx(points / 240)


def test_whole_vectors_are_computed() -> None:
    assert share(2 - var("j"), vector="j", lanes=16) == pytest.approx(16 / 40)
    assert share(var("j"), vector="j", lanes=16) == pytest.approx(1.0), "the box as a whole is not cut"


def only_task(fn: Any, *shapes: tuple[int, ...]) -> Task:
    graph = to_graph(jax.make_jaxpr(fn)(*(np.zeros(s, np.float32) for s in shapes)))
    (task,) = partition(graph).tasks.values()
    return task


def seconds(task: Task) -> float:
    func = task.workload.func
    return float(predict_native(func, [SearchSpace(func, TARGET).defaults()[0].trace], TARGET)[0])


def cycles(fn: Any, *shapes: tuple[int, ...]) -> float:
    return float(dissect(only_task(fn, *shapes).workload.func).cycles.sum())


def test_each_part_of_a_concatenation_counts_where_it_is() -> None:
    whole = cycles(jnp.sin, (64, 256))
    halves = cycles(lambda x, y: jnp.concatenate([jnp.sin(x), jnp.sin(y)], -1), (64, 128), (64, 128))
    assert halves == pytest.approx(whole)
    many = cycles(lambda x: jnp.concatenate([jnp.sin(x + i) for i in range(16)], 0), (4, 256))
    assert many < 1.2 * cycles(lambda x: jnp.sin(x + 1.0), (64, 256))


def test_parts_of_one_argument_add_up() -> None:
    def shares(fn: Any) -> list[float]:
        work = dissect(only_task(fn, (512, 1024)).workload.func)
        return [a.share for a in work.accesses if not a.writes]

    forth, back = (shares(lambda x, n=n: jnp.tanh(jnp.roll(x, n, 1))) for n in (1, -1))
    assert sum(forth) == pytest.approx(1.0) and sum(back) == pytest.approx(1.0)
    halves = shares(lambda x: 2 * x + jnp.concatenate([-x[:, 512:], x[:, :512]], 1))
    assert max(halves) == 1.0, "all of it is read, whatever is read again"


def test_narrow_parts_take_whole_vectors() -> None:
    narrow = cycles(lambda x, y: jnp.concatenate([jnp.sin(x), jnp.sin(y)], -1), (64, 3), (64, 3))
    assert narrow == pytest.approx(2 * 16 / 6 * cycles(jnp.sin, (64, 6)))


def test_a_concatenation_of_many_parts_is_not_predicted_to_compute_each_everywhere() -> None:
    parts = only_task(lambda *xs: jnp.concatenate([jnp.tanh(x) for x in xs], 0), *[(64, 256)] * 12)
    assert seconds(parts) < 2 * seconds(only_task(jnp.tanh, (12 * 64, 256)))
