"""Rows that are fetched ahead: the hints are where they should be, change nothing, and may point anywhere."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from workloads import Case, assert_same, sample

from tilewright.backends.llvm.codegen import compile_kernel, kernel_ir
from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc, blocks
from tilewright.ir.target import Target, detect_target
from tilewright.ir.text import parse_ir
from tilewright.ir.verify import verify
from tilewright.passes.schedule import Step, replay
from tilewright.search.rows import rows

SMALL_CACHES = replace(detect_target(), threads=2, l2_bytes=1 << 15, l1_bytes=1 << 12, l3_bytes=1 << 16)
TARGETS = {"native": SMALL_CACHES, "avx2": SMALL_CACHES.restricted("avx2")}

SCALED = """tilewright loop ir 1
func scaled
  input x: float32[6, 64]
  input w: float32[64]
  output y: float32[6, 64]
  block out [i: 0..6, j: 0..64]
    y[i, j] = mul(x[i, j], w[j])
"""


def softmax(x: jax.Array) -> jax.Array:
    return jax.nn.softmax(x)


def scheduled(shape: tuple[int, ...], target: Target) -> tuple[LoopFunc, Step | None]:
    """A softmax by the sketch's default, and its step that fetches ahead."""
    lowered = sample(Case("softmax", softmax, (shape,)))
    sketch = rows(lowered.func, target)
    assert sketch is not None
    trace = sketch.build(sketch.default)
    return replay(lowered.func, trace), next((s for s in trace if s.primitive == "prefetch"), None)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(40, 512), (70, 300), (2, 40, 259), (3, 2, 9, 1000)])
def test_rows_that_are_fetched_ahead_are_right(name, shape):
    func, step = scheduled(shape, TARGETS[name])
    assert step is not None
    verify(func)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[..., 3] = np.inf if shape == (70, 300) else x[..., 3]
    x = x.reshape(func.params[0].shape)
    # The interpreter knows nothing of hints, and memory behind the array can't be read.
    expected = interpret(func, [x])
    for got, wanted in zip(run_native(compile_kernel(func, TARGETS[name]), [x], 3), expected, strict=True):
        assert_same(got, wanted, False, str(shape))
    np.testing.assert_allclose(expected[0].reshape(shape), jax.nn.softmax(jnp.asarray(x).reshape(shape)), 1e-5, 1e-7)


def test_only_what_no_cache_holds_and_several_blocks_read_is_fetched():
    assert scheduled((40, 512), SMALL_CACHES)[1] is not None
    assert scheduled((8, 512), SMALL_CACHES)[1] is None  # may be in the caches
    assert scheduled((400, 50), SMALL_CACHES)[1] is None  # short rows
    assert scheduled((4, 20_000), SMALL_CACHES)[1] is None  # the next row would displace this one
    summed = sample(Case("sum", lambda x: x.sum(-1), ((40, 512),)))
    sketch = rows(summed.func, SMALL_CACHES)
    assert sketch is not None and sketch.choices["ahead"] == (0,)


@pytest.mark.parametrize("name", TARGETS)
def test_each_line_is_asked_for_once(name):
    steps = (("split", "out", "i", 1), ("vectorize", "out", "j"), ("prefetch", "out", "x", "out.i", 2))
    func = replay(parse_ir(SCALED), tuple(Step(n, t, tuple(a)) for n, t, *a in steps))
    assert next(blocks(func.body)).fetches
    text = kernel_ir(func, TARGETS[name])[0]
    assert text.count("call void @llvm.prefetch.p0") == 64 * 4 // 64


def test_a_hint_whose_loop_is_gone_means_nothing():
    steps = (
        ("split", "out", "i", 1),
        ("split", "out", "j", 64),
        ("prefetch", "out", "x", "out.j", 1),
        ("fuse", "out.i", "out.j"),
    )
    func = replay(parse_ir(SCALED), tuple(Step(n, t, tuple(a)) for n, t, *a in steps))
    assert "prefetch" not in kernel_ir(func, SMALL_CACHES)[0]
