"""Elementwise functions as LLVM IR: which exist for which element types, and their emission.

Functions are named as in ``jax.lax`` and agree with it in special values (NaN, infinities, zeros, integer overflow).
LLVM's own intrinsics for them become calls of scalar library functions, so they are polynomials here: straight-line
code without calls, tables or branches, for scalars and vectors of any length. Errors are measured by
``tilewright.bench.vecmath`` and bounded by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ir.dtypes import BOOL, FLOATS, INTEGERS, itemsize
from . import vecmath_basic as basic
from .builder import Builder, VType
from .vecmath_core import Ops
from .vecmath_erf import erf, erfc
from .vecmath_exp import exp, exp2, expm1, logistic, tanh
from .vecmath_log import log, log1p
from .vecmath_pow import cbrt, pow, rsqrt
from .vecmath_rem import rem
from .vecmath_trig import atan, atan2, cos, sin, tan

_FLOAT32: dict[str, Callable[..., str]] = {
    "atan": atan,
    "atan2": atan2,
    "cbrt": cbrt,
    "cos": cos,
    "erf": erf,
    "erfc": erfc,
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "logistic": logistic,
    "pow": pow,
    "rem": rem,
    "rsqrt": rsqrt,
    "sin": sin,
    "tan": tan,
    "tanh": tanh,
}
# Computed in float32 and rounded.
_NARROW = frozenset({"float16", "bfloat16"})


def _supported() -> dict[str, frozenset[str]]:
    table: dict[str, set[str]] = {}

    def add(names: Sequence[str], dtypes: Sequence[str]) -> None:
        for name in names:
            table.setdefault(name, set()).update(dtypes)

    add(basic.FLOAT_NAMES, FLOATS)
    add(basic.INTEGER_NAMES, INTEGERS)
    add(basic.BOOL_NAMES, (BOOL,))
    add(basic.ANY_NAMES, (*FLOATS, *INTEGERS, BOOL))
    add(("clamp",), (*FLOATS, *INTEGERS, BOOL))
    add(("bitcast_convert_type",), (*FLOATS, *INTEGERS))
    add(tuple(_FLOAT32), ("float32", *_NARROW))
    return {name: frozenset(dtypes) for name, dtypes in table.items()}


SUPPORTED: Mapping[str, frozenset[str]] = _supported()
"""Element types of the operands that `emit` takes, by function."""


def emit(
    b: Builder,
    name: str,
    t: VType,
    args: Sequence[str],
    params: Sequence[int | str] = (),
    result: VType | None = None,
) -> str:
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
        ValueError: the function does not exist for this element type, see `SUPPORTED`.
    """
    if t.dtype not in SUPPORTED.get(name, ()):
        raise ValueError(f"expected a supported elementwise function, found {name} of {t.dtype}")
    operands = tuple(args)
    if name in basic.ANY_NAMES or name == "bitcast_convert_type":
        return _any(b, name, t, operands, result)
    if name == "clamp":
        low, x, high = operands
        return emit(b, "min", t, (emit(b, "max", t, (low, x)), high))
    if name in _FLOAT32 and t.is_float:
        return _approximated(b, name, t, operands)
    if t.is_float:
        return basic.floating(b, name, t, operands, tuple(params))
    if t.dtype == BOOL:
        return basic.boolean(b, name, t, operands)
    return basic.integer(b, name, t, operands, tuple(params))


def _any(b: Builder, name: str, t: VType, args: tuple[str, ...], result: VType | None) -> str:
    """Functions that exist for every element type."""
    if name == "copy":
        return args[0]
    if name == "select_n":
        condition, if_false, if_true = args
        return b.select(t, condition, if_true, if_false)
    if name in basic.COMPARISONS:
        return b.compare(name, t, *args)
    if result is None:
        raise ValueError(f"expected the type of the result for {name}")
    if name == "convert_element_type":
        return basic.convert(b, args[0], t, result)
    if itemsize(result.dtype) != itemsize(t.dtype):
        raise ValueError(f"expected types of one size for {name}, found {t.dtype} and {result.dtype}")
    return args[0] if result.text == t.text else b.cast("bitcast", args[0], t, result)


def _approximated(b: Builder, name: str, t: VType, args: tuple[str, ...]) -> str:
    """A function written for float32, on narrower types too."""
    if t.dtype not in _NARROW:
        return _FLOAT32[name](Ops(b, t), *args)
    wide = t.with_dtype("float32")
    value = _FLOAT32[name](Ops(b, wide), *(b.cast("fpext", x, t, wide) for x in args))
    return b.cast("fptrunc", value, wide, t)
