"""Elementwise operations that need no approximation: arithmetic, comparisons, bits and conversions.

Where hardware and ``jax.lax`` differ, ``lax`` decides: integer division by zero gives -1 and its remainder the dividend,
shifts by too much give 0 (or the sign), conversions of floats to integers saturate and make zero of NaN.
"""

from __future__ import annotations

from ...ir.dtypes import SIGNED, itemsize
from .builder import Builder, VType

_FLOAT_OPCODE = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_FLOAT_INTRINSIC = {"floor": "floor", "ceil": "ceil", "sqrt": "sqrt", "abs": "fabs", "max": "maximum", "min": "minimum"}
_INTEGER_OPCODE = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_INTEGER_INTRINSIC = {"population_count": "ctpop", "clz": "ctlz"}
_BOOL_OPCODE = {"and": "and", "or": "or", "xor": "xor", "max": "or", "min": "and"}
_SHIFT = {"shift_left": "shl", "shift_right_logical": "lshr", "shift_right_arithmetic": "ashr"}
_ROUND = ("round", "roundeven")  # lax.RoundingMethod: AWAY_FROM_ZERO, TO_NEAREST_EVEN

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
FLOAT_NAMES = (*_FLOAT_OPCODE, *_FLOAT_INTRINSIC, "neg", "sign", "square", "round", "is_finite", "integer_pow")
INTEGER_NAMES = (*_INTEGER_OPCODE, *_INTEGER_INTRINSIC, *_SHIFT, "div", "rem", "max", "min", "abs", "neg", "sign", "not")
INTEGER_NAMES = (*INTEGER_NAMES, "square", "integer_pow")
BOOL_NAMES = (*_BOOL_OPCODE, "not")
ANY_NAMES = (*COMPARISONS, "select_n", "copy", "convert_element_type")


def floating(b: Builder, name: str, t: VType, args: tuple[str, ...], params: tuple[int | str, ...]) -> str:
    """One of `FLOAT_NAMES` on floats."""
    if name in _FLOAT_OPCODE:
        return b.op(_FLOAT_OPCODE[name], t, *args)
    if name in _FLOAT_INTRINSIC:
        return b.intrinsic(_FLOAT_INTRINSIC[name], t, *args)
    x = args[0]
    if name == "neg":
        return b.fneg(t, x)
    if name == "square":
        return b.op("fmul", t, x, x)
    if name == "round":
        return b.intrinsic(_ROUND[int(params[0])], t, x)
    if name == "is_finite":
        return b.compare("lt", t, b.intrinsic("fabs", t, x), b.const(float("inf"), t))
    if name == "integer_pow":
        return _integer_pow(b, t, x, int(params[0]), "fmul")
    zero = b.const(0.0, t)
    # sign: zeros and NaN stay what they are.
    negative = b.select(t, b.compare("lt", t, x, zero), b.const(-1.0, t), x)
    return b.select(t, b.compare("gt", t, x, zero), b.const(1.0, t), negative)


def integer(b: Builder, name: str, t: VType, args: tuple[str, ...], params: tuple[int | str, ...]) -> str:
    """One of `INTEGER_NAMES` on integers; overflow wraps around."""
    if name in _INTEGER_OPCODE:
        return b.op(_INTEGER_OPCODE[name], t, *args)
    if name in _INTEGER_INTRINSIC:
        return b.intrinsic(_INTEGER_INTRINSIC[name], t, *args)
    if name in _SHIFT:
        return _shift(b, name, t, *args)
    if name in ("div", "rem"):
        return _divide(b, name, t, *args)
    signed = t.dtype in SIGNED
    if name in ("max", "min"):
        return b.intrinsic(f"{'s' if signed else 'u'}{name}", t, *args)
    x = args[0]
    if name == "not":
        return b.op("xor", t, x, b.const(-1, t))
    if name == "neg":
        return b.op("sub", t, b.const(0, t), x)
    if name == "square":
        return b.op("mul", t, x, x)
    if name == "integer_pow":
        return _integer_pow(b, t, x, int(params[0]), "mul")
    if name == "abs":
        return b.intrinsic("abs", t, x) if signed else x
    one = b.const(1, t)
    at_most_one = b.intrinsic("smin" if signed else "umin", t, x, one)
    return b.intrinsic("smax", t, at_most_one, b.const(-1, t)) if signed else at_most_one


