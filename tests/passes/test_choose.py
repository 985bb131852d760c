"""Choices that boxes and loops decide: the same values after they are made, and none left where a box can be cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.affine import AffineExpr, constant, var
from tilewright.ir.interp import interpret
from tilewright.ir.loop import (
    Access,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Iter,
    LoopFunc,
    Read,
    Where,
    blocks,
    subexpressions,
    walk,
)
from tilewright.passes.choose import choose

SHAPE = (3, 5, 8)
X, Z, Y = (Buffer(name, SHAPE, "float32") for name in "xzy")
INDEX = (var("t"), var("i"), var("j"))


def program(condition: AffineExpr, vectorized: bool) -> LoopFunc:
    """``y = x where condition >= 0 else z``, the first axis as a loop."""
    iters = (Iter("i", constant(0), SHAPE[1]), Iter("j", constant(0), SHAPE[2], vectorized=vectorized))
    value = Where(condition, Read("x", INDEX, "float32"), Read("z", INDEX, "float32"))
    block = Block("store", iters, Access("y", INDEX), value)
    return LoopFunc("choice", (X, Z, Y), 1, For("t", (constant(0),), (constant(SHAPE[0]),), block))


def chosen(func: LoopFunc) -> LoopFunc:
    return LoopFunc(func.name, func.params, func.num_outputs, choose(func.body, 4))


def left(func: LoopFunc) -> int:
    return sum(isinstance(e, Where) for b in blocks(func.body) for e in subexpressions(b.value))


def check(func: LoopFunc) -> LoopFunc:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2)]
    found = chosen(func)
    np.testing.assert_array_equal(interpret(found, arrays)[0], interpret(func, arrays)[0])
    return found


@settings(max_examples=150, deadline=None)
@given(st.tuples(*(st.integers(-3, 3) for _ in INDEX)), st.integers(-12, 12), st.booleans())
def test_values_stay_the_same(steps, shift, vectorized):
    check(program(AffineExpr(tuple(zip("tij", steps, strict=True)), shift), vectorized))


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("condition", [var("i") - 2, var("i") * -2 + 5, var("j") - 3, var("j") * -3 + 11, var("t") - 1])
def test_a_choice_that_one_variable_decides_is_made(condition, vectorized):
    assert left(check(program(condition, vectorized))) == 0


def test_a_tile_on_one_side_has_code_of_its_own():
    found = check(program(var("t") * 4 + var("i") - 6, False))
    assert len([s for s in walk(found.body) if isinstance(s, If)]) == 2
    assert left(found) == 1


def test_vectors_in_registers_stay_whole():
    func = program(var("j") - 3, True)
    body = choose(func.body, 4)
    assert len(list(blocks(body))) == 2
    kept = Buffer("y", SHAPE, "float32", "register")
    inside = choose(Alloc(kept, func.body), 4)
    assert len(list(blocks(inside))) == 1
    whole = choose(Alloc(kept, program(var("j") - 4, True).body), 4)
    assert len(list(blocks(whole))) == 2
