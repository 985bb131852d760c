"""The normal form of workloads: what merges, what must not, and that both compute the same."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc
from tilewright.ir.text import digest, parse_ir
from tilewright.ir.verify import verify
from tilewright.passes.collapse import collapse


def program(*lines: str) -> LoopFunc:
    func = parse_ir("tilewright loop ir 1\nfunc f\n" + "\n".join("  " + line for line in lines) + "\n")
    verify(func)
    return func


def same(func: LoopFunc) -> LoopFunc:
    """The collapsed program, after checking that it is valid and computes the same."""
    short = collapse(func)
    verify(short)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, b.shape).astype(b.dtype) for b in func.inputs]
    wanted = interpret(func, arrays)
    found = interpret(short, [a.reshape(b.shape) for a, b in zip(arrays, short.inputs, strict=True)])
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a.reshape(-1), b.reshape(-1))
    return short


def shapes(func: LoopFunc) -> list[tuple[int, ...]]:
    return [b.shape for b in func.params]


def test_axes_used_together_merge_and_unit_axes_go():
    func = program(
        "input x: float32[1, 3, 4, 5]",
        "output y: float32[1, 3, 4, 5]",
        "block b [n: 0..1, i: 0..3, j: 0..4, c: 0..5]",
        "  y[n, i, j, c] = neg(x[n, i, j, c])",
    )
    assert shapes(same(func)) == [(60,), (60,)]


def test_equal_work_has_one_digest():
    wide = program(
        "input x: float32[2, 6]", "output y: float32[2, 6]", "block b [i: 0..2, j: 0..6]", "  y[i, j] = neg(x[i, j])"
    )
    flat = program("input x: float32[12]", "output y: float32[12]", "block b [i: 0..12]", "  y[i] = neg(x[i])")
    assert digest(collapse(wide)) == digest(collapse(flat))


def test_reduced_axes_merge():
    func = program(
        "input x: float32[2, 3, 4]",
        "output y: float32[2]",
        "block init [i: 0..2]",
        "  y[i] = 0.0:float32",
        "block b [i: 0..2, r: 0..3 reduce, s: 0..4 reduce]",
        "  y[i] sum= x[i, r, s]",
    )
    assert shapes(same(func)) == [(2, 12), (2,)]


def test_reduced_axes_that_a_guard_tells_apart_stay():
    func = program(
        "input x: float32[2, 3, 4]",
        "output y: float32[2]",
        "block init [i: 0..2]",
        "  y[i] = 0.0:float32",
        "block b [i: 0..2, r: 0..3 reduce, s: 0..4 reduce]",
        "  y[i] sum= x[i, r, s]",
        "  guard skip: s - 1 >= 0",
    )
    assert shapes(same(func)) == [(2, 3, 4), (2,)]


@pytest.mark.parametrize(
    "value",
    [
        "mul(x[i, j], z[j])",  # an operand that only one of the axes indexes
        "x[j, i]",  # transposed
        "x[i, j]{i - 1 >= 0 else 0.0}",  # padding along one of the axes
        "mul(z[0]{i + j - 2 >= 0 else 0.0}, 2.0:float32)",  # a guard alone uses the axes
        "add(x[i, j], index(i):float32)",  # an index used as a value
        "x[-i + 3, j]",  # reversed
    ],
)
def test_axes_that_mean_something_apart_stay(value):
    func = program(
        "input x: float32[4, 4]",
        "input z: float32[4]",
        "output y: float32[4, 4]",
        "block b [i: 0..4, j: 0..4]",
        f"  y[i, j] = {value}",
    )
    assert shapes(same(func))[-1] == (4, 4)


def test_a_guarded_block_keeps_its_axes():
    func = program(
        "output y: float32[4, 4]",
        "block b [i: 0..4, j: 0..4]",
        "  y[i, j] = 1.0:float32",
        "  guard zero: i - 1 >= 0",
    )
    assert shapes(same(func)) == [(4, 4)]


def test_order_of_iterators_matters():
    func = program(
        "input x: float32[2, 3]", "output y: float32[2, 3]", "block b [j: 0..3, i: 0..2]", "  y[i, j] = neg(x[i, j])"
    )
    assert shapes(same(func))[-1] == (2, 3)


def test_empty_axes_merge():
    func = program(
        "input x: float32[0, 3]", "output y: float32[0, 3]", "block b [i: 0..0, j: 0..3]", "  y[i, j] = neg(x[i, j])"
    )
    assert shapes(same(func)) == [(0,), (0,)]
