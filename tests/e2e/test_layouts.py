"""Layouts of whole functions: what is predicted to gain is taken, compiled, remembered and saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tilewright
from tilewright.backends.llvm.kernel import Kernel
from tilewright.database.store import Database
from tilewright.driver import pipeline
from tilewright.driver.kernels import build_all
from tilewright.driver.layouts import laid_out, layout_seconds
from tilewright.driver.pipeline import host
from tilewright.driver.plan_contest import PlanContest
from tilewright.driver.planning import Choice, Partition, Task, extended, partition
from tilewright.driver.predictions import Predictions
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.target import Target
from tilewright.passes.graph_choices import graph_choices
from tilewright.passes.graph_trace import value_name
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import Step

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 255.0, 40.0)
NARROW = Target("test", "+avx2,+fma", 256, 2, 48 << 10, 1 << 20, 32 << 20, 128.0, 40.0)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32) * 0.1


def conv(x: Any, w: Any, numbers: tuple[str, str, str] = ("NCHW", "OIHW", "NCHW"), groups: int = 1) -> Any:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups)


def residual(channels: int) -> Any:
    def fn(x):
        y = jnp.maximum(conv(x, drawn(channels, channels, 3, 3)), 0)
        return (x + conv(y, drawn(channels, channels, 3, 3, seed=1))).sum((2, 3))

    return fn


def cut_up(fn: Any, *args: Any) -> Partition:
    return partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args))))


@pytest.mark.parametrize("target", [TARGET, NARROW])
@pytest.mark.parametrize(("channels", "steps"), [(64, 1), (4, 0)])
def test_features_come_last_where_they_fill_vectors(target, channels, steps):
    parts = cut_up(residual(channels), drawn(1, channels, 28, 28))
    found = laid_out(parts, Predictions(target), None)
    assert [step.primitive for step in found.trace] == ["set_layout"] * steps
    assert steps or found is parts


def test_what_has_features_last_is_left_alone():
    last = ("NHWC", "HWIO", "NHWC")
    parts = cut_up(lambda x: conv(conv(x, drawn(3, 3, 64, 64), last), drawn(3, 3, 64, 64), last), drawn(1, 28, 28, 64))
    assert laid_out(parts, Predictions(TARGET), None) is parts


def test_weights_that_are_arguments_are_transposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that reads them as they lie would go across them again and again."""
    monkeypatch.setattr("tilewright.driver.layouts._WORTH_TRYING", 0.0)  # which steps there are, not whether they pay

    def fn(x, wide, deep):
        y = conv(jnp.maximum(conv(x, wide), 0), deep, groups=96)
        return conv(y, drawn(16, 96, 1, 1)).max((2, 3))

    args = drawn(1, 16, 28, 28), drawn(96, 16, 1, 1), drawn(96, 1, 3, 3)
    parts = cut_up(fn, *args)
    predictions = Predictions(TARGET)
    across = extended(parts, tuple(graph_choices(parts.grouping, "set_layout")))
    asked: list[Partition] = []
    laid_out(parts, predictions, lambda a, b: asked.append(b) or a)
    (found,) = asked
    assert [step.primitive for step in found.trace] == ["set_layout", "cut", "cut"]
    assert layout_seconds(found, predictions) < 0.2 * layout_seconds(across, predictions)


def test_a_comparison_decides_where_there_is_one():
    parts = cut_up(residual(64), drawn(1, 64, 28, 28))
    asked: list[tuple[Partition, Partition]] = []

    def refuse(a: Partition, b: Partition) -> Partition:
        asked.append((a, b))
        return a

    assert laid_out(parts, Predictions(TARGET), refuse) is parts
    assert [(a is parts, [s.primitive for s in b.trace]) for a, b in asked] == [(True, ["set_layout"])]
    assert laid_out(parts, Predictions(TARGET), lambda a, b: b).trace


def test_layouts_are_compared_as_they_would_be_finished():
    x = drawn(1, 16, 12, 12)
    parts = cut_up(residual(16), x)
    step = next(graph_choices(parts.grouping, "set_layout"))
    predictions, finished = Predictions(host()), list[Partition]()

    def kernels(tasks: Sequence[Task]) -> dict[str, Choice]:
        wanted = [(t.key, t.workload.func, predictions.traces(t)[0]) for t in tasks]
        return {k: Choice(t, b) for (k, t), b in build_all(wanted, host()).items() if isinstance(b, Kernel)}

    def finish(p: Partition, choices: Mapping[str, Choice]) -> Partition:
        assert p.tasks.keys() <= choices.keys()
        finished.append(p)
        return p

    contest = PlanContest(predictions, kernels, host(), seconds=0.0, seed=0)
    other = extended(parts, (step,))
    assert contest.confirmed(parts, other, [x], finish) in (parts, other)
    assert finished == [other, parts]
    assert contest.confirmed(other, other, [x], finish) is other and len(finished) == 2


