"""The text form: exact round trips, identity without names, clear errors."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from programs import programs, random_program, tile

from tilewright.ir import text
from tilewright.ir.affine import AffineExpr, FloorDiv, Mod, constant, var
from tilewright.ir.loop import Access, Alloc, Apply, Block, Buffer, Const, For, If, Iter, LoopFunc, Read, Seq, blocks
from tilewright.ir.text import ParseError, digest, excerpt, parse_ir, print_ir

HEAD = "tilewright loop ir 1\nfunc f\n  input x: float32[8]\n  output y: float32[8]\n"
COPY = HEAD + "  block b [i: 0..8]\n    y[i] = x[i]\n"


def documented_example() -> str:
    lines = (text.__doc__ or "").split("\n\n")[1].splitlines()
    return "\n".join(line[4:] for line in lines) + "\n"


def test_documented_example_is_exact() -> None:
    assert print_ir(parse_ir(documented_example())) == documented_example()


@given(programs(tiles=2))
@settings(max_examples=60)
def test_round_trip(func: LoopFunc) -> None:
    printed = print_ir(func)
    again = parse_ir(printed)
    assert print_ir(again) == printed
    assert digest(again) == digest(func)


FULL = """tilewright loop ir 1
func everything
  input x.0: float32[4, 8]
  constant w#1': bfloat16[2, 3, 4] pack(1, 4, 7) pack(0, 2, 3)
  input flags: bool[]
  output y: float32[4, 8]
  output z: int32[] cache
  alloc t: float32[8] register
    alloc u: uint8[0, 3]
      pass
  parallel p in 0..4
    for q in max(p, -2*(p // 3) + 1)..min(8, p + 2, ((p + q) % 5))
      if p - 3 >= 0, q >= 0
        unroll r in -3..-1
          block b []
            y[p, q] = 0.0:float32
      else
        block c [k: 0..3 reduce, i: -2..6 < p + 4, j: 8*p..+8 < 40 vector]
          y[i, (((j // 2)) // 3)] sum= select_n(flags[], x.0[i, j]{j >= 0, -j + 7 >= 0 else -inf}, nan:float32)
          guard zero: i - 1 >= 0, p >= 0
          fetch x.0 at q + 3
          fetch w#1' at r + 1
    block d [v: p..+4 reduce vector]
      z[] max= convert_element_type(integer_pow{-2}(unknown{"a\\"b"}(x.0[v, 0]:float64))):int32
    block e []
      z[] = select_n(and(true:bool, false:bool), index(3*p - 1):int32, -7:int32)
    block g []
      z[] = bitcast_convert_type(1e-30:float32):int32
"""


def test_every_construct_round_trips() -> None:
    assert print_ir(parse_ir(FULL)) == FULL


def test_parsing_rebuilds_the_objects() -> None:
    func = parse_ir(FULL)
    assert [b.name for b in func.params] == ["x.0", "w#1'", "flags", "y", "z"]
    assert func.num_outputs == 2
    assert func.params[1].packing[1].extent == 3
    block = next(b for b in blocks(func.body) if b.name == "c")
    assert [(i.name, i.extent, i.kind, i.vectorized) for i in block.iters] == [
        ("k", 3, "reduce", False),
        ("i", 8, "data", False),
        ("j", 8, "data", True),
    ]
    assert block.iters[2].lower == var("p") * 8 and block.iters[2].limit == constant(40)
    inner = AffineExpr(((FloorDiv(var("j"), 2), 1),))
    assert block.write.index[1] == AffineExpr(((FloorDiv(inner, 3), 1),))
    assert block.guard_mode == "zero" and block.monoid == "sum"
    assert isinstance(block.value, Apply) and block.value.dtype == "float32"


def test_quotients_are_not_rewritten() -> None:
    raw = AffineExpr(((Mod(constant(7) + var("i") * 4, 4), 1),))
    func = parse_ir(COPY)
    block = next(blocks(func.body))
    func = replace(func, body=replace(block, write=Access("y", (raw,))))
    assert next(blocks(parse_ir(print_ir(func)).body)).write.index == (raw,)


def test_numbers_have_one_spelling_per_type() -> None:
    for value, dtype, spelled in [
        (0, "float32", "0.0:float32"),
        (np.float32(0.5), "float32", "0.5:float32"),
        (float("inf"), "bfloat16", "inf:bfloat16"),
        (3.0, "int8", "3:int8"),
        (1, "bool", "true:bool"),
        (0.1, "float64", "0.1:float64"),
    ]:
        body = Block("b", (), Access("y", (constant(0),)), Const(value, dtype))
        assert f"= {spelled}\n" in print_ir(LoopFunc("f", (Buffer("y", (1,), dtype),), 1, body))


def test_an_unguarded_read_has_no_fallback() -> None:
    func = parse_ir(COPY)
    block = next(blocks(func.body))
    other = replace(func, body=replace(block, value=Read("x", (var("i"),), "float32", (), 5.0)))
    assert print_ir(other) == print_ir(func) and digest(other) == digest(func)


def renamed(func: LoopFunc) -> LoopFunc:
    """The same program with every name replaced, in an order that sorts differently."""
    printed = print_ir(func).replace("func random", "func other")
    for kind in ("b", "i", "t", "x", "w"):
        printed = re.sub(rf"\b{kind}(\d+)\b", lambda m, k=kind: f"{'zyvut'['bitxw'.index(k)]}{99 - int(m[1])}", printed)
    return parse_ir(printed)


@pytest.mark.parametrize("seed", range(20))
def test_digest_ignores_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    func = tile(random_program(rng), rng)
    other = renamed(func)
    assert print_ir(other) != print_ir(func)
    assert digest(other) == digest(func)


def test_digest_is_hex_of_twenty_bytes() -> None:
    assert re.fullmatch("[0-9a-f]{40}", digest(parse_ir(COPY)))


def test_a_buffer_and_a_loop_may_share_a_name() -> None:
    shared = COPY.replace("block b [i: 0..8]\n    y[i] = x[i]", "for x in 0..8\n    block b []\n      y[x] = x[x]")
    apart = shared.replace("for x", "for l").replace("y[x]", "y[l]").replace("[x]\n", "[l]\n")
    assert digest(parse_ir(shared)) == digest(parse_ir(apart))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0..8]", "0..7]"),
        ("x[i]\n", "x[i + 1]\n"),
        ("x[i]\n", "neg(x[i])\n"),
        ("[i: 0..8]", "[i: 0..8 vector]"),
        ("[i: 0..8]", "[i: 0..8 < 8]"),
        ("[i: 0..8]", "[i: 0..8, j: 0..1]"),
        ("y[i] =", "y[i] sum="),
        ("input x", "constant x"),
        ("input x: float32[8]", "input x: float32[9]"),
        ("x[i]\n", "x[i]{i >= 0 else 0.0}\n"),
        ("x[i]\n", "x[i]\n    guard skip: i >= 0\n"),
    ],
)
def test_digest_tells_meanings_apart(old: str, new: str) -> None:
    assert old in COPY
    assert digest(parse_ir(COPY.replace(old, new, 1))) != digest(parse_ir(COPY))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected tilewright loop ir 1 indented 0 times, found the end"),
        ("tilewright loop ir 9\nfunc f\n", "line 1: expected 'tilewright loop ir 1'"),
        ("tilewright loop ir 1\n", "expected func indented 0 times, found the end"),
        (HEAD, "expected a statement indented 1 times, found the end"),
        (HEAD + "   block b []\n", "line 5: expected steps of 2 spaces, found 3"),
        (HEAD + "  jump b\n", "line 5: expected a statement, found 'jump b'"),
        (HEAD + "  for i in 0..8\n", "expected a statement indented 2 times, found the end"),
        (HEAD + "  for i in 0 8\n    pass\n", r"line 5: expected '\.\.', found '8'"),
        (HEAD + "  block b [i: i..8]\n    y[i] = x[i]\n", r"line 5: expected '\+', found '8'"),
        (HEAD + "  block b []\n    y[0] = q[0]\n", "line 6: expected an element type .no buffer q is in scope"),
        (HEAD + "  block b []\n    y[(i / 2)] = x[0]\n", "line 6: expected a name, number or symbol, found ' / 2"),
        (HEAD + "  block b []\n    y[(i // 0)] = x[0]\n", "line 6: expected a positive divisor, found '0'"),
        (HEAD + "  block b []\n    y[0] = exp x[0]\n", "line 6: expected '\\(', found 'x'"),
        (HEAD + "  block b []\n    y[0] = convert_element_type(x[0])\n", "expected the result type"),
        (HEAD + "  block b []\n    y[0] = x[0] x[1]\n", "line 6: expected the end of the line, found 'x'"),
        (HEAD + "  block b []\n    y[0] = x[0]\n    guard maybe: 0 >= 0\n", "line 7: expected zero or skip"),
        (HEAD + "  block b []\n    y[0] = x[0]\n  else\n    pass\n", "line 7: expected the end, found 'else'"),
        (HEAD + "  block b []\n    y[" + "9" * 5000 + "] = x[0]\n", "integer of at most 40 digits"),
        (HEAD + "  block b []\n    y[0] = " + "neg(" * 5000 + "x[0]" + ")" * 5000 + "\n", "less deeply nested"),
        (COPY.replace("input x", "output x").replace("output y", "input y"), "expected the outputs after all other"),
        (HEAD + "  alloc t: float32[8] attic\n    pass\n", "expected global or constant or cache or register"),
        (HEAD + "  alloc t: float32[8] cache pack(1)\n    pass\n", "expected pack.axis, factor, extent."),
    ],
)
def test_errors_say_where_and_what(source: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse_ir(source)


def test_excerpt_marks_the_statement() -> None:
    func = parse_ir(documented_example())
    marked = [line for line in excerpt(func, list(blocks(func.body))[1], around=2).splitlines() if line[0] == ">"]
    assert len(marked) == 1 and "block update" in marked[0]
    assert "constant w" in next(li for li in excerpt(func, func.params[1]).splitlines() if li[0] == ">")


def test_invalid_programs_print_too() -> None:
    body = Seq((For("i", (), (), If((), Alloc(Buffer("t", (-1,), "what"), Seq(())))),))
    printed = print_ir(LoopFunc("f", (), 3, body))
    assert "for i in max()..min()" in printed and "what[-1]" in printed
    missing = Block("b", (Iter("i", var("q"), -2),), Access("no", ()), Apply("f", (), "float32"))
    assert "block b [i: q..+-2]" in print_ir(LoopFunc("f", (), 0, missing))
