"""What Pallas lowers on a machine without the device."""

from __future__ import annotations

import jax
import pytest

from tilewright.backends.pallas import TRITON, Route


def need_lowering(route: Route) -> None:
    """Skip where kernels of a route can't be lowered: since JAX 0.11, those for Triton only on a machine with a GPU."""
    if route is TRITON and jax.__version_info__ >= (0, 11) and jax.default_backend() != "gpu":
        pytest.skip("JAX lowers kernels for Triton only where there is a GPU")
