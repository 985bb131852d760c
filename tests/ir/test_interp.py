"""The interpreter against NumPy, and on programs that do something undefined."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import random_inputs, random_program, tile

from tilewright.ir.interp import InterpError, interpret, pack_array
from tilewright.ir.loop import Pack
from tilewright.ir.text import parse_ir
from tilewright.ir.verify import verify

HEAD = "tilewright loop ir 1\nfunc f\n"

MATMUL = """tilewright loop ir 1
func matmul
  input x: float32[16, 16]
  constant w: float32[2, 16, 8] pack(1, 8, 13)
  input bias: float32[13]
  output out: float32[16, 13]
  parallel n in 0..2
    for m in 0..3
      alloc acc: float32[6, 8] register
        block init [i: 6*m..+6 < 16, j: 8*n..+8 < 13 vector]
          acc[-6*m + i, j - 8*n] = bias[j]
        block update [k: 0..16 reduce, i: 6*m..+6 < 16, j: 8*n..+8 < 13 vector]
          acc[-6*m + i, j - 8*n] sum= mul(x[i, k], w[n, k, j - 8*n])
        block store [i: 6*m..+6 < 16, j: 8*n..+8 < 13 vector]
          out[i, j] = max(acc[-6*m + i, j - 8*n], 0.0:float32)
"""

CONV = """tilewright loop ir 1
func conv
  input x: float32[10, 10, 8]
  constant w: float32[3, 3, 8, 4]
  output y: float32[5, 5, 4]
  block init [h: 0..5, u: 0..5, o: 0..4]
    y[h, u, o] = 0.0:float32
  block update [h: 0..5, u: 0..5, r: 0..3 reduce, s: 0..3 reduce, k: 0..8 reduce, o: 0..4]
    y[h, u, o] sum= mul(x[2*h + r - 1, s + 2*u - 1, k]{2*h + r - 1 >= 0, s + 2*u - 1 >= 0 else 0.0}, w[r, s, k, o])
