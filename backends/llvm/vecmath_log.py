"""Logarithms of float32 and float64: log, log1p, asinh, acosh and atanh.

``x = 2**e m`` with m in [0.75, 1.5), so that e is zero around 1, and a polynomial in ``f = m - 1`` (float32) or in
``s = f / (2 + f)`` (float64).
"""

from __future__ import annotations

from dataclasses import dataclass

from .vecmath_coeffs import LOG1P_TAIL
from .vecmath_coeffs64 import LOG_64
from .vecmath_core import Ops

_INF = float("inf")
_NAN = float("nan")
_LN2 = 0.6931471805599453


@dataclass(frozen=True, slots=True)
class _Logarithm:
    """What differs between element types.

    Attributes:
        ln2_high: ln2 with so few bits that its product with an exponent is exact.
        ln2_low: The rest.
        smallest: The smallest normal number.
        large: From here on ``x**2 + 1`` is ``x**2``, whose square does not overflow.
    """

    ln2_high: float
    ln2_low: float
    smallest: float
    large: float


_TABLES = {
    "float32": _Logarithm(0.693145751953125, 1.42860676533018e-06, 2.0**-126, 2.0**30),
    "float64": _Logarithm(0.6931471803691238, 1.9082149292705877e-10, 2.0**-1022, 2.0**100),
}


def split_exponent(o: Ops, x: str) -> tuple[str, str]:
    """The integer e and the bits of ``2**e`` in place, for a positive normal x."""
    offset = o.iop("sub", o.bits(x), o.bits(o.c(0.75)))
    e = o.iop("ashr", offset, o.mantissa)
    return e, o.iop("shl", e, o.mantissa)


def log_of(o: Ops, f: str, e: str) -> str:
    """``log(2**e (1 + f))`` for f in [-0.25, 0.5) and the float e."""
    table = _TABLES[o.t.dtype]
    square = o.mul(f, f)
    if o.t.dtype == "float32":
        tail = o.mul(o.mul(square, f), o.horner(f, LOG1P_TAIL))
        tail = o.fma(e, table.ln2_low, tail)
        tail = o.fma(square, -0.5, tail)
    else:
        s = o.div(f, o.add(f, 2.0))
        z = o.mul(s, s)
        # log(1 + f) = f - f**2 / 2 + s (f**2 / 2 + z R(z))
        rest = o.mul(s, o.fma(z, o.horner(z, LOG_64), o.mul(square, 0.5)))
        tail = o.fma(square, -0.5, o.fma(e, table.ln2_low, rest))
    return o.fma(e, table.ln2_high, o.add(f, tail))


def log(o: Ops, x: str) -> str:
    """Natural logarithm."""
    tiny = o.compare("lt", x, _TABLES[o.t.dtype].smallest)
    scaled = o.select(tiny, o.mul(x, 2.0**o.mantissa), x)
    e, shift = split_exponent(o, scaled)
    f = o.sub(o.from_bits(o.iop("sub", o.bits(scaled), shift)), 1.0)
    exponent = o.add(o.to_float(e), o.select(tiny, float(-o.mantissa), 0.0))
    return _log_edges(o, log_of(o, f, exponent), x, x)


def log1p(o: Ops, x: str) -> str:
    """``log(1 + x)`` without cancellation near zero."""
    total = o.add(x, 1.0)
    e, shift = split_exponent(o, total)
    # f = 2**-e x + (2**-e - 1), exact but for one rounding; the smallest 2**-e is no float, but does not matter either.
    scaled = o.from_bits(o.iop("sub", o.bits(x), shift))
    power = o.from_bits(o.iop("sub", o.bits(o.c(1.0)), shift))
    power = o.at_least(power, 0.0)
    f = o.add(scaled, o.sub(power, 1.0))
    result = _log_edges(o, log_of(o, f, o.to_float(e)), total, x)
    return o.copysign(result, x)


def _log_edges(o: Ops, result: str, argument: str, x: str) -> str:
    """``result`` where the argument of the logarithm is positive and finite, else infinities and NaN."""
    edge = o.select(o.compare("eq", argument, 0.0), -_INF, _NAN)
    result = o.select(o.compare("gt", argument, 0.0), result, edge)
    return o.select(o.compare("lt", x, _INF), result, x)


def asinh(o: Ops, x: str) -> str:
    """Inverse hyperbolic sine, ``log1p(a + a**2 / (1 + sqrt(a**2 + 1)))`` with ``a = |x|``."""
    a = o.abs(x)
    large = o.compare("gt", a, _TABLES[o.t.dtype].large)
    square = o.mul(a, a)
    root = o.b.intrinsic("sqrt", o.t, o.add(square, 1.0))
    argument = o.add(a, o.div(square, o.add(root, 1.0)))
    return o.copysign(_log1p_or_doubled(o, large, a, argument), x)


def acosh(o: Ops, x: str) -> str:
    """Inverse hyperbolic cosine, ``log1p(t + sqrt(2 t + t**2))`` with ``t = x - 1``."""
    large = o.compare("gt", x, _TABLES[o.t.dtype].large)
    t = o.sub(x, 1.0)
    root = o.b.intrinsic("sqrt", o.t, o.fma(t, t, o.add(t, t)))
    result = _log1p_or_doubled(o, large, x, o.add(t, root))
    return o.select(o.compare("lt", x, 1.0), _NAN, result)


def _log1p_or_doubled(o: Ops, large: str, a: str, argument: str) -> str:
    """``log1p(argument)``, or ``log(2 a)`` of a large number."""
    result = log1p(o, o.select(large, a, argument))
    return o.add(result, o.select(large, _LN2, 0.0))


def atanh(o: Ops, x: str) -> str:
    """Inverse hyperbolic tangent, ``log1p(2 a / (1 - a)) / 2`` with ``a = |x|``."""
    a = o.abs(x)
    return o.copysign(o.mul(log1p(o, o.div(o.add(a, a), o.sub(1.0, a))), 0.5), x)
