"""Rules about memory: one failing program per rule, beside the nearest valid ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import random_inputs, random_program, tile

from tilewright.ir import verify_memory
from tilewright.ir.interp import InterpError, interpret
from tilewright.ir.loop import (
    LoopFunc,
    blocks,
    map_expr,
    reads,
    rewrite,
)
from tilewright.ir.text import parse_ir
from tilewright.ir.verify import RULES, VerifyError, verify

HEAD = "tilewright loop ir 1\nfunc f\n"
ONE = HEAD + "  input x: float32[8]\n  output y: float32[8]\n"
COPY = ONE + "  block b [i: 0..8]\n    y[i] = x[i]\n"

MATMUL = """tilewright loop ir 1
func matmul
  input x: float32[7, 24]
  constant w: float32[3, 24, 16] pack(1, 16, 40)
  output out: float32[7, 40]
  parallel n in 0..3
    alloc acc: float32[7, 16] register
      block init [i: 0..7, j: 16*n..+16 < 40 vector]
        acc[i, j - 16*n] = 0.0:float32
      for k in 0..6
        block update [r: 4*k..+4 reduce, i: 0..7, j: 16*n..+16 < 40 vector]
          acc[i, j - 16*n] sum= mul(x[i, r], w[n, r, j - 16*n])
      block store [i: 0..7, j: 16*n..+16 < 40 vector]
        out[i, j] = max(acc[i, j - 16*n], 0.0:float32)
