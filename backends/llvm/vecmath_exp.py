"""Exponentials of float32: exp, exp2, expm1, tanh, logistic, sinh and cosh.

``x = n ln2 + r`` with ``|r| <= ln2 / 2`` (Cody and Waite), a polynomial in r, and ``2**n`` put into the exponent.
"""

from __future__ import annotations

from .vecmath_coeffs import EXP, EXP2, EXPM1
from .vecmath_core import LOG2E, Ops

# ln2 = high + low; n * high is exact enough because fused multiply-add rounds once.
LN2_HIGH = 0.693147182464599609375
LN2_LOW = -1.904654299957767e-09
# Beyond these exp is infinite, and less than half the smallest denormal.
EXP_HIGH = 89.0
EXP_LOW = -104.5


def reduce(o: Ops, x: str) -> tuple[str, str, str]:
    """``n`` as a float and as an integer, and ``r = x - n ln2``."""
    n, n_int = o.round_scaled(x, LOG2E)
    r = o.fma(n, -LN2_LOW, o.fma(n, -LN2_HIGH, x))
    return n, n_int, r


def _exp_clamped(o: Ops, x: str) -> str:
    """``exp`` of arguments between `EXP_LOW` and `EXP_HIGH`, or NaN."""
    n, n_int, r = reduce(o, x)
    return o.scale(o.horner(r, EXP), n, n_int)


def exp(o: Ops, x: str) -> str:
    """``e**x``."""
    return _exp_clamped(o, o.at_most(o.at_least(x, EXP_LOW), EXP_HIGH))


def exp2(o: Ops, x: str) -> str:
    """``2**x``."""
    x = o.at_most(o.at_least(x, -151.0), 128.0)
    n, n_int = o.round_scaled(x, 1.0)
    return o.scale(o.horner(o.sub(x, n), EXP2), n, n_int)


def _expm1_reduced(o: Ops, x: str) -> tuple[str, str]:
    """``p = expm1(r)`` and ``n`` as an integer with ``exp(x) = 2**n (1 + p)``."""
    _, n_int, r = reduce(o, x)
    return o.fma(o.mul(r, r), o.horner(r, EXPM1), r), n_int


def expm1(o: Ops, x: str) -> str:
    """``e**x - 1`` without cancellation near zero."""
    clamped = o.at_most(o.at_least(x, -20.0), EXP_HIGH)
    p, n = _expm1_reduced(o, clamped)
    # Half of the result, because 2**n alone would overflow before the result does.
    half = o.power_of_two(o.iop("add", n, -1))
    result = o.fma(p, half, o.sub(half, 0.5))
    return o.select(o.compare("lt", o.abs(x), 2.0**-26), x, o.add(result, result))


def tanh(o: Ops, x: str) -> str:
    """Hyperbolic tangent from ``h = expm1(2 |x|) / 2``: ``h / (1 + h)``.

    That is computed as ``w - w q`` with ``q = w / (1 + h)``, where w is h for small x and 1 for large x: what is wrong
    with the quotient then counts little.
    """
    magnitude = o.at_most(o.abs(x), 10.0)
    p, n = _expm1_reduced(o, o.add(magnitude, magnitude))
    power = o.power_of_two(o.iop("add", n, -1))
    h = o.fma(p, power, o.sub(power, 0.5))
    whole = o.select(o.compare("lt", magnitude, 0.55), h, 1.0)
    quotient = o.div(whole, o.add(h, 1.0))
    return o.copysign(o.fma(o.neg(whole), quotient, whole), x)


def logistic(o: Ops, x: str) -> str:
    """``1 / (1 + e**-x)`` from ``e = exp(-|x|)`` and ``q = e / (1 + e)``, so that nothing overflows.

    The result is ``1 - q`` for positive x; for negative x it is q, but ``e - e q`` has a smaller rounding error.
    """
    e = _exp_clamped(o, o.at_least(o.neg(o.abs(x)), EXP_LOW))
    quotient = o.div(e, o.add(e, 1.0))
    whole = o.select(o.compare("lt", x, 0.0), e, 1.0)
    return o.fma(o.neg(whole), quotient, whole)
