"""The float64 reference on loops, branches and narrow element types."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tilewright.bench.reference import compare, reference


def third(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) / 3.0


@pytest.mark.parametrize(
    "loop",
    [
        lambda x: lax.fori_loop(0, 4, lambda i, y: y / 3.0, x),
        lambda x: lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, s[1] / 3.0), (0, x))[1],
        lambda x: lax.scan(lambda y, w: (y * w, None), x, jnp.ones((4, 1)) / 3.0)[0],
        lambda x: lax.scan(lambda y, _: (y / 3.0, y / 3.0), x, None, length=4, reverse=True)[1][0],
    ],
)
def test_loops_run_in_float64(loop, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 5), np.float32)
    (found,) = reference(loop, (x,))
    expected = x.astype(np.float64) / 3.0**4
    assert found.dtype == np.float64 and found.reshape(-1) == pytest.approx(expected.reshape(-1), rel=1e-7)
    assert not np.array_equal(found, found.astype(np.float32))


@pytest.mark.parametrize("positive", [True, False])
def test_branches_are_taken_by_the_argument(positive: bool) -> None:
    x = np.float32(0.1 if positive else -0.1)
    (found,) = reference(lambda v: lax.cond(v > 0, lambda a: a / 3.0, lambda a: a * 3.0, v), (x,))
    assert found == pytest.approx(float(x) / 3.0 if positive else float(x) * 3.0, rel=1e-15)


def test_bfloat16_is_compared_with_its_own_spacing() -> None:
    x = np.asarray(jnp.arange(1, 9, dtype=jnp.bfloat16) / 3)
    fn = jax.jit(lambda v: v * v)
    exact = reference(fn, (x,))
    (found,) = compare(fn(x), fn(x), exact)
    assert exact[0].dtype == np.float64 and found.baseline > 0
    assert found.epsilon == 2.0**-7 and found.holds
