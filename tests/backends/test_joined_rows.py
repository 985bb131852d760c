"""Tiles of whole rows that are joined to one range of vectors: native code against the interpreter and JAX."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from products import built, operands, product, sketch_of
from workloads import Case, conv, sample

from tilewright.backends.llvm.codegen import compile_kernel, kernel_ir
from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.packing import pack_array
from tilewright.passes.schedule import replay

HOST = replace(detect_target(), threads=2)
TARGETS = {"host": HOST, "avx2": HOST.restricted("avx2")}


def joined(func: LoopFunc, target: str) -> list[str]:
    return [str(t) for t in sketch_of(func, TARGETS[target]).choices["tile"] if str(t).endswith("j")]


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(2, 40), st.integers(1, 20), st.integers(9, 47)),
    scope=st.sampled_from(["constant", "input"]),
    target=st.sampled_from(sorted(TARGETS)),
    unroll=st.sampled_from([1, 2]),
    special=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_of_joined_rows_give_what_the_interpreter_gives(sizes, scope, target, unroll, special, seed):
    x, w = operands(sizes, special, seed)
    func = product(*sizes, scope)
    tiles = joined(func, target)
    assume(tiles)
    trace = built(func, TARGETS[target], tile=tiles[seed % len(tiles)], unroll=unroll if sizes[1] % 2 == 0 else 1)
    with np.errstate(all="ignore"):
        (expected,) = interpret(func, [x, w])
    scheduled = replay(func, trace)
    verify(scheduled)
    packed = next(b for b in scheduled.params if b.name == "w")
    arrays = [x, pack_array(w, packed) if scope == "constant" else w]
    (found,) = run_native(compile_kernel(scheduled, TARGETS[target]), arrays, 3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("steps", [1500, 3000])
def test_long_sums_are_added_up_in_parts(target, steps):
    x, w = operands((21, steps, 20), False, steps)
    func = product(21, steps, 20)
    tiles = joined(func, target)
    assert tiles
    for tile in tiles[:2]:
        scheduled = replay(func, built(func, TARGETS[target], tile=tile))
        verify(scheduled)
        packed = next(b for b in scheduled.params if b.name == "w")
        (found,) = run_native(compile_kernel(scheduled, TARGETS[target]), [x, pack_array(w, packed)], 2)
        np.testing.assert_array_equal(found, x @ w)


def projection(x, w, b, residual):
    """A product as wide as one and a half vectors, with all that may come after it."""
    return jnp.maximum(x @ w + b, 0) + residual * 2


CASES = (
    Case("projection", lambda x, r, w, b: projection(x, w, b, r), ((37, 6), (37, 20)), ((6, 20), (20,))),
    Case("batch", lambda x, w: jnp.einsum("bik,bkj->bij", x, w), ((3, 11, 5),), ((3, 5, 20),)),
    Case("conv-1x1", conv(), ((2, 5, 7, 6),), ((1, 1, 6, 20), (20,))),
    Case("conv-3x3", conv(1, ((1, 1), (0, 0))), ((1, 6, 9, 3),), ((3, 3, 3, 20), (20,))),
    Case("conv-strided", conv(2, "VALID"), ((2, 7, 9, 3),), ((3, 3, 3, 20), (20,))),
    Case("halves", lambda x, w: (x @ w).astype(jnp.float16), ((19, 4),), ((4, 20),)),
    Case("ranges", lambda x, w: x @ w + jnp.arange(20.0), ((19, 4),), ((4, 20),)),
)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_workloads_of_joined_rows_give_what_jax_gives(case, target):
    sampled = sample(case)
    func = sampled.func
    tiles = joined(func, target)
    assert tiles
    for tile in [*tiles[:2], tiles[-1]]:
        scheduled = replay(func, built(func, TARGETS[target], tile=tile))
        verify(scheduled)
        kernel = compile_kernel(scheduled, TARGETS[target])
        sampled.check(run_native(kernel, sampled.arguments(scheduled), 3), tile)


def test_rows_with_padding_are_not_joined():
    """Their lanes would be loaded one by one at the edges."""
    padded = sample(Case("conv-3x3-same", conv(), ((1, 6, 9, 3),), ((3, 3, 3, 20), (20,))))
    assert not joined(padded.func, "avx2")


def test_vectors_of_two_rows_are_put_together_from_whole_ones():
    func = product(16, 8, 20)
    text = kernel_ir(replay(func, built(func, TARGETS["avx2"], tile="2x3j")), TARGETS["avx2"])[0]
    loop = text[text.index("phi") :]
    # 40 results are 5 vectors: the middle one has the last 4 columns of one row and the first 4 of the next.
    assert loop.count("call <8 x float> @llvm.fma.v8f32") == 5
    assert loop.count("select <8 x i1> <i1 false, i1 false, i1 false, i1 false, i1 true") == 1
    assert loop.count("<8 x i32> <i32 12, i32 13, i32 14, i32 15, i32 0, i32 1, i32 2, i32 3>") == 1
