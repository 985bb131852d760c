"""What is used without measuring: by predictions for given CPUs, so that it is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tilewright.backends.llvm.kernel import Kernel
from tilewright.driver.planning import Choice, Partition, partition
from tilewright.driver.predictions import Predictions
from tilewright.driver.worthwhile import worthwhile
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.target import Target
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 255.0, 60.0)
SLOW_CLOCK = replace(TARGET, fma_gflops_per_thread=166.0)


def decided(
    fn: Callable[..., Any], shapes: list[tuple[int, ...]], target: Target = TARGET
) -> tuple[Partition, set[str]]:
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    parts = partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*arrays))))
    traces = {key: Predictions(target).traces(task) for key, task in parts.tasks.items()}
    choices = {key: Choice(found[0], cast("Kernel", None)) for key, found in traces.items() if found}
    return parts, set(worthwhile(parts, choices, target, 1.15))


def power_iteration(w: Any, v: Any) -> Any:
    return lax.fori_loop(0, 5, lambda _, v: w.T @ (w @ v) / jnp.linalg.norm(v), v)


def sobel(x: Any) -> Any:
    p = jnp.pad(x, 1)
    across = p[:-2, 2:] + 2 * p[1:-1, 2:] + p[2:, 2:] - p[:-2, :-2] - 2 * p[1:-1, :-2] - p[2:, :-2]
    down = p[2:, :-2] + 2 * p[2:, 1:-1] + p[2:, 2:] - p[:-2, :-2] - 2 * p[:-2, 1:-1] - p[:-2, 2:]
    return jnp.sqrt(across**2 + down**2)


def waves(u: Any) -> Any:
    return lax.fori_loop(0, 9, lambda _, u: sum(jnp.roll(u, s, axis) for s in (1, -1) for axis in range(3)) / 6, u)


def encoded(x: Any) -> Any:
    return jnp.concatenate([f(x * 2.0**i) for i in range(6) for f in (jnp.sin, jnp.cos)], axis=-1)


def rotated(q: Any, v: Any) -> Any:
    w, u = q[:, :1], q[:, 1:]
    t = 2 * jnp.cross(u, v)
    return v + w * t + jnp.cross(u, t)


def median(x: Any) -> Any:
    """Of three by three neighbours: every pair of the sorting network reads the border anew."""
    p = jnp.pad(x, 1, mode="edge")
    height, width = x.shape
    w = [p[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    pairs = "12 45 78 01 34 67 12 45 78 03 58 47 36 14 25 47 42 64 42".split()
    for a, b in ((int(a), int(b)) for a, b in pairs):
        w[a], w[b] = jnp.minimum(w[a], w[b]), jnp.maximum(w[a], w[b])
    return w[4]


WINS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "down columns": (power_iteration, [(1024, 1024), (1024,)]),
    "padded neighbours": (sobel, [(512, 512)]),
    "rolled grid": (waves, [(64, 64, 128)]),
    "parts": (encoded, [(8192, 3)]),
    "some hundred rows": (lambda x, w: jnp.tanh(x @ w), [(64, 512), (512, 512)]),
    "outer product": (lambda x, w, y: jnp.einsum("bi,ijk,bj->bk", x, w, y), [(128, 64), (64, 64, 64), (128, 64)]),
}


@pytest.mark.parametrize("target", [TARGET, SLOW_CLOCK], ids=["usual clock", "slow clock"])
@pytest.mark.parametrize("name", WINS)
def test_what_gains_is_taken_whatever_the_clock(name: str, target: Target) -> None:
    _, kept = decided(*WINS[name], target)
    assert kept


def test_parts_that_share_nothing_are_decided_apart() -> None:
    def both(q: Any, v: Any, x: Any) -> Any:
        return rotated(q, v), encoded(x)

    alone, _ = decided(encoded, [(8192, 3)])
    parts, kept = decided(both, [(50_000, 4), (50_000, 3), (8192, 3)])
    assert kept == set(alone.tasks) < set(parts.tasks)


def test_a_view_behind_a_result_decides_nothing() -> None:
    def summed(x: Any) -> Any:
        return jnp.tanh(2 * x) + jnp.exp(x)

    _, kept = decided(summed, [(512, 512)])
    _, flat = decided(lambda x: summed(x).reshape(-1), [(512, 512)])
    assert len(kept) == len(flat) == 1


LOSES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "what xla fuses": (rotated, [(50_000, 4), (50_000, 3)]),
    "a large product": (jnp.matmul, [(2048, 2048), (2048, 2048)]),
    "copies of a border": (median, [(480, 641)]),
    "a little beside what is XLA's": (lambda x: jnp.sort(x.T * 2, axis=0), [(64, 128)]),
    "moving": (lambda x: x[::2] * 2, [(64, 64)]),
}


@pytest.mark.parametrize("target", [TARGET, SLOW_CLOCK], ids=["usual clock", "slow clock"])
@pytest.mark.parametrize("name", LOSES)
def test_what_gains_little_is_left(name: str, target: Target) -> None:
    parts, kept = decided(*LOSES[name], target)
    assert parts.tasks and not kept
