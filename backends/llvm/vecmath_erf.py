"""Error functions of float32 and float64: erf and erfc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import vecmath_erfc_table
from .vecmath_coeffs import ERF_LARGE, ERF_SMALL, ERFC, EXP2_SHORT
from .vecmath_coeffs64 import ERF_LARGE_64, ERF_SMALL_64, ERFC_64, EXP2_64
from .vecmath_core import Ops
from .vecmath_exp import expm1_polynomial, reduce


@dataclass(frozen=True, slots=True)
class _ErrorFunction:
    """What differs between element types.

    Attributes:
        erf_one: From here on erf rounds to 1.
        erfc_zero: From here on erfc rounds to 0.
        small: Polynomial of ``erf(x) / x - 1`` in ``x**2``.
        large: Of ``log2(erfc(x))``.
        exp2: Of ``2**x``.
        erfc: Of erfc, see there.
    """

    erf_one: float
    erfc_zero: float
    small: Sequence[float]
    large: Sequence[float]
    exp2: Sequence[float]
    erfc: Sequence[float]


_TABLES = {
    "float32": _ErrorFunction(4.0, 10.1, ERF_SMALL, ERF_LARGE, EXP2_SHORT, ERFC),
    "float64": _ErrorFunction(6.0, 27.3, ERF_SMALL_64, ERF_LARGE_64, EXP2_64, ERFC_64),
}


def erf(o: Ops, x: str) -> str:
    """Error function: ``x P(x**2)`` up to 1, then ``1 - 2**Q(|x|)``."""
    table = _TABLES[o.t.dtype]
    square = o.mul(x, x)
    small = o.fma(o.horner(square, table.small), x, x)
    magnitude = o.at_most(o.abs(x), table.erf_one)
    _, n_int, f = o.split_integer(o.horner(magnitude, table.large))
    power = o.iop("shl", n_int, o.mantissa)
    complement = o.from_bits(o.iop("add", o.bits(o.horner(f, table.exp2)), power))
    large = o.copysign(o.sub(1.0, complement), x)
    return o.select(o.compare("ge", magnitude, 1.0), large, small)


def erfc(o: Ops, x: str) -> str:
    """Complementary error function, ``exp(-a**2) H(t) / (a + 3/2)`` with ``t = (a - 3/2) / (a + 3/2)``, ``a = |x|``."""
    if o.looks_up:
        return vecmath_erfc_table.erfc(o, x)
    table = _TABLES[o.t.dtype]
    a = o.at_most(o.abs(x), table.erfc_zero)
    total = o.add(a, 1.5)
    reciprocal = o.div(1.0, total)
    # What rounding lost in a + 3/2 and in its reciprocal.
    lost = o.sub(a, o.sub(total, 1.5))
    relative = o.fma(o.neg(lost), reciprocal, o.fma(o.neg(total), reciprocal, 1.0))
    t = o.fma(o.mul(reciprocal, relative), -3.0, o.fma(reciprocal, -3.0, 1.0))
    varying = o.mul(t, o.even_odd(t, table.erfc[1:]))
    h = o.add(varying, table.erfc[0])
    g = o.mul(h, reciprocal)
    # And in h and g.
    rest = o.fma(h, reciprocal, o.neg(g))
    rest = o.fma(o.sub(varying, o.sub(h, table.erfc[0])), reciprocal, rest)
    p, n, n_int = _expm1_minus_square(o, a)
    result = o.scale(o.add(g, o.fma(g, o.add(p, relative), rest)), n, n_int)
    return o.select(o.compare("lt", x, 0.0), o.sub(2.0, result), result)


def _expm1_minus_square(o: Ops, a: str) -> tuple[str, str, str]:
    """``p`` and ``n`` (float and integer) with ``exp(-a**2) = 2**n (1 + p)``.

    What rounding ``a**2`` loses goes into the reduced argument.
    """
    square = o.mul(a, a)
    lost = o.fma(a, a, o.neg(square))
    n, n_int, r = reduce(o, o.neg(square))
    r = o.sub(r, lost)
    return expm1_polynomial(o, r), n, n_int
