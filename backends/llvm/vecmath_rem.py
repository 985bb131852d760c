"""Remainder of float32."""

from __future__ import annotations

from .vecmath_core import Ops


def rem(o: Ops, x: str, y: str) -> str:
    """C's ``fmod`` of float32, exact.

    In float64 a quotient q is right to 52 bits, and ``x - q y`` is exact because y has 24 bits only: each step leaves
    at most 2**-51 of x, and quotients reach 2**277.
    """
    w = o.widened()
    wide_x, wide_y = o.widen(x), o.widen(y)
    divisor = w.abs(wide_y)
    inverse = w.div(-1.0, divisor)
    rest = w.abs(wide_x)
    for _ in range(6):
        quotient = w.b.intrinsic("trunc", w.t, w.mul(rest, inverse))
        rest = w.fma(quotient, divisor, rest)
    # The last quotient may be off by one either way.
    rest = w.select(w.compare("lt", rest, 0.0), w.add(rest, divisor), rest)
    rest = w.select(w.compare("ge", rest, divisor), w.sub(rest, divisor), rest)
    infinite = w.compare("eq", divisor, float("inf"))
    finite_x = w.compare("lt", w.abs(wide_x), float("inf"))
    kept = o.b.op("and", o.t.with_dtype("bool"), infinite, finite_x)
    rest = w.select(kept, w.abs(wide_x), rest)
    return o.copysign(o.narrow(rest), x)
