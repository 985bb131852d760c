"""Facts about variables: nothing is proved that is not so, and small domains are decided exactly."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.affine import AffineExpr, constant, var
from tilewright.ir.bounds import Facts
from tilewright.ir.loop import Access, Block, Const, For, Iter, Seq

NAMES = ("a", "b")


@st.composite
def expressions(draw: st.DrawFn) -> AffineExpr:
    total = constant(draw(st.integers(-8, 8)))
    for name in NAMES:
        total = total + var(name) * draw(st.integers(-3, 3))
    if draw(st.booleans()):
        inner = var("a") * draw(st.integers(1, 3)) + var("b") + draw(st.integers(-3, 3))
        divisor, k = draw(st.integers(1, 4)), draw(st.integers(-3, 3))
        total = total + (inner.floordiv(divisor) if draw(st.booleans()) else inner.mod(divisor)) * k
    return total


@given(expressions(), st.lists(expressions(), max_size=3), st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=300)
def test_proofs_are_right(expr: AffineExpr, conditions: list[AffineExpr], m: int, n: int) -> None:
    facts = Facts(ranges={"a": (0, m), "b": (-2, n)}).assume(conditions)
    points = [dict(zip(NAMES, p, strict=True)) for p in product(range(m + 1), range(-2, n + 1))]
    truth = all(expr.evaluate(p) >= 0 for p in points if all(c.evaluate(p) >= 0 for c in conditions))
    assert facts.proves(expr) == truth
    assert truth or not facts._derives(facts.resolve(expr), 2)
    low, high = facts.bounds(facts.resolve(expr))
    assert all(low <= expr.evaluate(p) <= high for p in points if all(c.evaluate(p) >= 0 for c in conditions))


def loop(name: str, lower: AffineExpr | int, upper: AffineExpr | int) -> For:
    bounds = [e if isinstance(e, AffineExpr) else constant(e) for e in (lower, upper)]
    return For(name, (bounds[0],), (bounds[1],), Seq(()))


def box(*iters: Iter) -> Block:
    return Block("b", iters, Access("y", ()), Const(0, "float32"))


def test_a_tile_stays_in_its_range_however_large_it_is() -> None:
    big = 1 << 30
    facts = (
        Facts().enter_loop(loop("o", 0, big)).enter_box(box(Iter("i", var("o") * 8, 8, limit=constant(8 * big - 3))))
    )
    assert facts.inside(var("i"), 8 * big - 3)
    assert not facts.inside(var("i"), 8 * big - 4)
    assert facts.inside(var("i") - var("o") * 8, 8)
    assert facts.inside(var("i").floordiv(8), big)


def test_guards_bound_what_intervals_cannot() -> None:
    big = 1 << 30
    facts = Facts().enter_loop(loop("x", 0, big)).enter_loop(loop("k", 0, 3))
    at = var("x") * 2 + var("k") - 1
    assert not facts.inside(at, 2 * big)
    guarded = facts.assume([at, constant(2 * big - 1) - at])
    assert guarded.inside(at, 2 * big)
    assert guarded.inside(at.floordiv(4), big // 2)


def test_bounds_that_depend_on_outer_loops() -> None:
    big = 1 << 30
    facts = Facts().enter_loop(loop("o", 0, big)).enter_loop(loop("i", var("o") * 4, var("o") * 4 + 4))
    assert facts.inside(var("i"), 4 * big)
    assert facts.inside(var("i") - var("o") * 4, 4)
    triangle = Facts().enter_loop(loop("r", 0, big)).enter_loop(loop("c", 0, var("r") + 1))
    assert triangle.proves(var("r") - var("c"))
    assert not triangle.proves(var("c") - var("r"))


def test_places_that_are_never_reached() -> None:
    assert Facts().enter_loop(loop("o", 3, 3)).empty
    assert Facts().enter_box(box(Iter("i", constant(0), 0))).empty
    assert Facts().enter_box(box(Iter("i", constant(5), 4, limit=constant(5)))).empty
    assert Facts().enter_loop(loop("o", 0, 4)).assume([var("o") - 4]).empty
    assert not Facts().enter_loop(loop("o", 0, 4)).assume([var("o") - 3]).empty