"""


def run(text: str, *arrays: np.ndarray) -> np.ndarray:
    func = parse_ir(text)
    verify(func)
    (out,) = interpret(func, arrays)
    return out


def copying(dtype: str, body: str, shape: str = "[8]") -> str:
    return HEAD + f"  input x: {dtype}{shape}\n  output y: {dtype}{shape}\n{body}"


def test_matmul_with_tails_and_epilogue(rng: np.random.Generator) -> None:
    x, w, bias = (rng.normal(size=s).astype(np.float32) for s in ((16, 16), (16, 13), (13,)))
    expected = np.maximum(x.astype(np.float64) @ w + bias, 0)
    np.testing.assert_allclose(run(MATMUL, x, w, bias), expected, rtol=1e-5, atol=1e-5)
    packed = pack_array(w, (Pack(1, 8, 13),))
    np.testing.assert_array_equal(run(MATMUL, x, packed, bias), run(MATMUL, x, w, bias))


def test_guarded_convolution(rng: np.random.Generator) -> None:
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((10, 10, 8), (3, 3, 8, 4)))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2]
    expected = np.einsum("huers,rseo->huo", windows, w)
    np.testing.assert_allclose(run(CONV, x, w), expected, rtol=1e-4, atol=1e-5)


def test_triangular_loops_and_several_bounds() -> None:
    loops = "  block a [i: 0..8]\n    y[i] = 0:int32\n  for l in 0..8\n    for m in max(l, 2)..min(8, l + 3)\n"
    out = run(copying("int32", loops + "      block b []\n        y[l] sum= x[m]\n"), np.arange(8, dtype=np.int32))
    assert out.tolist() == [sum(range(max(n, 2), min(8, n + 3))) for n in range(8)]


def test_if_takes_one_branch() -> None:
    body = (
        "  for l in 0..8\n    if l - 3 >= 0, -l + 5 >= 0\n      block a []\n        y[l] = x[l]\n"
        "    else\n      block b []\n        y[l] = -1:int32\n"
    )
    out = run(copying("int32", body), np.arange(8, dtype=np.int32))
    assert out.tolist() == [-1, -1, -1, 3, 4, 5, -1, -1]


def test_guards_of_blocks_zero_or_skip() -> None:
    body = (
        "  block a [i: 0..8]\n    y[i] = 7:int32\n  block b [i: 0..8]\n    y[i] = x[i - 2]\n    guard {}: i - 2 >= 0\n"
    )
    x = np.arange(1, 9, dtype=np.int32)
    assert run(copying("int32", body.format("zero")), x).tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert run(copying("int32", body.format("skip")), x).tolist() == [7, 7, 1, 2, 3, 4, 5, 6]


def test_index_values() -> None:
    body = "  block b [i: 0..8]\n    y[i] = mul(index((i % 3) - 1):float32, x[i])\n"
    x = np.full(8, 2, np.float32)
    np.testing.assert_array_equal(run(copying("float32", body), x), 2.0 * (np.arange(8) % 3 - 1))


MONOIDS = {
    "sum": (np.add, 0),
    "prod": (np.multiply, 1),
    "max": (np.maximum, -100),
    "min": (np.minimum, 100),
    "and": (np.bitwise_and, -1),
    "or": (np.bitwise_or, 0),
}


@pytest.mark.parametrize("monoid", MONOIDS)
@pytest.mark.parametrize("extent", [0, 1, 5])
def test_monoids(monoid: str, extent: int, rng: np.random.Generator) -> None:
    ufunc, start = MONOIDS[monoid]
    text = (
        HEAD + f"  input x: int32[3, {extent}]\n  output y: int32[3]\n  block a [i: 0..3]\n    y[i] = {start}:int32\n"
        f"  block b [k: 0..{extent} reduce, i: 0..3]\n    y[i] {monoid}= x[i, k]\n"
    )
    x = rng.integers(-50, 50, (3, extent)).astype(np.int32)
    np.testing.assert_array_equal(run(text, x), ufunc.reduce(x, axis=1, initial=start))


def test_larger_passes_over_nan() -> None:
    body = (
        "  block a [i: 0..8]\n    y[i] = -inf:float32\n"
        "  block b [i: 0..8, k: 0..8 reduce]\n    y[i] larger= x[((i + k) % 8)]\n"
    )
    x = np.array([1, np.nan, *range(6)], np.float32)
    assert (run(copying("float32", body), x) == 5).all()
    assert (run(copying("float32", body), np.full(8, np.nan, np.float32)) == -np.inf).all()


@pytest.mark.parametrize("monoid", ["max", "min"])
def test_nan_propagates_through_extremes(monoid: str) -> None:
    body = (
        f"  block a [i: 0..8]\n    y[i] = 0.0:float32\n  block b [i: 0..8, k: 0..8 reduce]\n    y[i] {monoid}= x[k]\n"
    )
    x = np.array([1, np.nan, *range(6)], np.float32)
    assert np.isnan(run(copying("float32", body), x)).all()


def test_sums_round_in_the_stated_type() -> None:
    body = "  block a [i: 0..1]\n    y[i] = 0.0:bfloat16\n  block b [k: 0..300 reduce, i: 0..1]\n    y[i] sum= x[k]\n"
    text = HEAD + "  input x: bfloat16[300]\n  output y: bfloat16[1]\n" + body
    assert float(run(text, np.ones(300, ml_dtypes.bfloat16))[0]) == 256.0  # 256 + 1 rounds back to 256


def test_integers_wrap_around() -> None:
    body = "  block b [i: 0..8]\n    y[i] = add(x[i], 100:int8)\n"
    x = np.full(8, 100, np.int8)
    assert run(copying("int8", body), x).tolist() == [-56] * 8


def test_empty_boxes_do_nothing() -> None:
    text = (
        HEAD
        + "  input x: float32[0, 3]\n  output y: float32[3, 0]\n  block b [i: 0..0, j: 0..3]\n    y[j, i] = x[i, j]\n"
    )
    assert run(text, np.zeros((0, 3), np.float32)).shape == (3, 0)
    matmul = (
        HEAD + "  input x: float32[2, 0]\n  output y: float32[2]\n  block a [i: 0..2]\n    y[i] = 0.5:float32\n"
        "  block b [i: 0..2, k: 0..0 reduce]\n    y[i] sum= x[i, k]\n"
    )
    assert run(matmul, np.zeros((2, 0), np.float32)).tolist() == [0.5, 0.5]
    scalars = HEAD + "  input x: float32[]\n  output y: float32[]\n  block b []\n    y[] = neg(x[])\n"
    assert run(scalars, np.array(3, np.float32)).item() == -3


def test_unwritten_memory_shows() -> None:
    body = "  alloc t: {0}[8]\n    block a [i: 0..4]\n      t[i] = x[i]\n    block b [i: 0..8]\n      y[i] = t[i]\n"
    floats = run(copying("float32", body.format("float32")), np.ones(8, np.float32))
    assert np.isnan(floats[4:]).all() and (floats[:4] == 1).all()
    integers = run(copying("int32", body.format("int32")), np.ones(8, np.int32))
    assert (integers[4:] == np.uint32(0xA5A5A5A5).astype(np.int32)).all()


def test_parallel_iterations_run_backwards() -> None:
    """Without the verifier's consent the order shows: iteration 0 comes last."""
    body = "  parallel l in 0..8\n    block b []\n      y[0] = x[l]\n"
    (out,) = interpret(parse_ir(copying("float32", body)), [np.arange(8, dtype=np.float32)])
    assert out[0] == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("  block b [i: 0..9]\n    y[i] = x[0]\n", r"expected index 0 of y in 0\.\.7, found i = 8 in b at i=8"),
        (
            "  block b [i: 0..8]\n    y[i] = x[i - 1]\n",
            r"expected index 0 of x in 0\.\.7, found i - 1 = -1 in b at i=0",
        ),
        ("  for l in 3..5\n    block b [i: 0..8]\n      y[i] = x[i + l]\n", "at l=3, i=5"),
        ("  block b [i: 0..8]\n    y[i] = x[i - 2]{i - 1 >= 0 else 0.0}\n", "found i - 2 = -1 in b at i=1"),
        ("  block b [i: -1..8]\n    y[i] = 1.0:float32\n    guard zero: i >= 0\n", "found i = -1"),
        ("  block b [i: 0..8]\n    x[i] = 1.0:float32\n", "expected b to leave the input x alone"),
        ("  block b [i: 0..8]\n    y[i] = t[i]:float32\n", "expected t to be alive in b"),
        ("  block b [i: 0..8]\n    y[i] = x[i, i]\n", "expected 1 indices of x in b"),
        ("  block b [i: 0..8]\n    y[i] = frobnicate(x[i])\n", "expected a known function in b, found frobnicate"),
    ],
)
def test_undefined_behaviour_is_an_error(body: str, message: str) -> None:
    with pytest.raises(InterpError, match=message):
        interpret(parse_ir(copying("float32", body)), [np.zeros(8, np.float32)])


