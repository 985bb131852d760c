"""Panels that are fetched ahead: which products do so, that hints follow copies of their loop, and change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from guarded_memory import run_native
from hypothesis import given
from hypothesis import strategies as st
from products import built, operands, product, sketch_of

from tilewright.backends.llvm.codegen import compile_kernel, kernel_ir
from tilewright.ir.interp import interpret
from tilewright.ir.loop import Fetch, For, LoopFunc, blocks, walk
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.legalize import legalize
from tilewright.passes.packing import pack_array
from tilewright.passes.schedule import Step, replay

SMALL_CACHES = replace(detect_target(), threads=2, l1_bytes=1 << 10, l2_bytes=1 << 12)
TARGETS = {"host": SMALL_CACHES, "avx2": SMALL_CACHES.restricted("avx2")}


def hints(func: LoopFunc) -> list[Fetch]:
    return [hint for block in blocks(func.body) for hint in block.fetches]


def test_only_panels_that_the_second_level_cache_does_not_hold_are_fetched():
    large, small = product(49, 64, 96), product(49, 8, 16)
    sketch = sketch_of(large, SMALL_CACHES)
    assert sketch.choices["ahead"] == (sketch.default["ahead"], 0)
    assert hints(replay(large, built(large, SMALL_CACHES)))
    assert not hints(replay(large, built(large, SMALL_CACHES, ahead=0)))
    for func in (small, product(2, 64, 96), product(49, 64, 96, "input")):
        assert "ahead" not in sketch_of(func, SMALL_CACHES).choices


@pytest.mark.parametrize("steps", [64, 1500, 3000])
@pytest.mark.parametrize("unroll", [1, 2, 4])
def test_a_hint_names_the_innermost_loop_over_what_is_reduced(steps, unroll):
    func = product(20, steps, 96)
    scheduled = replay(func, built(func, SMALL_CACHES, unroll=unroll))
    verify(scheduled)
    (hint,) = hints(scheduled)
    (loop,) = (s for s in walk(scheduled.body) if isinstance(s, For) and s.name == hint.loop)
    (update,) = blocks(loop.body)
    assert update.name == "update" and not any(isinstance(s, For) for s in walk(loop.body) if s is not loop)


def test_a_hint_follows_copies_of_its_loop():
    func = product(20, 64, 96)
    legal = legalize(replay(func, built(func, SMALL_CACHES, tile="12x2")), SMALL_CACHES.vector_bits // 32)
    loops = {s.name for s in walk(legal.body) if isinstance(s, For)}
    found = hints(legal)
    assert len(found) == 2 and {hint.loop for hint in found} <= loops


def test_each_line_of_a_step_is_asked_for_once():
    func = product(24, 64, 96)
    target = replace(TARGETS["avx2"], l2_bytes=1 << 14)  # no walks beside, which fetch too
    ahead, none = built(func, target, tile="2x4"), built(func, target, tile="2x4", ahead=0)
    assert ahead == none  # so few rows read their panel faster than it can be fetched
    found = kernel_ir(replay(func, (*none, Step("prefetch", "update", ("w", "update.k", 4)))), target)[0]
    plain = kernel_ir(replay(func, none), target)[0]
    lines = 4 * target.vector_bits // 8 // 64
    assert found.count("llvm.prefetch.p0(ptr") - plain.count("llvm.prefetch.p0(ptr") == lines


@given(
    sizes=st.tuples(st.integers(4, 40), st.integers(1, 70), st.integers(1, 70)),
    target=st.sampled_from(sorted(TARGETS)),
    special=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_that_fetch_give_what_the_interpreter_gives(sizes, target, special, seed):
    x, w = operands(sizes, special, seed)
    func = product(*sizes)
    scheduled = replay(func, built(func, TARGETS[target]))
    packed = next(b for b in scheduled.params if b.name == "w")
    with np.errstate(all="ignore"):
        (expected,) = interpret(func, [x, w])
    (found,) = run_native(compile_kernel(scheduled, TARGETS[target]), [x, pack_array(w, packed)], 3)
    np.testing.assert_array_equal(found, expected)
