"""The sketch of depthwise convolutions and pooling: few taps are straight-line code, and every schedule is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import detect_target
from tilewright.ir.text import parse_ir
from tilewright.ir.verify import verify
from tilewright.passes.schedule import replay
from tilewright.search.channelwise import channelwise

TARGET = replace(detect_target(), threads=2)


def depthwise(rows: int, columns: int, channels: int, taps: int) -> LoopFunc:
    """A convolution of each channel by itself, padded so that the result is as large as the image."""
    pad = taps // 2
    y, x = f"i + a - {pad}", f"j + b - {pad}"
    inside = f"{y} >= 0, {rows - 1 + pad} - i - a >= 0, {x} >= 0, {columns - 1 + pad} - j - b >= 0 else 0.0"
    box = f"i: 0..{rows}, j: 0..{columns}, c: 0..{channels}"
    shape = f"{rows}, {columns}, {channels}"
    return parse_ir(f"""tilewright loop ir 1
func depthwise
  input x: float32[{shape}]
  constant w: float32[{taps}, {taps}, {channels}]
  output y: float32[{shape}]
  alloc t: float32[{shape}]
    block init [{box}]
      t[i, j, c] = 0.0:float32
    block update [{box}, a: 0..{taps} reduce, b: 0..{taps} reduce]
      t[i, j, c] sum= mul(x[{y}, {x}, c]{{{inside}}}, w[a, b, c])
    block store [{box}]
      y[i, j, c] = t[i, j, c]
""")


def test_few_taps_are_unrolled_once_and_many_are_not():
    few, many = (channelwise(depthwise(9, 9, 32, taps), TARGET) for taps in (3, 5))
    assert few is not None and few.choices["taps"] == ("unrolled", "looped")
    steps = [s.target for s in few.build(few.default) if s.primitive == "unroll"]
    assert steps.count("update.a") == 1
    assert many is not None and "taps" not in many.choices


@pytest.mark.parametrize("taps", ["unrolled", "looped"])
@pytest.mark.parametrize("shape", [(1, 1, 16), (5, 9, 20), (7, 15, 40)])
def test_both_ways_are_right(taps, shape):
    func = depthwise(*shape, 3)
    sketch = channelwise(func, TARGET)
    assert sketch is not None
    scheduled = replay(func, sketch.build({**sketch.default, "taps": taps}))
    verify(scheduled)
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-3, 4, s).astype(np.float32) for s in (shape, (3, 3, shape[-1])))
    x.flat[0] = np.nan
    (expected,), (found,) = interpret(func, [x, w]), interpret(scheduled, [x, w])
    np.testing.assert_array_equal(found, expected)
