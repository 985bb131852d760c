"""Logarithm and logarithmic derivative of the gamma function of float32 and float64: lgamma and digamma.

Stirling's series from 8 on; below, the recurrence leads there, and numbers below zero are reflected. Both are computed
in float64: the sums cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .vecmath_coeffs64 import COS_TAIL_64, SIN_TAIL_64
from .vecmath_core import Ops
from .vecmath_log import log

_STEPS = 8
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
_LGAMMA = tuple(b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI, 1))
_DIGAMMA = tuple(b / (2 * k) for k, b in enumerate(_BERNOULLI, 1))
_CLOSE = 2.0**-64
_INTEGERS = 2.0**52
"""From here on all numbers are integers."""
_INF, _NAN = float("inf"), float("nan")


@dataclass(frozen=True, slots=True)
class _Shifted:
    """A positive number z, at least 8, as many steps above x as it takes.

    Attributes:
        z: The number.
        product: ``x (x + 1) ... (x + 7)`` where steps were taken, else 1.
        slope: Its derivative, else 0.
    """

    z: str
    product: str
    slope: str


def _shifted(o: Ops, x: str) -> _Shifted:
    near = o.compare("lt", x, float(_STEPS))
    product, slope = x, o.c(1.0)
    for step in range(1, _STEPS):
        factor = o.add(x, float(step))
        slope = o.fma(slope, factor, product)
        product = o.mul(product, factor)
    z = o.select(near, o.add(x, float(_STEPS)), x)
    return _Shifted(z, o.select(near, product, 1.0), o.select(near, slope, 0.0))


def _sin_cos_pi(o: Ops, r: str) -> tuple[str, str]:
    """``|sin(pi r)|`` and ``cos(pi r)`` for r in [-1/2, 1/2]."""
    magnitude = o.abs(r)
    swapped = o.compare("gt", magnitude, 0.25)
    angle = o.mul(o.select(swapped, o.sub(0.5, magnitude), magnitude), math.pi)
    z = o.mul(angle, angle)
    sine = o.fma(o.mul(z, angle), o.horner(z, SIN_TAIL_64), angle)
    cosine = o.fma(o.mul(z, z), o.horner(z, COS_TAIL_64), o.fma(z, -0.5, 1.0))
    return o.select(swapped, cosine, sine), o.select(swapped, sine, cosine)


def lgamma(o: Ops, x: str) -> str:
    """Logarithm of the absolute value of the gamma function; infinite at zero and negative integers."""
    return _in_float64(o, x, _lgamma)


def digamma(o: Ops, x: str) -> str:
    """Derivative of ``lgamma``; NaN at zero and negative integers."""
    return _in_float64(o, x, _digamma)


def _in_float64(o: Ops, x: str, function: Callable[[Ops, str], str]) -> str:
    if o.t.dtype == "float64":
        return function(o, x)
    return o.narrow(function(o.widened(), o.widen(x)))


def _lgamma(o: Ops, x: str) -> str:
    # The logarithm of a number this close to zero is that of 1 / |x|, on either side.
    reflects = o.compare("lt", x, -_CLOSE)
    at = _shifted(o, o.select(reflects, o.sub(1.0, x), o.abs(x)))
    inverse = o.div(1.0, at.z)
    series = o.mul(inverse, o.horner(o.mul(inverse, inverse), _LGAMMA))
    # (z - 1/2) (log z - 1) + (log 2 pi - 1) / 2: infinities do not meet.
    main = o.fma(o.sub(at.z, 0.5), o.sub(log(o, at.z), 1.0), (math.log(2 * math.pi) - 1) / 2)
    sine, _ = _sin_cos_pi(o, o.sub(x, o.rint(x)))
    above = o.add(main, series)
    # gamma(x) gamma(1 - x) = pi / sin(pi x)
    below = log(o, o.select(reflects, o.div(o.mul(at.product, math.pi), sine), at.product))
    result = o.select(reflects, o.sub(below, above), o.sub(above, below))
    for zero in (1.0, 2.0):
        result = o.select(o.compare("eq", x, zero), 0.0, result)
    result = o.select(o.compare("le", x, -_INTEGERS), _INF, result)
    return o.select(o.compare("eq", x, _INF), _INF, result)


def _digamma(o: Ops, x: str) -> str:
    reflects = o.compare("le", x, 0.0)
    at = _shifted(o, o.select(reflects, o.sub(1.0, x), x))
    inverse = o.div(1.0, at.z)
    square = o.mul(inverse, inverse)
    series = o.fma(square, o.horner(square, _DIGAMMA), o.mul(inverse, 0.5))
    direct = o.sub(o.sub(log(o, at.z), series), o.div(at.slope, at.product))
    r = o.sub(x, o.rint(x))
    sine, cosine = _sin_cos_pi(o, r)
    cotangent = o.mul(o.div(cosine, o.copysign(sine, r)), math.pi)
    reflected = o.select(o.compare("eq", r, 0.0), _NAN, o.sub(direct, cotangent))
    return o.select(reflects, reflected, direct)
