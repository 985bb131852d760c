"""Error functions of float32: erf and erfc."""

from __future__ import annotations

from .vecmath_coeffs import ERF_LARGE, ERF_SMALL, ERFC, EXP2_SHORT, EXPM1
from .vecmath_core import Ops
from .vecmath_exp import reduce

# erf rounds to 1 from 3.92 on; erfc rounds to 0 from 10.06 on.
_ERF_ONE = 4.0
_ERFC_ZERO = 10.1


def erf(o: Ops, x: str) -> str:
    """Error function: ``x P(x**2)`` up to 1, then ``1 - 2**Q(|x|)``."""
    square = o.mul(x, x)
    small = o.fma(o.horner(square, ERF_SMALL), x, x)
    magnitude = o.at_most(o.abs(x), _ERF_ONE)
    _, n_int, f = o.split_integer(o.horner(magnitude, ERF_LARGE))
    power = o.iop("shl", n_int, o.mantissa)
    complement = o.from_bits(o.iop("add", o.bits(o.horner(f, EXP2_SHORT)), power))
    large = o.copysign(o.sub(1.0, complement), x)
    return o.select(o.compare("ge", magnitude, 1.0), large, small)


def erfc(o: Ops, x: str) -> str:
    """Complementary error function, ``exp(-a**2) H(t) / (a + 3/2)`` with ``t = (a - 3/2) / (a + 3/2)``, ``a = |x|``."""
    a = o.at_most(o.abs(x), _ERFC_ZERO)
    total = o.add(a, 1.5)
    reciprocal = o.div(1.0, total)
    # What rounding lost in a + 3/2 and in its reciprocal.
    lost = o.sub(a, o.sub(total, 1.5))
    relative = o.fma(o.neg(lost), reciprocal, o.fma(o.neg(total), reciprocal, 1.0))
    t = o.fma(o.mul(reciprocal, relative), -3.0, o.fma(reciprocal, -3.0, 1.0))
    varying = o.mul(t, o.even_odd(t, ERFC[1:]))
    h = o.add(varying, ERFC[0])
    g = o.mul(h, reciprocal)
    # And in h and g.
    rest = o.fma(h, reciprocal, o.neg(g))
    rest = o.fma(o.sub(varying, o.sub(h, ERFC[0])), reciprocal, rest)
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
    return o.fma(o.mul(r, r), o.horner(r, EXPM1), r), n, n_int
