"""Exponentials of float32 and float64: exp, exp2, expm1, tanh, logistic, sinh and cosh.

``x = n ln2 + r`` with ``|r| <= ln2 / 2`` (Cody and Waite), a polynomial in r, and ``2**n`` put into the exponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import vecmath_exp_table
from .vecmath_coeffs import EXP, EXP2, EXPM1
from .vecmath_coeffs64 import EXP2_64, EXP_64, EXPM1_64
from .vecmath_core import LOG2E, Ops


@dataclass(frozen=True, slots=True)
class _Exponential:
    """What differs between element types.

    Attributes:
        ln2_high: ln2 rounded; times n it is exact enough because fused multiply-add rounds once.
        ln2_low: The rest.
        high: From here on exp is infinite.
        low: Up to here it is less than half the smallest denormal.
        exp2_low: The same of exp2.
        exp2_high: From here on exp2 is infinite.
        minus_one: Up to here expm1 is -1.
        linear: Up to here expm1 of x is x.
        tanh_one: From here on tanh is 1.
        sinh_high: From here on sinh and cosh are infinite.
        exp: Polynomial of exp.
        exp2: Of exp2.
        expm1: Of ``(expm1(r) - r) / r**2``.
    """

    ln2_high: float
    ln2_low: float
    high: float
    low: float
    exp2_high: float
    exp2_low: float
    minus_one: float
    linear: float
    tanh_one: float
    sinh_high: float
    exp: Sequence[float]
    exp2: Sequence[float]
    expm1: Sequence[float]


_TABLES = {
    "float32": _Exponential(
        ln2_high=0.693147182464599609375,
        ln2_low=-1.904654299957767e-09,
        high=89.0,
        low=-104.5,
        exp2_high=128.0,
        exp2_low=-151.0,
        minus_one=-20.0,
        linear=2.0**-26,
        tanh_one=10.0,
        sinh_high=89.5,
        exp=EXP,
        exp2=EXP2,
        expm1=EXPM1,
    ),
    "float64": _Exponential(
        ln2_high=0.6931471805599453,
        ln2_low=2.3190468138462996e-17,
        high=710.0,
        low=-746.0,
        exp2_high=1024.0,
        exp2_low=-1076.0,
        minus_one=-40.0,
        linear=2.0**-54,
        tanh_one=20.0,
        sinh_high=710.5,
        exp=EXP_64,
        exp2=EXP2_64,
        expm1=EXPM1_64,
    ),
}


def _table(o: Ops) -> _Exponential:
    return _TABLES[o.t.dtype]


def reduce(o: Ops, x: str) -> tuple[str, str, str]:
    """``n`` as a float and as an integer, and ``r = x - n ln2``."""
    table = _table(o)
    n, n_int = o.round_scaled(x, LOG2E)
    r = o.fma(n, -table.ln2_low, o.fma(n, -table.ln2_high, x))
    return n, n_int, r


def expm1_polynomial(o: Ops, r: str) -> str:
    """``expm1`` of a reduced argument."""
    return o.fma(o.mul(r, r), o.horner(r, _table(o).expm1), r)


def exp2_polynomial(o: Ops, r: str) -> str:
    """``2**r`` for r between -1/2 and 1/2."""
    return o.horner(r, _table(o).exp2)


def decay(o: Ops, x: str) -> str:
    """``e**x`` of rounded numbers that are not positive but by rounding, or NaN."""
    return vecmath_exp_table.decay(o, x) if o.looks_up else _exp_bounded(o, x)


def _exp_bounded(o: Ops, x: str) -> str:
    """``e**x`` of values up to the table's ``high``, or NaN."""
    if o.looks_up:
        return vecmath_exp_table.exp_bounded(o, x)
    n, n_int, r = reduce(o, o.at_least(x, _table(o).low))
    return o.scale(o.horner(r, _table(o).exp), n, n_int)