@pytest.fixture
def last(monkeypatch):
    """Every function with its features last, whatever that costs."""

    def always(parts: Partition, *_: Any) -> Partition:
        return extended(parts, tuple(graph_choices(parts.grouping, "set_layout"))[:1])

    monkeypatch.setattr(pipeline, "laid_out", always)
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)
    monkeypatch.setattr(pipeline, "WORTHWHILE_SECONDS", 0.0)


def network(x, w):
    """Arguments, results and values between in several places; sizes that fill no vector."""
    y = jnp.maximum(conv(x, drawn(10, 3, 3, 3)) + drawn(10)[:, None, None], 0)
    z = jnp.concatenate([conv(y, w, groups=10), y], 1)
    pooled = lax.reduce_window(z, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "SAME")
    return jax.nn.softmax(pooled, 1), z, pooled.reshape(2, -1) @ drawn(20 * 4 * 3, 7)


ARGS = drawn(2, 3, 7, 5), drawn(10, 1, 3, 3)


def test_a_compiled_layout_computes_what_jax_does(last):
    compiled = tilewright.compile(network, effort=0, database=":memory:")
    images = ARGS[0].copy()
    images[0, 1, 2, 3], images[1, 0, 0, 0] = np.nan, np.inf
    for args in (ARGS, (images, ARGS[1])):
        for got, want in zip(compiled(*args), jax.jit(network)(*args), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    assert compiled.report().basis == "predicted"
    assert compiled.report().plan[0].startswith("axes 0,2,3,1 of ")


def test_a_later_process_and_a_saved_file_have_the_same_layout(last, tmp_path, monkeypatch):
    database = tmp_path / "records.db"
    compiled = tilewright.compile(network, effort=0, database=database)
    want = compiled(*ARGS)
    path = compiled.save(tmp_path / "network.tw", *ARGS)
    monkeypatch.setattr(pipeline, "laid_out", None)
    again = tilewright.compile(network, effort=0, database=database)
    jax.tree.map(np.testing.assert_array_equal, again(*ARGS), want)
    assert again.report().basis == "database" and again.report().plan == compiled.report().plan
    jax.tree.map(np.testing.assert_array_equal, tilewright.load(path)(*ARGS), want)


@pytest.mark.parametrize("step", [["set_layout", "%3", ["0,1"]], ["set_layout", "%999", ["0,2,3,1"]]])
def test_verdicts_whose_layout_does_not_fit_are_ignored(last, tmp_path, monkeypatch, step):
    database, plan = tmp_path / "records.db", Database.plan
    tilewright.compile(network, effort=0, database=database)(*ARGS)

    def changed(*args: Any) -> Any:
        record = plan(*args)
        return record.model_copy(
            update={"partition": json.dumps({**json.loads(record.partition), "steps": json.dumps([step])})}
        )

    monkeypatch.setattr(Database, "plan", changed)
    again = tilewright.compile(network, effort=0, database=database)
    for got, want in zip(again(*ARGS), jax.jit(network)(*ARGS), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    assert again.report().basis == "predicted"


def test_loops_read_and_make_what_they_are_given():
    """The body of a loop keeps its own layout; what goes in and out is stored as the loop has it."""

    def fn(x):
        y = conv(x, drawn(6, 3, 3, 3))
        y = lax.fori_loop(0, 4, lambda _, v: jnp.tanh(v) * 0.5 + v, y)
        return conv(y, drawn(5, 6, 1, 1))

    x = drawn(1, 3, 8, 6)
    parts = cut_up(fn, x)
    found = extended(parts, (next(graph_choices(parts.grouping, "set_layout")),))
    assert len(found.loops) == len(parts.loops) == 1
    moved = extended(parts, (Step("set_layout", value_name(parts.graph.ops[1].result), ("0,2,3,1",)),))
    assert len(moved.loops) == 1 and moved.graph.ops[1].opcode == "scan" and moved.graph.ops[2].opcode == "transpose"
    assert found.graph.output_types == parts.graph.output_types
