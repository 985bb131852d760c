"""Logarithms of float32: log and log1p.

``x = 2**e m`` with m in [0.75, 1.5), so that e is zero around 1, and a polynomial in ``f = m - 1``.
"""

from __future__ import annotations

from .vecmath_coeffs import LOG1P_TAIL
from .vecmath_core import Ops

_LN2_HIGH = 0.693145751953125  # 13 bits, so that e * high is exact
_LN2_LOW = 1.42860676533018e-06
_SMALLEST_NORMAL = 2.0**-126
_INF = float("inf")
_NAN = float("nan")


def split_exponent(o: Ops, x: str) -> tuple[str, str]:
    """The integer e and the bits of ``2**e`` in place, for a positive normal x."""
    offset = o.iop("sub", o.bits(x), o.bits(o.c(0.75)))
    e = o.iop("ashr", offset, o.mantissa)
    return e, o.iop("shl", e, o.mantissa)


def _log_of(o: Ops, f: str, e: str) -> str:
    """``log(2**e (1 + f))`` for f in [-0.25, 0.5) and the float e."""
    square = o.mul(f, f)
    tail = o.mul(o.mul(square, f), o.horner(f, LOG1P_TAIL))
    tail = o.fma(e, _LN2_LOW, tail)
    tail = o.fma(square, -0.5, tail)
    return o.fma(e, _LN2_HIGH, o.add(f, tail))


def log(o: Ops, x: str) -> str:
    """Natural logarithm."""
    tiny = o.compare("lt", x, _SMALLEST_NORMAL)
    scaled = o.select(tiny, o.mul(x, 2.0**23), x)
    e, shift = split_exponent(o, scaled)
    f = o.sub(o.from_bits(o.iop("sub", o.bits(scaled), shift)), 1.0)
    exponent = o.add(o.to_float(e), o.select(tiny, -23.0, 0.0))
    return _log_edges(o, _log_of(o, f, exponent), x, x)


def log1p(o: Ops, x: str) -> str:
    """``log(1 + x)`` without cancellation near zero."""
    total = o.add(x, 1.0)
    e, shift = split_exponent(o, total)
    # f = 2**-e x + (2**-e - 1), exact but for one rounding; 2**-128 is no float, but does not matter either.
    scaled = o.from_bits(o.iop("sub", o.bits(x), shift))
    power = o.from_bits(o.iop("sub", o.bits(o.c(1.0)), shift))
    power = o.at_least(power, 0.0)
    f = o.add(scaled, o.sub(power, 1.0))
    result = _log_edges(o, _log_of(o, f, o.to_float(e)), total, x)
    return o.copysign(result, x)


def _log_edges(o: Ops, result: str, argument: str, x: str) -> str:
    """``result`` where the argument of the logarithm is positive and finite, else infinities and NaN."""
    edge = o.select(o.compare("eq", argument, 0.0), -_INF, _NAN)
    result = o.select(o.compare("gt", argument, 0.0), result, edge)
    return o.select(o.compare("lt", x, _INF), result, x)