def test_arrays_must_fit() -> None:
    func = parse_ir(copying("float32", "  block b [i: 0..8]\n    y[i] = x[i]\n"))
    good = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(interpret(func, {"x": good})[0], good)
    with pytest.raises(InterpError, match=r"expected 1 arrays \(x\), found 0"):
        interpret(func, [])
    with pytest.raises(InterpError, match="found none for x"):
        interpret(func, {"z": good})
    with pytest.raises(InterpError, match=r"expected float32\[8\] for x, found float64\[8\]"):
        interpret(func, [good.astype(np.float64)])
    with pytest.raises(InterpError, match=r"expected float32\[8\] for x, found float32\[7\]"):
        interpret(func, [good[:7]])


def test_inputs_are_left_alone_and_need_no_layout() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    body = "  block b [i: 0..4, j: 0..3]\n    y[i, j] = neg(x[i, j])\n"
    out = run(copying("float32", body, "[4, 3]"), x.T)
    np.testing.assert_array_equal(out, -x.T)


def test_packing_pads_and_composes() -> None:
    x = np.arange(2 * 7 * 3).reshape(2, 7, 3)
    packed = pack_array(x, (Pack(1, 4, 7),))
    assert packed.shape == (2, 2, 3, 4)
    assert packed[1, 0, 2, 1] == x[0, 5, 2] and packed[1, 1, 0, 3] == 0
    twice = pack_array(x, (Pack(1, 4, 7), Pack(2, 2, 3)))
    assert twice.shape == (2, 2, 2, 4, 2)
    assert twice[1, 1, 0, 2, 0] == x[0, 6, 2] and twice[1, 1, 0, 2, 1] == 0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_tiling_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    func = random_program(rng)
    arrays = random_inputs(func, rng)
    expected = interpret(func, arrays)
    for _ in range(3):
        func = tile(func, rng)
        verify(func)
    for found, wanted in zip(interpret(func, arrays), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert not np.isnan(found.astype(np.float64)).any()
