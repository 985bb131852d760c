"""Elementwise functions as LLVM IR: which exist for which element types, and their emission.

Functions are named as in ``jax.lax`` and agree with it in special values (NaN, infinities, zeros, integer overflow).
LLVM's own intrinsics for most of them become calls of scalar library functions, so they are polynomials here:
straight-line code without calls, for scalars and vectors of any length, on targets with fused multiply-add. Only sin,
cos and tan of float64 have a branch, for huge arguments. ``tilewright.bench.vecmath`` and ``vecmath64`` measure their
error and speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ...ir.dtypes import BOOL, FLOATS, INTEGERS
from . import (
    vecmath_erf,
    vecmath_erf_inv,
    vecmath_exp,
    vecmath_gamma,
    vecmath_log,
    vecmath_pow,
    vecmath_pow64,
    vecmath_rem,
    vecmath_trig,
    vecmath_trig64,
)
from .builder import Builder, VType
from .vecmath_basic import BOOLEAN, FLOAT, INTEGER, NARROW_FLOAT, Emitter, Params, bitcast, convert, through_float32
from .vecmath_core import Ops
from .vecmath_threefry import threefry

_BOTH: Mapping[str, Callable[..., str]] = {
    "acos": vecmath_trig.acos,
    "acosh": vecmath_log.acosh,
    "asin": vecmath_trig.asin,
    "asinh": vecmath_log.asinh,
    "atan": vecmath_trig.atan,
    "atan2": vecmath_trig.atan2,
    "atanh": vecmath_log.atanh,
    "cosh": vecmath_exp.cosh,
    "decay": vecmath_exp.decay,
    "digamma": vecmath_gamma.digamma,
    "erf": vecmath_erf.erf,
    "erf_inv": vecmath_erf_inv.erf_inv,
    "erfc": vecmath_erf.erfc,
    "exp": vecmath_exp.exp,
    "exp2": vecmath_exp.exp2,
    "expm1": vecmath_exp.expm1,
    "lgamma": vecmath_gamma.lgamma,
    "log": vecmath_log.log,
    "log1p": vecmath_log.log1p,
    "logistic": vecmath_exp.logistic,
    "rsqrt": vecmath_pow.rsqrt,
    "sinh": vecmath_exp.sinh,
    "tanh": vecmath_exp.tanh,
}
"""Functions with one algorithm for float32 and float64; what differs is in tables."""
_FLOAT32 = {
    **_BOTH,
    "cbrt": vecmath_pow.cbrt,
    "cos": vecmath_trig.cos,
    "pow": vecmath_pow.pow,
    "rem": vecmath_rem.rem,
    "sin": vecmath_trig.sin,
    "tan": vecmath_trig.tan,
}
_FLOAT64 = {
    **_BOTH,
    "cbrt": vecmath_pow64.cbrt,
    "cos": vecmath_trig64.cos,
    "pow": vecmath_pow64.pow,
    "sin": vecmath_trig64.sin,
    "tan": vecmath_trig64.tan,
}
_HALF = frozenset({"f16c", "avx512f", "neon"})
_FUSED = frozenset({"fma", "avx512f", "neon"})
_NARROW = ("float16", "bfloat16")
_CONVERSIONS = {"convert_element_type": convert, "bitcast_convert_type": bitcast}


def _approximation(function: Callable[..., str]) -> Emitter:
    def emit(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
        if b.features.isdisjoint(_FUSED):
            raise ValueError(f"expected a target with fused multiply-add, found the features {sorted(b.features)}")
        return function(Ops(b, t), *args)

    return emit


def _clamp(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    low, x, high = args
    return _EMITTERS["min", t.dtype](b, t, (_EMITTERS["max", t.dtype](b, t, (x, low), ()), high), ())


def _emitters() -> dict[tuple[str, str], Emitter]:
    kinds = {
        **dict.fromkeys(FLOATS, FLOAT),
        **dict.fromkeys(_NARROW, NARROW_FLOAT),
        **dict.fromkeys(INTEGERS, INTEGER),
        BOOL: BOOLEAN,
    }
    table = {(name, dtype): emitter for dtype, emitters in kinds.items() for name, emitter in emitters.items()}
    table |= {("clamp", dtype): _clamp for dtype in kinds} | {("threefry", "uint32"): threefry}
    for name, function in _FLOAT32.items():
        emitter = _approximation(function)
        table |= {(name, "float32"): emitter} | {(name, dtype): through_float32(emitter) for dtype in _NARROW}
    table |= {(name, "float64"): _approximation(function) for name, function in _FLOAT64.items()}
    return table


_EMITTERS = _emitters()


def _supported() -> dict[str, frozenset[str]]:
    numbers = frozenset((*FLOATS, *INTEGERS))
    table: dict[str, frozenset[str]] = {"convert_element_type": numbers | {BOOL}, "bitcast_convert_type": numbers}
    for name, dtype in _EMITTERS:
        table[name] = table.get(name, frozenset()) | {dtype}
    return table


SUPPORTED: Mapping[str, frozenset[str]] = MappingProxyType(_supported())
"""Element types of the operands that `emit` takes, by function."""


def emit(b: Builder, name: str, t: VType, args: Sequence[str], params: Params = (), result: VType | None = None) -> str:
    """Emit an elementwise function.

    Args:
        b: Gets the instructions.
        name: The function's name in ``jax.lax``.
        t: Type of the operands (for ``select_n`` of the cases).
        args: The operands.
        params: Static parameters: the exponent of ``integer_pow``, the rounding method of ``round`` as its number.
        result: Type of the result, needed for conversions only.

    Returns:
        The value: of type ``t``, a boolean for comparisons and ``is_finite``, ``result`` for conversions.

    Raises:
        ValueError: the function does not exist for this element type (see `SUPPORTED`), or on this target.
    """
    if "float16" in (t.dtype, result and result.dtype) and b.features.isdisjoint(_HALF):
        raise ValueError(f"expected a target that converts float16, found the features {sorted(b.features)}")
    emitter = _EMITTERS.get((name, t.dtype))
    if emitter is not None:
        return emitter(b, t, args, params)
    conversion = _CONVERSIONS.get(name)
    if conversion is None or t.dtype not in SUPPORTED[name]:
        raise ValueError(f"expected a supported elementwise function, found {name} of {t.dtype}")
    if result is None:
        raise ValueError(f"expected the type of the result for {name}, found none")
    return conversion(b, args[0], t, result)
