"""Element types beside each other: ``python -m tilewright.bench.element_types [cases]``.

Large arrays through elementwise functions and reductions, ours (effort 0) and `jax.jit` in turns in one process. Where
both take about as long, the function stays XLA's. Results come from fresh pages unless the allocator keeps them: see
the page on performance for the environment.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from ..compiler import compile
from ..ir.dtypes import is_integer, to_numpy
from .timing import Stopwatch, turns

_ELEMENTS = 1 << 24
_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Case:
    """A function of large arrays.

    Args:
        fn: the function.
        dtypes: element types of its arguments to try it with.
        arity: how many arguments it takes.
        columns: width of the arguments where they are matrices, else 0.
    """

    fn: Callable[..., jax.Array]
    dtypes: str
    arity: int = 1
    columns: int = 0

    def arguments(self, dtype: str, rng: np.random.Generator) -> list[jax.Array]:
        """Arguments of `_ELEMENTS` elements."""
        shape = (_ELEMENTS // self.columns, self.columns) if self.columns else (_ELEMENTS,)
        if is_integer(dtype):
            return [jnp.asarray(rng.integers(1, 100, shape, dtype=dtype)) for _ in range(self.arity)]
        return [jnp.asarray(rng.standard_normal(shape, np.float32).astype(to_numpy(dtype))) for _ in range(self.arity)]


def _standardised(x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1)


def _noisy(x: jax.Array) -> jax.Array:
    return x + jax.random.normal(jax.random.key(0), x.shape, x.dtype)


def _dropout(x: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(jax.random.key(0), jnp.float32(0.9), x.shape), x / x.dtype.type(0.9), 0)


CASES = {
    "gelu": Case(jax.nn.gelu, "bfloat16 float16 float32 float64"),
    "relu": Case(jax.nn.relu, "bfloat16 float16 float32 float64"),
    "exp": Case(jnp.exp, "bfloat16 float64"),
    "log": Case(lambda x: jnp.log(jnp.abs(x) + 1), "bfloat16 float64"),
    "sin": Case(jnp.sin, "float32 float64"),
    "pow": Case(lambda x, y: jnp.abs(x) ** y, "float32 float64", 2),
    "erf_inv": Case(lambda x: jax.lax.erf_inv(jnp.tanh(x)), "float32 float64"),
    "lgamma": Case(lambda x: jax.lax.lgamma(jnp.abs(x)), "float32 float64"),
    "digamma": Case(lambda x: jax.lax.digamma(jnp.abs(x)), "float32"),
    "normal": Case(_noisy, "float32"),
    "dropout": Case(_dropout, "float32"),
    "add": Case(lambda x, y: x + y, "int8 int16 int64 bfloat16", 2),
    "divide": Case(lambda x, y: x // y, "int8 int32 int64", 2),
    "quantise": Case(lambda x: jnp.clip(jnp.round(x * 16), -128, 127).astype("int8"), "bfloat16 float32"),
    "softmax": Case(jax.nn.softmax, "bfloat16 float16 float64", columns=4096),
    "normalise": Case(_standardised, "bfloat16 float16 float64", columns=4096),
    "sum": Case(lambda x: x.sum(1, dtype=x.dtype), "int8 float16 float64", columns=4096),
}


def main() -> None:
    """Print a row per case and element type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CASES), help="cases, all by default")
    jax.config.update("jax_enable_x64", True)
    print(f"{'case':10} {'type':9} {'mode':7} {'ours ms':>9} {'GB/s':>6} {'jax.jit ms':>11} {'ratio':>6}")
    for name in parser.parse_args().names:
        for dtype in CASES[name].dtypes.split():
            _row(name, dtype)


def _row(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    case = CASES[name]
    given = case.arguments(dtype, rng)
    sides = {"ours": compile(case.fn, effort=0, database=":memory:"), "jit": jax.jit(case.fn)}
    runs = {side: partial(_finished, fn, given) for side, fn in sides.items()}
    moved = sum(x.nbytes for x in given) + jax.block_until_ready(sides["ours"](*given)).nbytes
    watches = {side: Stopwatch() for side in sides}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in turns(list(sides), _ROUNDS, rng):
        for side in turn:
            times[side].append(watches[side].sample(runs[side]))
    ours, jit = median(times["ours"]), median(times["jit"])
    ratio = median(b / a for a, b in zip(times["ours"], times["jit"], strict=True))
    mode = sides["ours"].report().mode  # pyright: ignore[reportAttributeAccessIssue]
    print(f"{name:10} {dtype:9} {mode:7} {ours:9.2f} {moved / ours / 1e6:6.1f} {jit:11.2f} {ratio:6.2f}", flush=True)


def _finished(fn: Callable[..., jax.Array], given: list[jax.Array]) -> jax.Array:
    return jax.block_until_ready(fn(*given))


if __name__ == "__main__":
    main()
