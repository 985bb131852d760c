"""One failing program per rule, beside the nearest valid ones."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from programs import programs

from tilewright.ir import verify_memory
from tilewright.ir.affine import constant, var
from tilewright.ir.loop import (
    Access,
    Block,
    Buffer,
    Const,
    For,
    If,
    Iter,
    LoopFunc,
    Seq,
    blocks,
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


@given(programs(tiles=2))
@settings(max_examples=50)
def test_random_programs_are_valid(func: LoopFunc) -> None:
    verify(func)


def test_a_scheduled_matmul_is_valid() -> None:
    verify(parse_ir(MATMUL))


def test_the_message_shows_the_neighbourhood() -> None:
    with pytest.raises(VerifyError) as caught:
        verify(parse_ir(MATMUL.replace("mul(x[i, r]", "mul(x[i, r + 1]")))
    text = str(caught.value)
    assert "expected index 1 of x surely in 0..23, found r + 1 in 1..24" in text
    assert re.search(r"^> +block update", text, re.MULTILINE)
    assert "for k in 0..6" in text


# ---- names and declarations


def test_legal_names() -> None:
    func = parse_ir(COPY)
    refused(replace(func, body=replace(next(blocks(func.body)), name="b c")), "legal_names", "found 'b c'")
    loop = For("i..j", (constant(0),), (constant(2),), func.body)
    refused(replace(func, body=loop), "legal_names", "found 'i..j'")


def test_unique_names() -> None:
    block = "  block b [i: 0..8]\n    y[i] = x[i]\n"
    refused(program(block + block), "unique_names", "Block name that is not used yet, found b")
    loops = "  for l in 0..2\n    for l in 0..2\n      block b [i: 0..8]\n        y[i] = x[i]\n"
    refused(program(loops), "unique_names", "For name that is not used yet, found l")
    refused(body("alloc x: float32[8]", "  pass"), "unique_names", "buffer name that is not used yet, found x")
    refused(body("block b [i: 0..8, i: 0..1]", "  y[i] = x[i]"), "unique_names", "iterators with different names")


def test_iterators_are_no_loops() -> None:
    func = body("for i in 0..2", "  block b [j: 0..8]", "    y[j] = x[j]", "block c [i: 0..8]", "  y[i] = x[i]")
    refused(func, "iterators_are_no_loops", "that no loop has, found i")


def test_parameters() -> None:
    func = parse_ir(COPY)
    refused(replace(func, num_outputs=0), "parameters", r"expected 1\.\.2 outputs, found 0")
    refused(parse_ir(COPY.replace("y: float32[8]", "y: float32[8] cache")), "parameters", "output y in global memory")
    refused(parse_ir(COPY.replace("x: float32[8]", "x: float32[8] register")), "parameters", "input x in global or")
    packed = COPY.replace("x: float32[8]", "x: float32[2, 4] pack(0, 4, 8)")
    refused(parse_ir(packed), "parameters", "packing on constants only")


def test_allocations() -> None:
    refused(body("alloc t: float32[8] constant", "  pass"), "allocations", "found constant")
    refused(body("alloc t: float32[1, 4] pack(0, 4, 4)", "  pass"), "allocations", "packing on constants only")


def test_buffer_types() -> None:
    refused(parse_ir(COPY.replace("x: float32", "x: float12")), "buffer_types", "known element type for x")
    refused(body("alloc t: float32[-3]", "  pass"), "buffer_types", "extents of at least 0 for t")
    for packing in ("pack(1, 16, 50)", "pack(1, 8, 40)", "pack(2, 16, 40)", "pack(0, 3, 9) pack(1, 16, 40)"):
        wrong = MATMUL.replace("pack(1, 16, 40)", packing)
        refused(parse_ir(wrong), "buffer_types", "a packing that gives the shape")


def test_loop_kinds() -> None:
    loop = For("l", (constant(0),), (constant(1),), parse_ir(COPY).body)
    func = parse_ir(COPY)
    refused(replace(func, body=replace(loop, kind="spiral")), "loop_kinds", "found spiral")  # pyright: ignore
    refused(replace(func, body=replace(loop, lower=())), "loop_kinds", "expected a lower and an upper bound")
    inner = "      block b [i: 0..8]\n        y[i] = x[i]\n"
    refused(program("  for m in 0..2\n    unroll l in 0..m\n" + inner), "loop_kinds", "constant bounds of the unroll")
    verify(program("  for m in 0..2\n    unroll l in 0..3\n" + inner))


def test_branches() -> None:
    func = parse_ir(COPY)
    refused(replace(func, body=If((), func.body)), "branches", "at least one condition")


def test_boxes() -> None:
    func = parse_ir(COPY)
    block = next(blocks(func.body))
    it = block.iters[0]
    refused(body("block b [i: 0..-1]", "  y[i] = x[i]"), "boxes", "extent of at least 0 for i, found -1")
    wrong = replace(block, iters=(replace(it, kind="scan"),))  # pyright: ignore
    refused(replace(func, body=wrong), "boxes", "data or reduce, found scan")
    two = body("block b [i: 0..4 vector, j: 0..2 vector]", "  y[2*i + j] = x[i]")
    refused(two, "boxes", "at most one vectorised iterator, found i, j")


# ---- uses


def test_variables_in_scope() -> None:
    rule = "variables_in_scope"
    refused(body("block b [i: 0..8]", "  y[i] = x[k]"), rule, "in scope here, found k")
    refused(body("block b [i: 0..8]", "  y[(k // 2)] = x[i]"), rule, "in scope here, found k")
    refused(body("block b [i: 0..8]", "  y[i] = x[i]{k >= 0 else 0.0}"), rule, "in scope here, found k")
    refused(body("block b [i: 0..8]", "  y[i] = x[i]", "  guard skip: k >= 0"), rule, "in scope here, found k")
    refused(body("block b [i: 0..8]", "  y[i] = index(k):float32"), rule, "in scope here, found k")
    refused(body("block b [i: 0..8, j: i..+1]", "  y[i] = x[i]"), rule, "in scope here, found i")
    refused(body("block b [i: 0..8 < i]", "  y[i] = x[i]"), rule, "in scope here, found i")
    refused(body("for l in 0..l", "  block b [i: 0..8]", "    y[i] = x[i]"), rule, "in scope here, found l")
    refused(body("if l >= 0", "  block b [i: 0..8]", "    y[i] = x[i]"), rule, "in scope here, found l")
    after = body("for l in 0..2", "  block a [i: 0..8]", "    y[i] = x[i]", "block b []", "  y[l] = x[0]")
    refused(after, rule, "in scope here, found l")


def test_buffers_in_scope() -> None:
    refused(body("block b [i: 0..8]", "  y[i] = t[i]:float32"), "buffers_in_scope", "alive here, found t")
    refused(body("block b [i: 0..8]", "  t[i] = x[i]"), "buffers_in_scope", "alive here, found t")
    dead = body(
        "alloc t: float32[8]", "  block a [i: 0..8]", "    t[i] = x[i]", "block b [i: 0..8]", "  y[i] = t[i]:float32"
    )
    refused(dead, "buffers_in_scope", "alive here, found t")


def test_index_arity() -> None:
    refused(body("block b [i: 0..8]", "  y[i] = x[i, i]"), "index_arity", "expected 1 indices of x, found 2")
    refused(body("block b [i: 0..8]", "  y[] = x[i]"), "index_arity", "expected 1 indices of y, found 0")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x[i]:float64", "expected x to be read as float32, found float64"),
        ("add(x[i], 1:int32)", "expected operands of one type for add, found float32, int32"),
        ("exp(1:int32):float32", "expected float operands for exp, found int32"),
        ("lt(x[i], x[i])", "expected a value of float32 for y, found bool"),
        ("lt(x[i], x[i]):float32", "expected lt to give bool, found float32"),
        ("select_n(x[i], x[i], x[i])", "expected a bool condition for select_n, found float32"),
        ("neg(x[i], x[i])", "expected 1 operands and 0 parameters for neg, found 2 and 0"),
        ("integer_pow(x[i])", "expected 1 operands and 1 parameters for integer_pow"),
        ('integer_pow{"a"}(x[i])', "expected integer parameters"),
        ("frobnicate(x[i])", "expected an elementwise function of jax.lax, found 'frobnicate'"),
        ("bitcast_convert_type(1:int8):float32", "expected number types of one size"),
        ("convert_element_type(300:int8):float32", r"expected an integer in -128\.\.127 for int8, found 300"),
        ("convert_element_type(index(i):bool):float32", "integer or float type for an index value, found bool"),
        ("1.0:float12", "constant of a known type, found float12"),
    ],
)
def test_expression_types(value: str, message: str) -> None:
    refused(body("block b [i: 0..8]", f"  y[i] = {value}"), "expression_types", message)


def test_constants_keep_to_their_type() -> None:
    nan = Block("b", (), Access("z", ()), Const(float("nan"), "int32"))
    func = LoopFunc("f", (Buffer("z", (), "int32"),), 1, nan)
    refused(func, "expression_types", "expected an integer in")


# ---- meaning of Blocks


def test_inputs_are_read_only() -> None:
    refused(body("block b [i: 0..8]", "  x[i] = 0.0:float32"), "inputs_are_read_only", "found the input x")


def test_reductions() -> None:
    init = ("block a [i: 0..8]", "  y[i] = 0.0:float32")
    rule = "reductions"
    refused(body(*init, "block b [i: 0..8, r: 0..8 reduce]", "  y[i] = x[r]"), rule, "a monoid to reduce r with")
    refused(body(*init, "block b [i: 0..8, r: 0..8 reduce]", "  y[i] avg= x[r]"), rule, "found avg")
    refused(body(*init, "block b [i: 0..8]", "  y[i] and= x[i]"), rule, "expected bits operands for and")
    zeroing = body(*init, "block b [i: 0..8]", "  y[i] sum= x[i]", "  guard zero: i >= 0")
    refused(zeroing, rule, "expected a guarded reduction to skip")
    func = parse_ir(COPY)
    odd = replace(next(blocks(func.body)), guard_mode="trap")  # pyright: ignore
    refused(replace(func, body=odd), rule, "found trap")


def test_distinct_elements() -> None:
    refused(body("block b [i: 0..8, j: 0..2]", "  y[i] = x[i]"), "distinct_elements", "data iterator j in the index")
    verify(body("block b [i: 0..8, j: 0..1]", "  y[i] = x[i]"))
    verify(body("block a [i: 0..8]", "  y[i] = 0.0:float32", "block b [i: 0..8, j: 0..0]", "  y[i] = x[i]"))
    never = body(
        "for l in 0..0", "  block b [i: 0..8, j: l..+2]", "    y[i] = x[i]", "block c [i: 0..8]", "  y[i] = x[i]"
    )
    verify(never)
    reduced = body("block a [i: 0..8]", "  y[i] = 0.0:float32", "block b [r: 0..8 reduce]", "  y[r] sum= x[r]")
    refused(reduced, "distinct_elements", "reduce iterator r not in the index")


def test_initialised() -> None:
    refused(body("block b [i: 0..8]", "  y[i] sum= x[i]"), "initialised", "expected y to be written before it is read")
    unset = body("alloc t: float32[8]", "  block b [i: 0..8]", "    y[i] = t[i]")
    refused(unset, "initialised", "expected t to be written before it is read")


def test_outputs_written() -> None:
    refused(body("pass"), "outputs_written", "expected a Block that writes the output y")
    verify(parse_ir(HEAD + "  output y: float32[3, 0]\n  pass\n"))


def test_bound_names() -> None:
    def gathered(binding: str, read: str = "x[r]") -> LoopFunc:
        table = HEAD + "  input x: float32[8]\n  input n: int32[8]\n  output y: float32[8]\n"
        return parse_ir(table + f"  block b [i: 0..8]\n    y[i] = let{{{binding}}}({read})\n")

    verify(gathered("r < 8 = n[i]"))
    refused(gathered("i < 8 = n[i]", "x[i]"), "bound_names", "that no loop or iterator has, found i")
    refused(gathered("r < 8 = x[i]"), "bound_names", "expected an integer to bind to r, found float32")
    refused(gathered("r < 0 = n[i]"), "bound_names", "extent of at least 1 for r, found 0")
    refused(gathered("r < 9 = n[i]"), "indices_inside", "expected index 0 of x surely in 0..7")
    computed = body(
        "alloc t: float32[8]",
        "  block a [i: 0..8]",
        "    t[i] = x[i]",
        "  block b [i: 0..8]",
        "    y[i] = let{r < 8 = index(i):int32}(t[r])",
    )
    refused(computed, "bound_names", "data-dependent indices of inputs only, found one of t")


def test_choices() -> None:
    verify(body("block b [i: 0..8]", "  y[i] = where{i - 4 >= 0}(x[i - 4], x[i + 4])"))
    outside = body("block b [i: 0..8]", "  y[i] = where{i - 3 >= 0}(x[i - 4], x[i + 4])")
    refused(outside, "indices_inside", "expected index 0 of x surely in 0..7")
    mixed = body("block b [i: 0..8]", "  y[i] = where{i - 3 >= 0}(x[i], 1:int32)")
    refused(mixed, "expression_types", "both parts of a choice of one type")
    refused(body("block b [i: 0..8]", "  y[i] = where{j >= 0}(x[i], x[i])"), "variables_in_scope", "found j")


def test_streams() -> None:
    streamed = ONE.replace("output y: float32[8]", "output y: float32[8] stream")
    copied = "  block b [i: 0..8]\n    y[i] = x[i]\n"
    verify(parse_ir(streamed + copied))
    refused(
        parse_ir(streamed + copied + "  block c [i: 0..8]\n    y[i] max= x[i]\n"), "streams", "y, which is streamed"
    )
    refused(parse_ir(streamed + copied + "  block c []\n    y[0] = neg(y[1])\n"), "streams", "y, which is streamed")
    refused(body("alloc t: float32[8] stream", "  pass"), "allocations", "found stream")


def test_every_rule_has_a_test() -> None:
    tested = {name.removeprefix("test_") for name in globals()}
    assert {rule.__name__ for rule in RULES if rule.__module__ != verify_memory.__name__} <= tested


def test_an_empty_sequence_is_fine() -> None:
    verify(LoopFunc("f", (Buffer("y", (0,), "float32"),), 1, Seq(())))
    it = Iter("i", constant(0), 0)
    verify(
        LoopFunc("f", (Buffer("y", (0,), "int8"),), 1, Block("b", (it,), Access("y", (var("i"),)), Const(1, "int8")))
    )
