"""Default schedules of odd shapes: long sums, reductions to few values, products of one row, heavy arithmetic."""

from __future__ import annotations

import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from test_codegen import TARGETS
from workloads import Case, Sample, conv, sample

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.ir.target import Target
from tilewright.passes.schedule import replay
from tilewright.search import chains
from tilewright.search.predict import predicted_choice


def outputs(lowered: Sample, target: Target) -> list[np.ndarray]:
    choice = predicted_choice(lowered.func, target)
    assert choice is not None
    scheduled = replay(lowered.func, choice.trace)
    return run_native(compile_kernel(scheduled, target), lowered.arguments(scheduled), 3)


# ---- chains

LONG = [
    Case("dense", lambda x, w: x @ w, ((5, 2048),), ((2048, 37),)),
    Case("dense, uneven", lambda x, w: x @ w, ((7, 1031),), ((1031, 48),)),
    Case("vector", lambda x, w: x @ w, ((1, 3000),), ((3000, 20),)),
    Case("padded", conv(), ((1, 5, 6, 130),), ((3, 3, 130, 20), (20,))),
    Case("large window", conv(2), ((1, 9, 9, 70),), ((5, 5, 70, 16), (16,))),
]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("case", LONG, ids=lambda c: c.name)
@pytest.mark.parametrize("name", TARGETS)
def test_long_sums_are_right(name: str, case: Case, special: bool) -> None:
    lowered = sample(case, special)
    # With more threads each would sum a part that is short enough.
    target = replace(TARGETS[name], threads=2)
    assert "accumulate" in {step.primitive for step in predicted_choice(lowered.func, target).trace}
    lowered.check(outputs(lowered, target), name)


def test_short_chains_lose_less(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 8192), (8192, 48)))
    lowered = sample(Case("dense", lambda x, w: x @ w, (x,), (w,)))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    target = next(iter(TARGETS.values()))

    def error() -> float:
        return float(np.sqrt(np.mean((outputs(lowered, target)[0] - exact) ** 2)))

    parts = error()
    monkeypatch.setattr(chains, "MAX_CHAIN", 1 << 30)
    assert parts < 0.6 * error()


# ---- few results

FEW = [
    Case("largest", lambda x: x.max(), ((31, 45),)),
    Case("sum", lambda x: x.sum(), ((1001, 7),)),
    Case("sum of one", lambda x: x.sum(), ((1,),)),
    Case("sum of seven", lambda x: x.sum(), ((7,),)),
    Case("any", lambda x: (x > 3).any(), ((40, 41),)),
    Case("product", lambda x: (1 + 0 * x).prod(), ((130,),)),
    Case("norms", lambda x: jnp.sqrt((x * x).sum(1)), ((33, 130),), exact=False),
    Case("integers", lambda x: x.sum(-1), (np.arange(5 * 77, dtype=np.int32).reshape(5, 77),)),
    Case("deviation", lambda x: x.std(1), ((9, 100),), exact=False),
]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("case", FEW, ids=lambda c: c.name)
@pytest.mark.parametrize("name", TARGETS)
def test_reductions_to_few_values(name: str, case: Case, special: bool) -> None:
    lowered = sample(case, special)
    choice = predicted_choice(lowered.func, TARGETS[name])
    assert choice is not None and choice.sketch == ("plain" if lowered.arrays[0].size == 1 else "rows")
    lowered.check(outputs(lowered, TARGETS[name]), name)


# ---- operands that are used once


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", TARGETS)
def test_what_one_row_reads_is_not_laid_out_anew(name: str, rows: int) -> None:
    keys = Case("scores", lambda q, k: jnp.einsum("hmd,hkd->hmk", q, k), ((3, rows, 40), (3, 70, 40)), exact=False)
    lowered = sample(keys)
    trace = predicted_choice(lowered.func, TARGETS[name]).trace
    assert ("cache_read" in {step.primitive for step in trace}) == (rows > 1)
    lowered.check(outputs(lowered, TARGETS[name]), name)


# ---- heavy arithmetic


def test_long_runs_of_heavy_arithmetic_become_loops() -> None:
    def heavy(x: jax.Array, y: jax.Array) -> jax.Array:
        mean = jnp.log(jnp.abs(x) + 1) + jnp.exp(-jnp.abs(y))
        other = mean - 0.2 * jnp.sqrt(jnp.abs(x))
        return jax.scipy.stats.norm.cdf(mean) - y * jax.scipy.stats.norm.cdf(other)

    lowered = sample(Case("heavy", heavy, ((50_000,), (50_000,)), exact=False))
    start = time.perf_counter()
    target = next(iter(TARGETS.values()))
    kernel = compile_kernel(replay(lowered.func, predicted_choice(lowered.func, target).trace), target)
    assert len(kernel.object_code) < 200_000, f"unrolled; took {time.perf_counter() - start:.0f} s to compile"
    lowered.check(run_native(kernel, lowered.arguments(lowered.func), 3), "heavy")