"""


def program(text: str) -> LoopFunc:
    return parse_ir(ONE + text)


def body(*lines: str) -> LoopFunc:
    return program("".join(f"  {line}\n" for line in lines))


def refused(func: LoopFunc, rule: str, message: str) -> None:
    with pytest.raises(VerifyError, match=message) as caught:
        verify(func)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    "lines",
    [
        ("block b [i: 0..9]", "  y[i] = x[0]"),
        ("block b [i: 0..8]", "  y[i] = x[i - 1]"),
        ("block b [i: 0..8]", "  y[i] = x[i + 1]{i - 1 >= 0 else 0.0}"),
        ("block b [i: 0..8]", "  y[i] = x[i - 1]", "  guard skip: i >= 0"),
        ("block b [i: -1..8]", "  y[i] = x[i]", "  guard zero: i >= 0"),
        ("for l in 0..3", "  block b [i: 3*l..+3]", "    y[i] = x[i]"),
        ("for l in 0..8", "  for m in l..8", "    block b []", "      y[l + m] = x[m]"),
        ("if 6 >= 0", "  block b [i: 0..9]", "    y[i] = x[0]"),
        ("block b [i: 0..8]", "  y[i] = x[2*(i // 2) + 1 + (i % 3)]"),
    ],
)
def test_indices_inside(lines: tuple[str, ...]) -> None:
    refused(body(*lines), "indices_inside", "guard it, or limit the iterator")


@pytest.mark.parametrize(
    "lines",
    [
        ("block b [i: 0..8]", "  y[i] = x[i - 1]{i - 1 >= 0 else 0.0}"),
        ("block b [i: 0..8]", "  y[i] = x[i + 1]{-2*i + 12 >= 0 else 0.0}"),
        ("block b [i: 0..8]", "  y[i] = x[i - 1]", "  guard zero: i - 1 >= 0"),
        ("block b [i: -1..9]", "  y[i] = x[i]", "  guard skip: i >= 0, -i + 7 >= 0"),
        ("for l in 0..3", "  block b [i: 3*l..+3 < 8]", "    y[i] = x[i]"),
        ("for l in 0..4", "  for m in l..min(8 - l, 5)", "    block b []", "      y[l + m] = x[m]"),
        ("for l in 0..8", "  for m in l..l + 1", "    block b []", "      y[-l + m] = x[m]"),
        ("for l in 0..20", "  if -l + 7 >= 0", "    block b []", "      y[l] = x[l]"),
        ("for l in 0..20", "  if l - 8 >= 0", "    pass", "  else", "    block b []", "      y[l] = x[l]"),
        ("for l in 0..3", "  block b [i: 3*l..+3 < 8]", "    y[i] = x[((3*l + i) // 2)]"),
        ("block b [i: 0..8]", "  y[4*(i % 2) + (i // 2)] = x[i]"),
        ("block b [i: 0..3, j: 0..3]", "  y[3*i + j] = x[i]", "  guard skip: -3*i - j + 7 >= 0"),
        ("block b [i: 0..0]", "  y[i + 99] = x[i]"),
        ("for l in 5..5", "  block b [i: 0..8]", "    y[i + l] = x[i]"),
        ("for l in 0..8", "  block b [i: 0..8 < 0]", "    y[i + 99] = x[i]"),
    ],
)
def test_indices_that_are_proved(lines: tuple[str, ...]) -> None:
    verify(body(*lines))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=80)
def test_indices_are_refused_just_where_they_leave_the_buffer(seed: int) -> None:
    """Exact on domains small enough to enumerate: what the verifier says is what the interpreter finds."""
    rng = np.random.default_rng(seed)
    func = shifted(tile(random_program(rng, stages=2), rng), rng)
    arrays = random_inputs(func, rng)
    try:
        verify(func)
    except VerifyError as error:
        assert error.rule == "indices_inside"
        with pytest.raises(InterpError, match="expected index"):
            interpret(func, arrays)
    else:
        interpret(func, arrays)


def shifted(func: LoopFunc, rng: np.random.Generator) -> LoopFunc:
    """The function with one index of one read moved by one."""
    reading = [b for b in blocks(func.body) if any(r.index for r in reads(b.value))]
    if not reading:
        return func
    block = reading[rng.integers(len(reading))]
    read = next(r for r in reads(block.value) if r.index)
    axis, step = int(rng.integers(len(read.index))), int(rng.choice([-1, 1]))
    moved = replace(read, index=tuple(e + step * (n == axis) for n, e in enumerate(read.index)))
    value = map_expr(block.value, lambda e: moved if e is read else e)
    body = rewrite(func.body, lambda s: replace(block, value=value) if s is block else s)
    assert body is not None
    return replace(func, body=body)


def test_self_reads() -> None:
    init = ("block a [i: 0..8]", "  y[i] = x[i]")
    verify(body(*init, "block b [i: 0..8]", "  y[i] = neg(y[i])"))
    verify(body(*init, "for l in 1..8", "  block b []", "    y[l] = add(y[l - 1], x[l])"))
    verify(body(*init, "block b [i: 0..4]", "  y[i] = y[i + 4]"))
    shifted = body(*init, "block b [i: 1..8]", "  y[i] = y[i - 1]")
    refused(shifted, "self_reads", "not to read what others write in y")
    refused(body(*init, "block b [i: 0..8]", "  y[i] sum= y[i]"), "self_reads", "not to read what others write")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("acc[i, j - 16*n] sum=", "acc[i, j - 16*n + k] sum=", "expected index"),
        ("r: 4*k..+4 reduce, i: 0..7", "i: k..+1, r: 4*k..+4 reduce", "constant indices of the register buffer acc"),
        ("float32[7, 16] register", "float32[7, 17] register", "rows of whole vectors of 16 in acc, found 17"),
        ("float32[7, 16] register", "float32[16, 7] register", "expected index"),
    ],
)
def test_registers(old: str, new: str, message: str) -> None:
    assert old in MATMUL
    with pytest.raises(VerifyError, match=message):
        verify(parse_ir(MATMUL.replace(old, new)))


def test_register_vectors() -> None:
    def func(init: str, write: str, lanes: str = "j: 0..4 vector", shape: str = "[2, 8]") -> LoopFunc:
        return body(
            f"alloc t: float32{shape} register",
            "  block a [i: 0..2, j: 0..4 vector]",
            f"    {init} = 0.0:float32",
            f"  block b [i: 0..2, {lanes}]",
            f"    {write} = 0.0:float32",
            "  block c [i: 0..8]",
            "    y[i] = x[i]",
        )

    rule = "registers"
    verify(func("t[i, j]", "t[i, j + 4]"))
    refused(func("t[i, j]", "t[i, j + 2]"), rule, "vectors of 4 at multiples of their length in t, found 2")
    refused(func("t[i, 2*j]", "t[i, j]"), rule, "lanes of j along the last axis of t")
    refused(func("t[j, i]", "t[j, i]", shape="[4, 2]"), rule, "lanes of j along the last axis of t")
    refused(
        func("t[i, j]", "t[i, j]", "j: 0..8 vector"), rule, "expected vectors of 4 in the register buffer t, found 8"
    )
    refused(func("t[i, j]", "t[i, j]", "j: 0..4"), rule, "expected vectors of 4 in the register buffer t, found 1")
    verify(parse_ir(MATMUL.replace(" vector]", "]")))
    unrolled = MATMUL.replace("for k", "unroll k").replace("r: 4*k..+4 reduce, i: 0..7", "i: k..+1, r: 4*k..+4 reduce")
    verify(parse_ir(unrolled))


def test_parallel_loops() -> None:
    inner = ("block b [i: 0..4]", "  y[4*l + i] = x[i]")
    verify(body("parallel l in 0..2", *(f"  {line}" for line in inner)))
    verify(body("alloc t: float32[8]", "  parallel l in 0..2", *(f"    {line}" for line in inner)))
    rule = "parallel_loops"
    nested = body("for m in 0..1", "  parallel l in 0..2", *(f"    {line}" for line in inner))
    refused(nested, rule, "expected l outermost, found it inside a For")
    beside = body("parallel l in 0..2", *(f"  {line}" for line in inner), "block c []", "  y[0] = x[0]")
    refused(beside, rule, "expected l outermost, found it inside a Seq")


def racing(*lines: str) -> LoopFunc:
    return body("parallel l in 0..8", *(f"  {line}" for line in lines))


@pytest.mark.parametrize(
    "lines",
    [
        ("block b [i: 0..8]", "  y[i] = x[i]"),
        ("block b []", "  y[(l // 2)] = x[l]"),
        ("block b []", "  y[(l % 2)] = x[l]"),
        ("block b [i: 0..2]", "  y[l + i] = x[l]", "  guard skip: -l + 6 >= 0"),
        ("block b []", "  y[l] = x[l]", "block c []", "  y[-l + 7] = x[l]"),
        ("block b []", "  y[l] = x[l]", "block c []", "  y[l] = y[-l + 7]"),
        ("block b []", "  y[l] = x[l]", "block c []", "  y[l] = y[0]"),
    ],
)
def test_no_races(lines: tuple[str, ...]) -> None:
    refused(racing(*lines), "no_races", "expected iterations of l to use different elements of y")


def test_shared_scratch_races() -> None:
    func = body(
        "alloc t: float32[1]",
        "  parallel l in 0..8",
        "    block a []",
        "      t[0] = x[l]",
        "    block b []",
        "      y[l] = t[0]",
    )
    refused(func, "no_races", "different elements of t")


@pytest.mark.parametrize(
    "text",
    [
        "  parallel l in 0..8\n    block b []\n      y[-l + 7] = x[l]\n",
        "  parallel l in 0..4\n    block b [i: 2*l..+2]\n      y[i] = x[i]\n",
        "  parallel l in 0..4\n    for m in 2*l..2*l + 2\n      block b []\n        y[m] = x[m]\n",
        "  parallel l in 0..2\n    for m in 0..2\n      block b [i: 3*l + 2*m..+2 < 3*l + 3]\n        y[i] = x[i]\n",
        "  parallel l in 0..1\n    block b [i: 0..8]\n      y[i] = x[i]\n",
        "  parallel l in 0..8\n    alloc t: float32[1]\n      block a []\n        t[0] = x[l]\n"
        "      block b []\n        y[l] = t[0]\n",
        "  parallel l in 0..8\n    block a []\n      y[l] = 0.0:float32\n"
        "    block b [r: 0..8 reduce]\n      y[l] sum= x[r]\n",
    ],
)
def test_race_free_loops(text: str) -> None:
    verify(program(text))


def test_a_fused_loop_is_told_apart_by_quotient_and_remainder() -> None:
    def func(*index: str) -> LoopFunc:
        head = HEAD + "  output y: float32[2, 3, 4]\n  parallel l in 0..24\n    block b []\n"
        return parse_ir(head + f"      y[{', '.join(index)}] = 0.0:float32\n")

    high, middle, low = "(((l // 4)) // 3)", "(((l // 4)) % 3)", "(l % 4)"
    verify(func(high, middle, low))
    for index in ((high, middle, "0"), (high, "0", low), ("0", middle, low)):
        refused(func(*index), "no_races", "different elements of y")


def test_every_rule_has_a_test() -> None:
    tested = {name.removeprefix("test_") for name in globals()}
    assert {rule.__name__ for rule in RULES if rule.__module__ == verify_memory.__name__} <= tested
