"""Affine expressions: every rewriting keeps the value at every point, every interval holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.ir.affine import AffineExpr, FloorDiv, Mod, as_expr, constant, delinearize, linearize, split_by, var

NAMES = ("a", "b", "c")
divisors = st.integers(1, 12)
leaves = st.one_of(st.sampled_from(NAMES).map(var), st.integers(-20, 20).map(constant))


def _grow(inner: st.SearchStrategy[AffineExpr]) -> st.SearchStrategy[AffineExpr]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, st.integers(-6, 6)).map(lambda p: p[0] * p[1]),
        st.tuples(inner, divisors).map(lambda p: p[0].floordiv(p[1])),
        st.tuples(inner, divisors).map(lambda p: p[0].mod(p[1])),
    )


exprs = st.recursive(leaves, _grow, max_leaves=6)
points = st.fixed_dictionaries({n: st.integers(-30, 30) for n in NAMES})


@st.composite
def ranges_and_point(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    ranges, point = {}, {}
    for name in NAMES:
        low = draw(st.integers(-20, 20))
        ranges[name] = (low, low + draw(st.integers(0, 15)))
        point[name] = draw(st.integers(*ranges[name]))
    return ranges, point


@given(exprs, exprs, st.integers(-7, 7), points)
def test_arithmetic_is_that_of_integers(x: AffineExpr, y: AffineExpr, k: int, at: dict[str, int]) -> None:
    u, v = x.evaluate(at), y.evaluate(at)
    assert (x + y).evaluate(at) == u + v
    assert (x - y).evaluate(at) == u - v
    assert (x * k).evaluate(at) == (k * x).evaluate(at) == u * k
    assert (-x).evaluate(at) == -u
    assert (k - x).evaluate(at) == k - u


@given(exprs, divisors, points)
def test_quotient_and_remainder_round_down(x: AffineExpr, d: int, at: dict[str, int]) -> None:
    assert x.floordiv(d).evaluate(at) == x.evaluate(at) // d
    assert x.mod(d).evaluate(at) == x.evaluate(at) % d


@given(exprs, ranges_and_point())
def test_bounds_hold_every_value(x: AffineExpr, where: tuple[dict[str, tuple[int, int]], dict[str, int]]) -> None:
    ranges, at = where
    low, high = x.bounds(ranges)
    assert low <= x.evaluate(at) <= high


@given(exprs, ranges_and_point())
def test_simplify_keeps_the_value(x: AffineExpr, where: tuple[dict[str, tuple[int, int]], dict[str, int]]) -> None:
    ranges, at = where
    assert x.simplify(ranges).evaluate(at) == x.evaluate(at)


@given(exprs, exprs, points)
def test_substitute_is_evaluation_in_two_steps(x: AffineExpr, y: AffineExpr, at: dict[str, int]) -> None:
    assert x.substitute({"a": y}).evaluate(at) == x.evaluate({**at, "a": y.evaluate(at)})


@given(exprs, points)
def test_split_by_adds_up(x: AffineExpr, at: dict[str, int]) -> None:
    kept, rest = split_by(x, lambda n: n == "a")
    assert kept.variables() <= {"a"}
    assert kept.evaluate(at) + rest.evaluate(at) == x.evaluate(at)


@given(exprs, exprs)
def test_order_of_terms_does_not_matter(x: AffineExpr, y: AffineExpr) -> None:
    assert x + y == y + x
    assert hash(x + y) == hash(y + x)
    assert x - x == constant(0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_delinearize_is_the_inverse_of_linearize(shape: list[int], data: st.DataObject) -> None:
    index = [data.draw(st.integers(0, n - 1)) for n in shape]
    offset = linearize(tuple(map(constant, index)), tuple(shape))
    assert [e.evaluate({}) for e in delinearize(offset, tuple(shape))] == index


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(-9, 9))
def test_a_quotient_and_a_remainder_join(rows: int, size: int, stride: int, shift: int) -> None:
    place = var("a") * stride + var("b") + shift
    pair = place.floordiv(size), place.mod(size)
    assert linearize(pair, (rows, size)) == place
    assert linearize((var("c"), *pair, constant(0)), (2, rows, size, 3)) == var("c") * (rows * size * 3) + place * 3
    apart = linearize(pair, (rows, size + 1))  # rows of another length
    for a in range(-3, 4):
        env = {"a": a, "b": 1}
        assert apart.evaluate(env) == pair[0].evaluate(env) * (size + 1) + pair[1].evaluate(env)


def test_empty_arrays_can_be_delinearized() -> None:
    assert len(delinearize(var("a"), (3, 0, 2))) == 3


def test_exact_terms_leave_the_quotient() -> None:
    a, b = var("a"), var("b")
    assert (a * 8 + b).floordiv(4) == a * 2 + b.floordiv(4)
    assert (a * 8 + b).mod(4) == b.mod(4)
    assert (a * 8 + 5).floordiv(4) == a * 2 + 1
    assert (a * 8 + b).floordiv(8).simplify({"a": (0, 9), "b": (0, 7)}) == a


def test_text() -> None:
    a, b = var("a"), var("b")
    assert str(b * 2 - a - 3) == "-a + 2*b - 3"
    assert str((a + b).floordiv(4) * 3 + a.mod(2)) == "3*((a + b) // 4) + (a % 2)"
    assert (a * 2 + b).text({"a": "z"}) == "b + 2*z"
    assert str(constant(0)) == "0"


def test_single_variable_and_coefficients() -> None:
    assert var("a").single_variable() == "a"
    assert (var("a") + 1).single_variable() is None
    assert (var("a") * 3 + var("b").mod(2)).coefficient("a") == 3
    assert (var("a") * 3 + var("b").mod(2)).coefficient("b") == 0
    assert as_expr("a") == var("a") and as_expr(3) == constant(3)


@pytest.mark.parametrize("divisor", [0, -2])
def test_refuses_divisors_that_are_not_positive(divisor: int) -> None:
    with pytest.raises(ValueError, match="positive divisor"):
        var("a").floordiv(divisor)
    with pytest.raises(ValueError, match="positive divisor"):
        var("a").mod(divisor)


def test_linearize_refuses_another_rank() -> None:
    with pytest.raises(ValueError, match="expected 2 indices"):
        linearize((var("a"),), (3, 4))


def test_unknown_variables_have_no_bounds() -> None:
    with pytest.raises(KeyError):
        AffineExpr(((FloorDiv(var("a"), 2), 1), (Mod(var("a"), 2), 1))).bounds({})
