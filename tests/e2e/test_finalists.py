"""Other kernels that a tuned program is compared with as a whole."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright
from tilewright.database.store import Database
from tilewright.driver import last_check
from tilewright.driver.finalists import untuned, winners
from tilewright.driver.gate import Comparison
from tilewright.driver.kernel_source import KernelSource
from tilewright.driver.kernels import build_kernel
from tilewright.driver.options import make_options
from tilewright.driver.outcome import Outcome
from tilewright.driver.pipeline import Driver, host, shared_runner
from tilewright.driver.planning import Choice, Partition, partition
from tilewright.driver.predictions import Predictions
from tilewright.frontends.jaxpr import to_graph
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.search.sketch import sketches

WEIGHT = np.random.default_rng(0).standard_normal((96, 80)).astype(np.float32)
SMALL_CACHE = replace(host(), threads=2, l3_bytes=1 << 14)


def layer(x):
    return jax.nn.relu(x @ WEIGHT) + 1


def parts_of_layer() -> Partition:
    return partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(layer)(jnp.ones((64, 96))))))


def slow(parts: Partition, target) -> dict[str, Choice]:
    """Kernels that take many times as long as the default ones."""
    found = {}
    for key, task in parts.tasks.items():
        (plain,) = (s for s in sketches(task.workload.func, target) if s.name == "plain")
        trace = plain.build(plain.default)
        found[key] = Choice(trace, build_kernel(key, task.workload.func, trace, target))
    return found


def source(target) -> KernelSource:
    return KernelSource(Database(":memory:"), target, Predictions(target), shared_runner, 0)


def test_defaults_are_tried_where_constants_do_not_fit_into_the_cache():
    parts = parts_of_layer()
    tuned = Outcome(parts=parts, choices=slow(parts, SMALL_CACHE), latencies=dict.fromkeys(parts.tasks, 1e-3))
    own = source(SMALL_CACHE)
    others = untuned(tuned, own)
    assert {k: c.trace for k, c in others.items()} == {k: own.predictions.traces(t)[0] for k, t in parts.tasks.items()}
    assert untuned(replace(tuned, choices=others), own) == {}, "they are the defaults already"
    assert untuned(replace(tuned, latencies={}), own) == {}, "nothing was tuned"
    other = dict.fromkeys(parts.tasks, object())
    assert untuned(replace(tuned, formulations=other), own) == {}, "their own kernels are not in the program"
    assert untuned(tuned, source(replace(SMALL_CACHE, l3_bytes=1 << 30))) == {}


def test_kernels_that_lose_against_xla_are_left_out():
    parts = parts_of_layer()
    choices = {"a": object(), "b": object()}
    outcome = Outcome(parts=parts, choices=choices, latencies={"a": 2.0, "b": 1.0}, baseline_s={"a": 1.0, "b": 1.0})
    assert winners(outcome).keys() == {"b"}
    assert winners(replace(outcome, latencies={"a": 1.0, "b": 1.0})) == {}
    assert winners(replace(outcome, latencies={"a": 2.0, "b": 2.0})) == {}


@pytest.mark.parametrize(
    ("l3_bytes", "gain", "taken"), [(1 << 14, 2.0, True), (1 << 14, 0.9, False), (1 << 30, 2.0, False)]
)
def test_a_tuned_program_is_not_slower_than_with_defaults(
    monkeypatch: pytest.MonkeyPatch, l3_bytes: int, gain: float, taken: bool
) -> None:
    target = replace(host(), l3_bytes=l3_bytes)

    def tuned(driver: Driver, tasks):
        driver.outcome.latencies |= {t.key: 1e-7 for t in tasks}  # measured where constants are in the cache, say
        return slow(parts_of_layer(), target)

    def compared(*_) -> Comparison:
        return Comparison((gain,) * 9, (1.0,) * 9)

    monkeypatch.setattr(Driver, "_tuned", tuned)
    monkeypatch.setattr(last_check, "compare_speed", compared)
    options = make_options(2, 1, ":memory:", "cpu", 0, False)
    x = np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)
    driver = Driver(options, Database(":memory:"), target)
    outcome = driver.run(to_graph(jax.make_jaxpr(layer)(x)), [jnp.asarray(x)])
    (key,) = outcome.parts.tasks
    defaults = driver.predictions.traces(outcome.parts.tasks[key])[0]
    assert (outcome.choices[key].trace == defaults) == taken


def test_without_measuring_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def compared(*_) -> Comparison:
        raise AssertionError("compared")

    monkeypatch.setattr(last_check, "compare_speed", compared)
    x = np.random.default_rng(1).standard_normal((512, 96)).astype(np.float32)
    fast = tilewright.compile(layer, effort=0, database=":memory:")
    np.testing.assert_allclose(fast(x), jax.jit(layer)(x), rtol=1e-4, atol=1e-4)
    assert "compared" not in (fast.report().reason or "")


def test_keys_of_random_numbers_are_constants_too(tmp_path):
    key = jax.random.key(3)

    def drawn(x):
        return layer(x) @ WEIGHT.T, jax.random.bits(key, (4,))

    x = np.random.default_rng(1).standard_normal((512, 96)).astype(np.float32)
    fast = tilewright.compile(drawn, effort=1, budget=2, database=tmp_path / "keys.db")
    for got, want in zip(fast(x), jax.jit(drawn)(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert "Error" not in (fast.report().reason or "")
