"""Minimal filtering: its matrices compute what a filter computes."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.passes.toom_cook import TAPS, filtering, transformed_weights


@pytest.mark.parametrize("results", [2, 4])
def test_a_filter_by_fewer_products(results):
    algorithm = filtering(results)
    back, data, taps = (np.array(m) for m in (algorithm.back, algorithm.data, algorithm.filter))
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(algorithm.size), rng.standard_normal(TAPS)
    wanted = [float(np.dot(d[k : k + TAPS], g)) for k in range(results)]
    np.testing.assert_allclose(back @ ((taps @ g) * (data @ d)), wanted, rtol=1e-12)


@pytest.mark.parametrize("results", [2, 4])
def test_matrices_for_data_are_exact(results):
    algorithm = filtering(results)
    for matrix in (algorithm.data, algorithm.back):
        wide = np.array(matrix)
        np.testing.assert_array_equal(wide, wide.astype(np.float32))


@pytest.mark.parametrize("results", [2, 4])
def test_weights_of_two_axes(results):
    algorithm = filtering(results)
    weights = np.random.default_rng(0).standard_normal((TAPS, TAPS, 2, 5)).astype(np.float32)
    taps = np.array(algorithm.filter)
    wanted = np.einsum("ai,bj,ijck->abck", taps, taps, weights.astype(float)).reshape(-1, 2, 5)
    found = transformed_weights(weights, algorithm)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=1e-9)
    assert algorithm.growth(algorithm.data) == np.abs(np.array(algorithm.data)).sum(1).max()
