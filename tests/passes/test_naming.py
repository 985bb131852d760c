"""Equal names for the iterators of axes that belong together."""

from __future__ import annotations

import numpy as np
from jax import lax
from small_programs import MATMUL, outputs, program
from workloads import Case, sample

from tilewright.ir.loop import blocks
from tilewright.ir.text import digest, print_ir
from tilewright.ir.verify import verify
from tilewright.passes.naming import align_names


def names(func):
    return [tuple(i.name for i in b.iters) for b in blocks(func.body)]


def test_a_program_with_equal_names_is_left_alone():
    assert print_ir(align_names(MATMUL)) == print_ir(MATMUL)


def test_names_follow_the_first_block():
    before = program("""
        input x: float32[4, 6, 5]
        output y: float32[4, 6]
        alloc t: float32[4]
          alloc u: float32[4, 6]
            block a [i1: 0..4]
              t[i1] = 0.0:float32
            block b [i: 0..4, i1: 0..6, r: 0..5 reduce]
              u[i, i1] = x[i, i1, r]
            block c [i: 0..4, j: 0..6]
              y[i, j] = add(t[i], u[i, j])
    """)
    after = align_names(before)
    # In b the name is taken by another axis; it keeps its own.
    assert names(after) == [("i1",), ("i", "i1", "r"), ("i1", "j")]
    assert digest(after) == digest(before)


def test_swapped_names_are_swapped_back():
    before = program("""
        input x: float32[3, 3]
        output y: float32[3, 3]
        alloc t: float32[3, 3]
          block a [i: 0..3, j: 0..3]
            t[i, j] = x[j, i]
          block b [j: 0..3, i: 0..3]
            y[j, i] = add(t[j, i], x[i, j])
    """)
    after = align_names(before)
    verify(after)
    assert names(after) == [("i", "j"), ("i", "j")]
    np.testing.assert_array_equal(outputs(after)[0], outputs(before)[0])


def test_a_bias_after_a_squeeze_has_the_names_of_the_convolution():
    def fn(x, w, b):
        y = lax.conv_general_dilated(x[None], w, (1, 1), "SAME")
        return y[0] + b[:, None, None]

    lowered = sample(Case("squeezed", fn, ((3, 5, 6),), ((4, 3, 3, 3), (4,))))
    assert {n[:3] for n in names(lowered.func)} == {("i1", "i2", "i3")}
