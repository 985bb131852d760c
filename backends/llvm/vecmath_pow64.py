"""Powers and roots of float64: pow and cbrt."""

from __future__ import annotations

from .vecmath_coeffs64 import CBRT_INVERSE, LOG_LONG
from .vecmath_core import Ops
from .vecmath_exp import exp2_polynomial
from .vecmath_log import split_exponent
from .vecmath_pow import power_edges

_INF = float("inf")
_SMALLEST_NORMAL = 2.0**-1022
_THIRD = (0.3333333333333333, 1.850371707708594e-17)
_TWO_LOG2E = (2.8853900817779268, 4.0710547481862066e-17)


def cbrt(o: Ops, x: str) -> str:
    """Cube root: Newton's iteration of the inverse root of a number near 1, then one of the root itself."""
    a = o.abs(x)
    tiny = o.compare("lt", a, _SMALLEST_NORMAL)
    scaled = o.select(tiny, o.mul(a, 2.0**54), a)
    e, shift = split_exponent(o, scaled)
    m = o.from_bits(o.iop("sub", o.bits(scaled), shift))
    _, third_int = o.round_scaled(o.to_float(e), 1 / 3)
    # Between 3/8 and 3 what is left of the exponent, -1 to 1, is part of the number.
    m = o.mul(m, o.power_of_two(o.iop("sub", e, o.iop("mul", third_int, 3))))
    z = o.horner(m, CBRT_INVERSE)
    for _ in range(3):
        cube = o.mul(o.mul(z, z), o.mul(z, m))
        z = o.fma(o.mul(z, _THIRD[0]), o.sub(1.0, cube), z)
    square = o.mul(z, z)
    root = o.mul(m, square)
    rest = o.fma(o.mul(root, root), root, o.neg(m))
    root = o.fma(o.mul(rest, -_THIRD[0]), square, root)
    root = o.mul(root, o.power_of_two(o.iop("sub", third_int, o.b.select(o.i, tiny, o.ci(18), o.ci(0)))))
    usual = o.b.op("and", o.t.with_dtype("bool"), o.compare("gt", a, 0.0), o.compare("lt", a, _INF))
    return o.select(usual, o.copysign(root, x), x)


def pow(o: Ops, x: str, y: str) -> str:
    """``x**y`` with C's special cases, the logarithm to 66 bits or more."""
    high, low = _log2(o, o.abs(x))
    product, lost = o.two_product(high, y)
    rest = o.fma(low, y, lost)
    # Infinite products have no rest.
    rest = o.select(o.compare("lt", o.abs(product), _INF), rest, 0.0)
    clamped = o.at_most(o.at_least(product, -1100.0), 1100.0)
    n, n_int = o.round_scaled(clamped, 1.0)
    rest = o.select(o.compare("eq", clamped, product), rest, 0.0)
    result = o.scale(exp2_polynomial(o, o.add(o.sub(clamped, n), rest)), n, n_int)
    return power_edges(o, x, y, result)


def _log2(o: Ops, x: str) -> tuple[str, str]:
    """``log2`` of a non-negative number and what is missing of it; -inf of 0, inf of inf, undefined of NaN."""
    tiny = o.compare("lt", x, _SMALLEST_NORMAL)
    scaled = o.select(tiny, o.mul(x, 2.0**54), x)
    e, shift = split_exponent(o, scaled)
    exponent = o.add(o.to_float(e), o.select(tiny, -54.0, 0.0))
    f = o.sub(o.from_bits(o.iop("sub", o.bits(scaled), shift)), 1.0)
    s, s_low = _quotient(o, f)
    # log(1 + f) = 2 s (1 + z / 3 + z**2 Q(z)) with z = s**2.
    z, z_lost = o.two_product(s, s)
    z_low = o.fma(o.add(s, s), s_low, z_lost)
    third, lost = o.two_product(z, _THIRD[0])
    third_low = o.fma(z_low, _THIRD[0], o.fma(z, _THIRD[1], lost))
    third_low = o.fma(o.mul(z, z), o.horner(z, LOG_LONG), third_low)
    factor, factor_low = o.fast_two_sum(1.0, third)
    factor_low = o.add(factor_low, third_low)
    t, t_low = _product(o, (s, s_low), (o.c(_TWO_LOG2E[0]), o.c(_TWO_LOG2E[1])))
    t, t_low = _product(o, (t, t_low), (factor, factor_low))
    high, rest = o.two_sum(exponent, t)
    high, low = o.fast_two_sum(high, o.add(rest, t_low))
    high = o.select(o.compare("eq", x, 0.0), -_INF, high)
    high = o.select(o.compare("eq", x, _INF), _INF, high)
    usual = o.compare("lt", o.abs(high), _INF)
    return high, o.select(usual, low, 0.0)


def _quotient(o: Ops, f: str) -> tuple[str, str]:
    """``f / (2 + f)`` and what is missing of it."""
    total, lost = o.fast_two_sum(2.0, f)
    s = o.div(f, total)
    rest = o.fma(o.neg(s), total, f)
    return s, o.div(o.fma(o.neg(s), lost, rest), total)


def _product(o: Ops, x: tuple[str, str], y: tuple[str, str]) -> tuple[str, str]:
    """The product of two numbers of twice the precision."""
    high, lost = o.two_product(x[0], y[0])
    low = o.fma(x[0], y[1], o.fma(x[1], y[0], lost))
    return o.fast_two_sum(high, low)
