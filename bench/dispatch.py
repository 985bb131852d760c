"""What a call costs beyond `jax.jit`: `python -m tilewright.bench.dispatch`.

Times tiny functions, whose run time is dispatch, interleaved in rounds; prints the median per call and the median of
the paired differences.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..compiler import compile

ROUNDS = 60
CALLS = 500


def per_call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Seconds per call, over one round of calls; the results are not waited for."""
    start = time.perf_counter()
    for _ in range(CALLS):
        function(*arguments)
    return (time.perf_counter() - start) / CALLS


def compare(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float, float]:
    """Median seconds of `jax.jit`, of the compiled function, and of their difference within a round."""
    jitted, compiled = jax.jit(function), compile(function)
    jax.block_until_ready((jitted(*arguments), compiled(*arguments)))
    pairs = [(per_call(jitted, arguments), per_call(compiled, arguments)) for _ in range(ROUNDS)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b - a for a, b in pairs),
    )


def main() -> None:
    """Prints the table."""
    small = jnp.ones(4)
    tree = {f"w{i}": jnp.ones(2) for i in range(50)}
    cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "one array": (lambda x: x + 1, (small,)),
        "three arrays": (lambda x, y, z: x * y + z, (small, small, small)),
        "tree of 50 arrays": (lambda t: sum(v.sum() for v in t.values()), (tree,)),
    }
    print(f"{'case':20} {'jax.jit us':>12} {'compiled us':>12} {'difference us':>14}")
    for name, (function, arguments) in cases.items():
        jitted, compiled, difference = (1e6 * seconds for seconds in compare(function, arguments))
        print(f"{name:20} {jitted:12.2f} {compiled:12.2f} {difference:14.2f}")


if __name__ == "__main__":
    main()
