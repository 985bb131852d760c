"""Exponentials of float32 by a table of 16 powers, for vectors that AVX-512 looks up in one instruction.

``x = n ln2 + r`` where n is a multiple of 1/16, so that ``|r| <= ln2 / 32``: three terms of ``expm1(r)`` are enough. The
low bits of the shifted x that rounds it to n are the place in the table of ``2**(k/16)``, and the instruction that
scales takes the rest of n as it is (`vscalefps` rounds down).
"""

from __future__ import annotations

from .vecmath_coeffs import EXPM1_SHORT
from .vecmath_core import LOG2E, Ops

LANES = 16
_BITS = 4
_LN2_HIGH, _LN2_LOW = 0.693147182464599609375, -1.904654299957767e-09
_LOW = -104.5
"""Up to here the result is less than half the smallest denormal."""


def applies(o: Ops) -> bool:
    """Whether values are vectors for which the instructions exist."""
    return o.t.dtype == "float32" and o.t.lanes == LANES and "avx512f" in o.b.features


def exp_bounded(o: Ops, x: str) -> str:
    """``e**x`` of values up to 89, or NaN."""
    x = o.at_least(x, _LOW)
    magic = 1.5 * 2.0 ** (o.mantissa - _BITS)
    shifted = o.fma(x, LOG2E, magic)
    n = o.sub(shifted, magic)
    r = o.fma(n, -_LN2_LOW, o.fma(n, -_LN2_HIGH, x))
    power = _power(o, o.bits(shifted))
    scaled = o.fma(power, o.mul(o.horner(r, EXPM1_SHORT), r), power)
    return o.scale(scaled, n, "")


def _power(o: Ops, index: str) -> str:
    """``2**(k/16)`` of the lowest four bits of an index."""
    table = o.b.lanes([2.0 ** (k / LANES) for k in range(LANES)], o.t)
    return o.b.call("llvm.x86.avx512.permvar.sf.512", o.t.text, ((o.t.text, table), (o.i.text, index)))
