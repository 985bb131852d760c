"""Inverse error function of float32 and float64: ``x P(w)`` with ``w = -log(1 - x**2)``.

After M. Giles, Approximating the erfinv function (GPU Computing Gems, 2011): near 1 the function grows like the square
root of w, so polynomials there are in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .vecmath_coeffs import ERF_INV_LARGE, ERF_INV_SMALL
from .vecmath_coeffs64 import ERF_INV_LARGE_64, ERF_INV_MIDDLE_64, ERF_INV_SMALL_64
from .vecmath_core import Ops
from .vecmath_log import log_of, split_exponent


@dataclass(frozen=True, slots=True)
class _Piece:
    """A polynomial around a middle, up to an end of w."""

    middle: float
    end: float
    coeffs: Sequence[float]


_INF, _NAN = float("inf"), float("nan")
_PIECES = {
    "float32": (_Piece(2.5, 5.0, ERF_INV_SMALL), _Piece(3.1, _INF, ERF_INV_LARGE)),
    "float64": (
        _Piece(3.125, 6.25, ERF_INV_SMALL_64),
        _Piece(3.25, 16.0, ERF_INV_MIDDLE_64),
        _Piece(5.01, _INF, ERF_INV_LARGE_64),
    ),
}
"""The first one in w, the others in its root."""


def erf_inv(o: Ops, x: str) -> str:
    """Inverse error function; infinite at -1 and 1, NaN beyond."""
    rest = o.fma(o.neg(x), x, 1.0)
    e, shift = split_exponent(o, rest)
    f = o.sub(o.from_bits(o.iop("sub", o.bits(rest), shift)), 1.0)
    w = o.neg(log_of(o, f, o.to_float(e)))
    root = o.b.intrinsic("sqrt", o.t, w)
    first, *others = _PIECES[o.t.dtype]
    ratio = o.horner(o.sub(root, others[-1].middle), others[-1].coeffs)
    for piece in reversed(others[:-1]):
        ratio = o.select(o.compare("lt", w, piece.end), o.horner(o.sub(root, piece.middle), piece.coeffs), ratio)
    ratio = o.select(o.compare("lt", w, first.end), o.horner(o.sub(w, first.middle), first.coeffs), ratio)
    magnitude = o.abs(x)
    edge = o.select(o.compare("eq", magnitude, 1.0), o.copysign(o.c(_INF), x), _NAN)
    return o.select(o.compare("lt", magnitude, 1.0), o.mul(x, ratio), edge)