def exp(o: Ops, x: str) -> str:
    """``e**x``."""
    return _exp_bounded(o, o.at_most(x, _table(o).high))


def exp2(o: Ops, x: str) -> str:
    """``2**x``."""
    table = _table(o)
    x = o.at_most(o.at_least(x, table.exp2_low), table.exp2_high)
    n, n_int = o.round_scaled(x, 1.0)
    return o.scale(exp2_polynomial(o, o.sub(x, n)), n, n_int)


def _expm1_reduced(o: Ops, x: str) -> tuple[str, str]:
    """``p = expm1(r)`` and ``n`` as an integer with ``exp(x) = 2**n (1 + p)``."""
    _, n_int, r = reduce(o, x)
    return expm1_polynomial(o, r), n_int


def _expm1_part(o: Ops, x: str, halvings: int) -> str:
    """``expm1(x)``, halved: ``2**n`` alone would overflow before the result does."""
    p, n = _expm1_reduced(o, x)
    part = o.power_of_two(o.iop("add", n, -halvings))
    return o.fma(p, part, o.sub(part, 0.5**halvings))


def expm1(o: Ops, x: str) -> str:
    """``e**x - 1`` without cancellation near zero."""
    table = _table(o)
    half = _expm1_part(o, o.at_most(o.at_least(x, table.minus_one), table.high), 1)
    return o.select(o.compare("lt", o.abs(x), table.linear), x, o.add(half, half))


def tanh(o: Ops, x: str) -> str:
    """Hyperbolic tangent from ``h = expm1(2 |x|) / 2``: ``h / (1 + h)``.

    That is computed as ``w - w q`` with ``q = w / (1 + h)``, where w is h for small x and 1 for large x: what is wrong
    with the quotient then counts little.
    """
    magnitude = o.at_most(o.abs(x), _table(o).tanh_one)
    h = _expm1_part(o, o.add(magnitude, magnitude), 1)
    whole = o.select(o.compare("lt", magnitude, 0.55), h, 1.0)
    quotient = o.div(whole, o.add(h, 1.0))
    return o.copysign(o.fma(o.neg(whole), quotient, whole), x)


def _hyperbolic_half(o: Ops, x: str) -> str:
    """``expm1(|x|) / 2``, which is finite where expm1 itself is not."""
    quarter = _expm1_part(o, o.at_most(o.abs(x), _table(o).sinh_high), 2)
    return o.add(quarter, quarter)


def sinh(o: Ops, x: str) -> str:
    """Hyperbolic sine from ``h = expm1(|x|) / 2``: ``h + h / (1 + 2 h)``."""
    h = _hyperbolic_half(o, x)
    result = o.add(h, o.div(h, o.add(o.add(h, h), 1.0)))
    result = o.select(o.compare("lt", h, float("inf")), result, h)
    small = o.compare("lt", o.abs(x), _table(o).linear)
    return o.copysign(o.select(small, o.abs(x), result), x)


def cosh(o: Ops, x: str) -> str:
    """Hyperbolic cosine from ``h = expm1(|x|) / 2``: ``h + 1/2 + 1/2 / (1 + 2 h)``."""
    h = _hyperbolic_half(o, x)
    rest = o.div(0.5, o.add(o.add(h, h), 1.0))
    return o.add(h, o.add(rest, 0.5))


def logistic(o: Ops, x: str) -> str:
    """``1 / (1 + e**-x)`` from ``e = exp(-|x|)`` and ``q = e / (1 + e)``, so that nothing overflows.

    The result is ``1 - q`` for positive x; for negative x it is q, but ``e - e q`` has a smaller rounding error.
    """
    e = _exp_bounded(o, o.neg(o.abs(x)))
    quotient = o.div(e, o.add(e, 1.0))
    whole = o.select(o.compare("lt", x, 0.0), e, 1.0)
    return o.fma(o.neg(whole), quotient, whole)
