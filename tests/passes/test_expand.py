"""Cutting axes of channels into groups and their members."""

from __future__ import annotations

import numpy as np
import pytest
from jax import lax
from small_programs import program
from workloads import Case, sample

from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc, blocks, buffers
from tilewright.ir.text import print_ir
from tilewright.ir.verify import verify
from tilewright.passes.expand import expand

GROUPED = """
    input x: float32[{channels}, 9]
    constant w: float32[6, 2]
    output y: float32[6, 9]
    alloc t: float32[6, 9]
      block init [o: 0..6, i: 0..9]
        t[o, i] = 0.0:float32
      block update [o: 0..6, i: 0..9, r: 0..2 reduce]
        t[o, i] sum= mul(x[{index}, i], w[o, r])
      block out [o: 0..6, i: 0..9]
        y[o, i] = t[o, i]
"""


def grouped(index: str, channels: int) -> LoopFunc:
    return program(GROUPED.format(index=index, channels=channels))


def same(before: LoopFunc, after: LoopFunc) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, b.shape).astype(np.float32) for b in before.inputs]
    moved = [a.reshape(b.shape) for a, b in zip(arrays, after.inputs, strict=True)]
    for got, want in zip(interpret(after, moved), interpret(before, arrays), strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape), want)


@pytest.mark.parametrize("per_group", [2, 3])
def test_groups_become_an_axis(per_group):
    groups = 6 // per_group
    before = grouped(f"2*(o // {per_group}) + r", 2 * groups)
    after = expand(before)
    verify(after)
    same(before, after)
    assert "//" not in print_ir(after)
    shapes = {name: b.shape for name, b in buffers(after).items()}
    assert shapes["x"] == (groups, 2, 9) and shapes["w"] == (groups, per_group, 2)
    assert shapes["y"] == shapes["t"] == (groups, per_group, 9)
    assert all(b.iterator("og") for b in blocks(after.body))


def test_one_channel_per_group_is_not_cut():
    before = grouped("(o // 2)", 3)
    after = expand(before)
    verify(after)
    same(before, after)
    assert buffers(after)["x"].shape == (3, 9) and buffers(after)["y"].shape == (3, 2, 9)


@pytest.mark.parametrize("index", ["(o // 4)", "2*(o // 2) + (o % 2)", "(o // 2) + (o // 3)"])
def test_other_quotients_stay(index):
    before = grouped(index, 6)
    after = expand(before)
    verify(after)
    same(before, after)


def test_a_program_without_quotients_is_left_alone():
    before = grouped("r", 2)
    assert expand(before) is before


@pytest.mark.parametrize(("groups", "depth", "features"), [(2, 3, 16), (4, 1, 18), (3, 2, 1)])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_grouped_convolutions_have_no_quotients(layout, groups, depth, features):
    assert "//" not in print_ir(grouped_convolution(layout, groups, depth, features))


@pytest.mark.parametrize(("groups", "depth", "features"), [(2, 3, 4), (8, 1, 2)])
def test_groups_that_share_a_vector_stay_whole(groups, depth, features):
    assert "//" in print_ir(grouped_convolution("NHWC", groups, depth, features))
    assert "//" not in print_ir(grouped_convolution("NCHW", groups, depth, features))


def grouped_convolution(layout, groups, depth, features) -> LoopFunc:
    sizes = {"N": 2, "C": groups * depth, "H": 4, "W": 5}
    weights = (groups * features, depth, 3, 3)

    def fn(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=(layout, "OIHW", layout), feature_group_count=groups
        )

    lowered = sample(Case("grouped", fn, (tuple(sizes[a] for a in layout),), (weights,)))
    lowered.check(interpret(lowered.func, lowered.arguments(lowered.func)), "lowered")
    return lowered.func
