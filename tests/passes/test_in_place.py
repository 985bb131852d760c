"""Results that are stored where what they are made of was: equal to the original, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import SOFTMAX, program, steps

from tilewright.ir.interp import interpret
from tilewright.ir.loop import Alloc, walk
from tilewright.ir.text import parse_ir, print_ir
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, replay

TWO = """
input x: float32[6]
output y: float32[6]
alloc a: float32[6] cache
  alloc b: float32[6] cache
    block first [i: 0..6]
      a[i] = add(x[i], 1.0:float32)
    block second [i: 0..6]
      b[i] = mul(a[i], a[i])
    block third [i: 0..6]
      y[i] = sub(b[i], x[i])
"""


def changed(old: str, new: str) -> str:
    assert old in TWO
    return TWO.replace(old, new)


def test_one_buffer_is_left():
    func = program(TWO)
    scheduled = replay(func, steps(("in_place", "b", "a")))
    verify(scheduled)
    assert [s.buffer.name for s in walk(scheduled.body) if isinstance(s, Alloc)] == ["a"]
    x = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(interpret(scheduled, [x])[0], (x + 1) ** 2 - x)


def test_either_buffer_may_be_allocated_first():
    text = changed("alloc a: float32[6] cache\n  alloc b", "alloc b: float32[6] cache\n  alloc a")
    x = np.arange(6, dtype=np.float32)
    scheduled = replay(program(text), steps(("in_place", "b", "a"), ("split", "third", "i", 4)))
    verify(scheduled)
    np.testing.assert_array_equal(interpret(scheduled, [x])[0], (x + 1) ** 2 - x)


def test_exponentials_over_scores():
    trace = steps(("in_place", "p", "s"))
    scheduled = replay(SOFTMAX, trace)
    verify(scheduled)
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(b.shape).astype(np.float32) for b in SOFTMAX.inputs]
    np.testing.assert_array_equal(interpret(scheduled, args)[0], interpret(SOFTMAX, args)[0])


REFUSED = {
    "itself": (TWO, ("a", "a"), "another buffer like a"),
    "other shape": (changed("alloc a: float32[6]", "alloc a: float32[7]"), ("b", "a"), "another buffer like b"),
    "other memory": (changed("alloc a: float32[6] cache", "alloc a: float32[6] register"), ("b", "a"), "like b"),
    "other elements": (changed("mul(a[i], a[i])", "mul(a[i], a[5 - i])"), ("b", "a"), "the element that it writes"),
    "no element": (changed("mul(a[i], a[i])", "mul(x[i], x[i])"), ("b", "a"), "the element that it writes"),
    "used afterwards": (changed("sub(b[i], x[i])", "sub(b[i], a[i])"), ("b", "a"), "used before second"),
    "sum": (
        changed("b[i] = mul(a[i], a[i])", "b[i] = 0.0:float32\n    block sum [i: 0..6]\n      b[i] sum= a[i]"),
        ("b", "a"),
        "one Block that writes b",
    ),
    "guarded": (
        changed("mul(a[i], a[i])", "mul(a[i], a[i])\n      guard zero: i - 1 >= 0"),
        ("b", "a"),
        "one Block that writes b",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    text, (buffer, source), match = REFUSED[name]
    with pytest.raises(ScheduleError, match=match):
        replay(program(text), steps(("in_place", buffer, source)))


def test_blocks_in_loops_are_refused():
    # A loop may compute an element twice, and the second time from what the first one left.
    func = replay(program(TWO), steps(("split", "second", "i", 2)))
    assert parse_ir(print_ir(func)) is not None
    with pytest.raises(ScheduleError, match="in no loop"):
        replay(func, steps(("in_place", "b", "a")))
