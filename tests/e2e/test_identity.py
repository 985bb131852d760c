"""Compiled functions compute what `jax.jit` computes: a seeded sample of JAX's own tests of its `lax` operations."""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from typing import Any

import jax
import numpy as np
import pytest
from jax._src.internal_test_util import test_harnesses

import tilewright
from tilewright.backends.jax_call import tilewright_call_p

SAMPLE = 150
SAMPLE_WITH_KERNELS = 40
FULL_SAMPLE = 1200
_SKIPPED_GROUPS = {
    "random_gamma",  # seconds each; `random_bits` and `random_split` cover keys
    "schur",  # only complex128 on the CPU
}


def sample(count: int) -> list[Any]:
    """Harnesses drawn evenly over the groups (one per operation), always the same ones."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for harness in test_harnesses.all_harnesses:
        if harness.group_name not in _SKIPPED_GROUPS and harness.filter("cpu"):
            groups[harness.group_name].append(harness)
    order = random.Random(0)
    names = sorted(groups)
    for name in names:
        groups[name].sort(key=lambda h: h.fullname)  # JAX makes some of them in the order of a set
        order.shuffle(groups[name])
    picked: list[Any] = []
    while len(picked) < count and any(groups.values()):
        for name in names:
            if groups[name] and len(picked) < count:
                picked.append(groups[name].pop())
    return picked


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "harness" in metafunc.fixturenames:
        short = SAMPLE_WITH_KERNELS if "kernels" in metafunc.function.__name__ else SAMPLE
        harnesses = sample(FULL_SAMPLE if metafunc.config.getoption("--full") else short)
        metafunc.parametrize("harness", harnesses, ids=[h.fullname for h in harnesses])


@pytest.mark.usefixtures("passes_only")
def test_optimized_graph_matches_jit(harness: Any) -> None:
    matches_jit(harness, slack=0)


def test_kernels_match_jit(harness: Any) -> None:
    """Kernels may add up in another order, so small sums of large terms differ: the accuracy contract is the bound."""
    matches_jit(harness, slack=16)


def matches_jit(harness: Any, slack: int) -> None:
    arguments = harness.dyn_args_maker(np.random.RandomState(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = jax.jit(harness.dyn_fun)(*arguments)
        except Exception as error:
            with pytest.raises(type(error)):
                tilewright.compile(harness.dyn_fun)(*arguments)
            return
        compiled = tilewright.compile(harness.dyn_fun)
        actual = compiled(*arguments)
        traced = jax.make_jaxpr(compiled)(*arguments)
    assert any(eqn.primitive is tilewright_call_p for eqn in traced.jaxpr.eqns[0].params["jaxpr"].eqns)
    assert_same(actual, expected, slack)


def assert_same(actual: Any, expected: Any, slack: int) -> None:
    """Same structure, types and weak types; values equal, NaN by NaN, or within four units of rounding.

    Args:
        actual: What the compiled function returned.
        expected: What `jax.jit` returned.
        slack: How many units of rounding of the largest finite number any element may be off besides.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(a) == jax.typeof(b)
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        x, y = np.asarray(a), np.asarray(b)
        if jax.dtypes.issubdtype(x.dtype, np.inexact):
            wide = np.complex128 if x.dtype.kind == "c" else np.float64
            eps = float(jax.numpy.finfo(x.dtype).eps)
            x, y = x.astype(wide), y.astype(wide)
            largest = np.max(np.abs(y[np.isfinite(y)]), initial=0)
            np.testing.assert_allclose(x, y, rtol=4 * eps, atol=slack * eps * largest)
        else:
            np.testing.assert_array_equal(x, y)
