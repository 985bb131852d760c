"""Functions whose convolutions run by another formulation: results, special values, later processes, saved files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tilewright
from tilewright.driver import formulations, last_check
from tilewright.driver.gate import OutputError
from tilewright.driver.pipeline import host
from tilewright.driver.planning import extended, partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.passes.graph_trace import value_name
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import Step


@pytest.fixture
def eager(monkeypatch):
    """Take whatever formulation is accurate, however slow."""
    monkeypatch.setattr(formulations, "_GAIN", 1e-6)
    monkeypatch.setattr(formulations, "_MEASURED_GAIN", 1e-6)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.08).astype(np.float32)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 19, 14, 32)).astype(np.float32)


def block(x):
    """Two convolutions of one shape with weights of their own, the second with a residual."""
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.nn.relu(lax.conv_general_dilated(x, weights(3, 3, 32, 32), (1, 1), "SAME", dimension_numbers=numbers))
    y = lax.conv_general_dilated(y, weights(3, 3, 32, 32, seed=1), (1, 1), "SAME", dimension_numbers=numbers)
    return jnp.maximum(y + x + weights(32), -1)


def schedules(compiled) -> list[str]:
    return [row.schedule for row in compiled.report().regions]


def assert_close(got, want) -> None:
    got, want = np.asarray(got), np.asarray(want)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=2e-5 * np.abs(want[finite]).max())


def test_a_network_by_minimal_filtering(eager, tmp_path):
    database = tmp_path / "records.db"
    compiled = tilewright.compile(block, effort=0, database=database)
    assert_close(compiled(image()), jax.jit(block)(image()))
    assert all(s.startswith("winograd") for s in schedules(compiled))
    again = tilewright.compile(block, effort=0, database=database)
    np.testing.assert_array_equal(again(image(1)), compiled(image(1)))
    assert again.report().basis == "database" and schedules(again) == schedules(compiled)
    loaded = tilewright.load(compiled.save(tmp_path / "block.tw", image()))
    np.testing.assert_array_equal(loaded(image(2)), compiled(image(2)))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e25, 1e36])
def test_special_values_do_not_spread(eager, special):
    compiled = tilewright.compile(block, effort=0, database=":memory:")
    assert_close(compiled(image()), jax.jit(block)(image()))
    assert all(s.startswith("winograd") for s in schedules(compiled))
    for place in ((0, 0, 0, 0), (1, 18, 13, 31), (0, 7, 5, 3)):
        x = image()
        x[place] = special
        assert_close(compiled(x), jax.jit(block)(x))
    assert_close(compiled(image()), jax.jit(block)(image()))


def test_times_are_measured_where_that_is_allowed(eager):
    compiled = tilewright.compile(block, effort=1, budget=2, database=":memory:")
    assert_close(compiled(image()), jax.jit(block)(image()))


def test_formulations_without_kernels_are_left_out():
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(block)(image())))
    parts = partition(graph)
    results = [value_name(parts.grouping.result(region)) for region, key in parts.regions if key]
    parts = extended(parts, tuple(Step("formulate", result, ("winograd2",)) for result in results))
    assert set(parts.formulations.values()) == {"winograd2"}
    assert formulations.part_kernels(parts, {}, host()) == {}
    assert formulations.apply(parts, {}).formulated == {}


def test_a_formulation_has_to_be_accurate(eager, monkeypatch):
    monkeypatch.setattr(formulations, "_ACCURACY", 0.0)
    compiled = tilewright.compile(block, effort=0, database=":memory:")
    assert_close(compiled(image()), jax.jit(block)(image()))
    assert not any("winograd" in s for s in schedules(compiled))


def test_a_formulation_that_the_gate_refuses_is_left(eager, monkeypatch):
    calls = []

    def check(*args):
        calls.append(args)
        return true_check(*args) if len(calls) > 1 else [OutputError(1.0, 0.0, 0.5)]

    true_check = last_check.check_accuracy
    monkeypatch.setattr(last_check, "check_accuracy", check)
    compiled = tilewright.compile(block, effort=0, database=":memory:")
    assert_close(compiled(image()), jax.jit(block)(image()))
    assert compiled.report().mode == "native" and len(calls) == 2
    assert not any("winograd" in s for s in schedules(compiled))


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T * 0.25) @ v


@pytest.mark.parametrize("effort", [0, 1])
def test_attention_in_chunks_of_keys(effort, monkeypatch, tmp_path):
    monkeypatch.setattr(formulations, "_EVEN_GAIN", 1e-6)
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s).astype(np.float32) for s in ((16, 32), (2048, 32), (2048, 32))]
    database = tmp_path / "records.db"
    compiled = tilewright.compile(attention, effort=effort, budget=2 * effort, database=database)
    assert_close(compiled(*args), jax.jit(attention)(*args))
    if effort:  # where what is faster is measured
        return
    assert any(s.startswith("chunks") for s in schedules(compiled))
    again = tilewright.compile(attention, effort=0, database=database)
    args[1][700, 3], args[2][9, 1] = np.inf, np.nan
    np.testing.assert_array_equal(again(*args), compiled(*args))
    assert_close(again(*args), jax.jit(attention)(*args))
    loaded = tilewright.load(compiled.save(tmp_path / "attention.tw", *args))
    np.testing.assert_array_equal(loaded(*args), compiled(*args))