def boolean(b: Builder, name: str, t: VType, args: tuple[str, ...]) -> str:
    """One of `BOOL_NAMES` on booleans."""
    if name == "not":
        return b.op("xor", t, args[0], b.const(True, t))
    return b.op(_BOOL_OPCODE[name], t, *args)


def convert(b: Builder, x: str, src: VType, dst: VType) -> str:
    """``lax.convert_element_type``."""
    if src.dtype == dst.dtype:
        return x
    if dst.dtype == "bool":
        return b.compare("ne", src, x, b.const(0, src))
    if src.is_float:
        return _convert_float(b, x, src, dst)
    if dst.is_float:
        return b.cast("sitofp" if src.dtype in SIGNED else "uitofp", x, src, dst)
    if src.dtype != "bool" and itemsize(dst.dtype) == itemsize(src.dtype):
        return x
    if src.dtype != "bool" and itemsize(dst.dtype) < itemsize(src.dtype):
        return b.cast("trunc", x, src, dst)
    return b.cast("sext" if src.dtype in SIGNED else "zext", x, src, dst)


def _convert_float(b: Builder, x: str, src: VType, dst: VType) -> str:
    if not dst.is_float:
        return b.cast("fptosi.sat" if dst.dtype in SIGNED else "fptoui.sat", x, src, dst)
    size, new_size = itemsize(src.dtype), itemsize(dst.dtype)
    if size == new_size:  # float16 and bfloat16: neither holds the other
        middle = src.with_dtype("float32")
        return b.cast("fptrunc", b.cast("fpext", x, src, middle), middle, dst)
    return b.cast("fpext" if new_size > size else "fptrunc", x, src, dst)


def _integer_pow(b: Builder, t: VType, x: str, exponent: int, opcode: str) -> str:
    """``x**exponent`` by squaring."""
    if exponent == 0:
        return b.const(1, t)
    result, rest = "", abs(exponent)
    while rest:
        if rest & 1:
            result = b.op(opcode, t, result, x) if result else x
        rest >>= 1
        if rest:
            x = b.op(opcode, t, x, x)
    return result if exponent > 0 else b.op("fdiv", t, b.const(1.0, t), result)


def _shift(b: Builder, name: str, t: VType, x: str, amount: str) -> str:
    """A shift; by the width or more (also by a negative amount) all bits are shifted out."""
    last = b.const(8 * itemsize(t.dtype) - 1, t)
    if name == "shift_right_arithmetic":
        return b.op("ashr", t, x, b.intrinsic("umin", t, amount, last))
    inside = b.compare("ule", t, amount, last)
    zero = b.const(0, t)
    return b.select(t, inside, b.op(_SHIFT[name], t, x, b.select(t, inside, amount, zero)), zero)


def _divide(b: Builder, name: str, t: VType, x: str, y: str) -> str:
    """Quotient (truncated) or remainder; ``x / 0 = -1``, ``x % 0 = x``, the smallest number ``/ -1`` is itself."""
    signed = t.dtype in SIGNED
    one = b.const(1, t)
    by_zero = b.compare("eq", t, y, b.const(0, t))
    safe = b.select(t, by_zero, one, y)
    if signed:
        smallest = b.const(-(1 << (8 * itemsize(t.dtype) - 1)), t)
        boolean_type = t.with_dtype("bool")
        both = b.op("and", boolean_type, b.compare("eq", t, x, smallest), b.compare("eq", t, y, b.const(-1, t)))
        safe = b.select(t, both, one, safe)
    if name == "div":
        quotient = b.op("sdiv" if signed else "udiv", t, x, safe)
        return b.select(t, by_zero, b.const(-1, t), quotient)
    remainder = b.op("srem" if signed else "urem", t, x, safe)
    return b.select(t, by_zero, x, remainder)
