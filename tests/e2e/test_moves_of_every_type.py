"""What moves data, and what finds places, on element types of every size and kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright as tw
from tilewright.driver import pipeline

_TYPES = ("bool", "int16", "uint32", "bfloat16", "float64")

_PROGRAMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concatenate": lambda x, i: jnp.concatenate([x, jnp.flip(x, 0), x[:, ::2]], axis=1),
    "computed concatenate": lambda x, i: jnp.concatenate([x + x, x * x], axis=0),
    "border": lambda x, i: jnp.pad(x, ((1, 2), (3, 0))) + jnp.pad(x, ((2, 1), (0, 3))),
    "rows": lambda x, i: jnp.take(x, i, axis=0, mode="clip"),
    "rows or fill": lambda x, i: jnp.take(x, i - 3, axis=0, mode="fill", fill_value=1),
    "computed rows": lambda x, i: x[i] + x[::-1][i],
    "transposed": lambda x, i: x.T + x[::-1].T,
    "update": lambda x, i: jax.lax.dynamic_update_slice(x, x[:3, :5] + x[1:4, :5], (i[0], i[1])),
    "place": lambda x, i: jnp.argmax(x, axis=-1),
    "columns": lambda x, i: jnp.max(x, axis=0),
    "column sums": lambda x, i: jnp.sum(x, axis=0, dtype=x.dtype if x.dtype != bool else jnp.int32),
}


def _values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(3)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    values = rng.integers(0 if dtype.startswith("u") else -9, 9, shape)
    x = np.array(values, jnp.dtype(dtype))
    if jnp.issubdtype(x.dtype, jnp.floating):
        x[0, 0], x[1, 2], x[2, 1] = np.nan, np.inf, -np.inf
    return x


@pytest.mark.parametrize("dtype", _TYPES)
def test_equal_to_jax(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MIN_PREDICTED_SPEEDUP", "WORTHWHILE_SECONDS"):  # native code, however small the gain
        monkeypatch.setattr(pipeline, limit, 0.0)
    with jax.enable_x64(True):
        x, i = _values(dtype, (7, 37)), np.array([5, 1, 0, 6, 6], np.int32)
        native: list[bool] = []
        for name, program in _PROGRAMS.items():
            fast = tw.compile(program, effort=0, database=tmp_path / "tuning.db")
            got, expected = np.asarray(fast(x, i)), np.asarray(jax.jit(program)(x, i))
            assert got.dtype == expected.dtype, name
            native.append(fast.report().mode == "native")
            if dtype.endswith("float16"):  # NumPy knows no NaN of bfloat16
                got, expected = got.astype(np.float32), expected.astype(np.float32)
            np.testing.assert_array_equal(got, expected, err_msg=name)
    assert sum(native) >= len(native) - 2, dict(zip(_PROGRAMS, native, strict=True))
