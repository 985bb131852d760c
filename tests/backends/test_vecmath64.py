"""Vector math in float64: error bounds, special values, large angles, and the functions of two arguments."""

from __future__ import annotations

import numpy as np
import pytest
from test_vecmath import require

from tilewright.backends.llvm.vecmath import SUPPORTED
from tilewright.bench.vecmath import CONFIGURATIONS, REFERENCES, elementwise, ulp_error
from tilewright.bench.vecmath64 import GAMMA, MAX_ULP_64, REFERENCES_64, SLOW, arguments, worst

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="the references need floats that are longer than float64"
)

NAN, INF = np.nan, np.inf
SPECIAL = np.array(
    [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -7.0, 1e300, -1e300, 1e-300, 709.7, 710.4, -745.5, 800.0]
)


def _run(name: str, configuration: str, *args: np.ndarray) -> np.ndarray:
    require(configuration)
    features, lanes = CONFIGURATIONS[configuration]
    return elementwise(name, "float64", lanes // 2, features, arity=len(args))(*args)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", REFERENCES_64)
def test_error_stays_bounded(name, configuration, request):
    require(configuration)
    count = 1 << (19 if request.config.getoption("--full") else 14)
    error, at = worst(name, configuration, arguments(count // 128 if name in SLOW else count))
    assert error <= MAX_ULP_64[name], f"{name}({at!r})"


@pytest.mark.parametrize("name", sorted(set(REFERENCES_64) - SLOW))
def test_error_stays_bounded_without_denormals(name):
    require("avx2")
    error, at = worst(name, "avx2", arguments(1 << 12, seed=1), flush=True)
    assert error <= MAX_ULP_64[name], f"{name}({at!r})"


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", sorted(REFERENCES_64))
def test_special_values(name, configuration):
    got = _run(name, configuration, SPECIAL)
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](SPECIAL)
    special = ~np.isfinite(expected) | (expected == 0)
    np.testing.assert_array_equal(got[special], expected[special])
    np.testing.assert_array_equal(np.signbit(got[expected == 0]), np.signbit(expected[expected == 0]))
    np.testing.assert_allclose(got[~special], expected[~special], rtol=2e-15)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", GAMMA)
def test_error_stays_small_beside_one(name, configuration, rng):
    x = np.concatenate([rng.uniform(0, 12, 3000), rng.uniform(-12, 0, 3000), 10 ** rng.uniform(-200, 200, 3000)])
    x = np.concatenate(
        [x, 1 + rng.standard_normal(500) * 1e-3, 2 + rng.standard_normal(500) * 1e-6, [0.5, 8.0, 7.999], SPECIAL]
    )
    x = np.concatenate([x, [-1e-305, -3e-308, -1e-200, -1e-17, -1e-20, -1e307, -4.5e15, 4.5e15, 1e308]])
    np.testing.assert_allclose(_run(name, configuration, x), REFERENCES[name](x), rtol=2e-13, atol=2e-14)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_large_angles_beside_small_ones(name, rng):
    """Lanes of one vector are reduced in different ways; the hardest angle lies next to a multiple of pi/2."""
    hardest = 6381956970095103.0 * 2.0**797
    x = np.concatenate([np.exp2(rng.uniform(-20, 1023, 1000)), rng.uniform(2.0**23, 2.0**25, 500), [2.0**24, 1e22]])
    rng.shuffle(x)
    for configuration in ("avx512", "avx2"):
        error = ulp_error(_run(name, configuration, x), REFERENCES[name](x.astype(np.longdouble)))
        assert error.max() <= MAX_ULP_64[name], x[np.argmax(error)]
    np.testing.assert_allclose(_run(name, "avx2", np.array([hardest])), REFERENCES[name](hardest), rtol=1e-12)


@pytest.mark.parametrize(("name", "reference", "bound"), [("pow", np.power, 1.2), ("atan2", np.arctan2, 1.7)])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_functions_of_two_arguments(name, reference, bound, configuration, rng):
    edges = np.array([*SPECIAL, 3.0, -3.0, 2.0**53 + 2, 2.0**52 + 1, 5e-324, -2.5])
    pairs = [grid.ravel() for grid in np.meshgrid(edges, edges)]
    wide = np.exp(rng.uniform(-700, 700, 3000)), rng.uniform(-1.0, 1.0, 3000)
    near = 1 + rng.standard_normal(3000) * 1e-3, rng.uniform(-1e5, 1e5, 3000)
    x, y = (np.concatenate(parts) for parts in zip(pairs, wide, near, strict=True))
    got = _run(name, configuration, x, y)
    with np.errstate(all="ignore"):
        exact, expected = reference(x.astype(np.longdouble), y.astype(np.longdouble)), reference(x, y)
    assert ulp_error(got, exact).max() <= bound
    np.testing.assert_array_equal(np.signbit(got[expected == 0]), np.signbit(expected[expected == 0]))


def test_functions_of_float64_are_not_those_of_float32():
    """What has no code in float64 is not listed: a region ends there."""
    assert {n for n, types in SUPPORTED.items() if "float32" in types and "float64" not in types} == {"rem"}
