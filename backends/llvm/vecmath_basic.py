"""Elementwise operations that need no approximation: arithmetic, comparisons, bits and conversions.

Where hardware and ``jax.lax`` differ, ``lax`` decides: integer division by zero gives -1 and its remainder the
dividend, shifts by too much give 0 (or the sign), conversions of floats to integers saturate and make zero of NaN. Only
the sign of a zero that is the maximum or minimum of two zeros is left open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ir.dtypes import SIGNED, itemsize
from .builder import Builder, VType

Params = Sequence[int | str]
Emitter = Callable[[Builder, VType, Sequence[str], Params], str]
"""Emits a function: gets the builder, the type of the operands, the operands and static parameters."""

_INF = float("inf")
_ROUND = ("round", "roundeven")  # lax.RoundingMethod: AWAY_FROM_ZERO, TO_NEAREST_EVEN


def _opcode(opcode: str) -> Emitter:
    return lambda b, t, args, params: b.op(opcode, t, args[0], args[1])


def _intrinsic(name: str) -> Emitter:
    return lambda b, t, args, params: b.intrinsic(name, t, *args)


def through_float32(emitter: Emitter) -> Emitter:
    """The function of narrower floats that is computed in float32 and rounded."""

    def emit(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
        wide = t.with_dtype("float32")
        return convert(b, emitter(b, wide, [b.widen(x, t) for x in args], params), wide, t)

    return emit


def _widened(emitter: Emitter) -> Emitter:
    """A predicate of narrower floats, which is that of the same float32 numbers."""

    def emit(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
        wide = t.with_dtype("float32")
        return emitter(b, wide, [b.widen(x, t) for x in args], params)

    return emit


def _narrow_abs(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    i = t.with_dtype("uint16")
    return b.cast("bitcast", b.op("and", i, b.cast("bitcast", args[0], t, i), b.const(0x7FFF, i)), i, t)


def _compare(predicate: str) -> Emitter:
    return lambda b, t, args, params: b.compare(predicate, t, args[0], args[1])


def _square(opcode: str) -> Emitter:
    return lambda b, t, args, params: b.op(opcode, t, args[0], args[0])


def _float_extremum(predicate: str, beyond: str, intrinsic: str) -> Emitter:
    """Maximum or minimum; NaN propagates. With a constant a single instruction."""

    def emit(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
        x, y = args
        if not x.startswith("%"):
            x, y = y, x
        if y == b.const(float("nan"), t):
            return b.intrinsic(intrinsic, t, x, y, flags="nsz")
        if y.startswith("%"):
            # x is what is known so far: whether y is NaN is found out beside the chain of extrema, not within it.
            best = b.select(t, b.compare(beyond, t, y, x), y, x)
            return b.select(t, b.compare("uno", t, y, y), y, best)
        return b.select(t, b.compare(predicate, t, x, y), y, x)

    return emit


def _integer_extremum(name: str) -> Emitter:
    return lambda b, t, args, params: b.intrinsic(f"{'s' if t.dtype in SIGNED else 'u'}{name}", t, *args)


def _float_sign(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    """-1, 1, or for zeros and NaN themselves."""
    x, zero = args[0], b.const(0.0, t)
    negative = b.select(t, b.compare("lt", t, x, zero), b.const(-1.0, t), x)
    return b.select(t, b.compare("gt", t, x, zero), b.const(1.0, t), negative)


def _integer_sign(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    if t.dtype not in SIGNED:
        return b.intrinsic("umin", t, args[0], b.const(1, t))
    return b.intrinsic("smax", t, b.intrinsic("smin", t, args[0], b.const(1, t)), b.const(-1, t))


def _integer_abs(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    return b.intrinsic("abs", t, args[0]) if t.dtype in SIGNED else args[0]


def _is_finite(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    return b.compare("lt", t, b.intrinsic("fabs", t, args[0]), b.const(_INF, t))


def _nextafter(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    """The number after x on the way to y, by its bits, so that denormals count."""
    bits = 8 * itemsize(t.dtype)
    i, boolean = t.with_dtype(f"uint{bits}"), t.with_dtype("bool")
    x, y = (b.cast("bitcast", a, t, i) for a in args)
    sign, one, zero = b.const(1 << (bits - 1), i), b.const(1, i), b.const(0, i)
    size_x, size_y = (b.op("and", i, a, b.const((1 << (bits - 1)) - 1, i)) for a in (x, y))
    turned = b.compare("ne", i, b.op("and", i, b.op("xor", i, x, y), sign), zero)
    smaller = b.op("or", boolean, turned, b.compare("gt", i, size_x, size_y))
    moved = b.op("add", i, x, b.select(i, smaller, b.const(-1, i), one))
    first = b.op("or", i, b.op("and", i, y, sign), one)
    moved = b.select(i, b.compare("eq", i, size_x, zero), first, moved)
    both_zero = b.compare("eq", i, b.op("or", i, size_x, size_y), zero)
    same = b.op("or", boolean, both_zero, b.compare("eq", i, x, y))
    moved = b.cast("bitcast", b.select(i, same, y, moved), i, t)
    return b.select(t, b.compare("uno", t, args[0], args[1]), b.const(float("nan"), t), moved)


def _integer_pow(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    """``x**n`` by squaring, ``n`` the parameter."""
    x, exponent = args[0], int(params[0])
    opcode = "fmul" if t.is_float else "mul"
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


def _shift(opcode: str) -> Emitter:
    """A shift; by the width or more (also by a negative amount) all bits are shifted out."""

    def emit(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
        x, amount = args
        last, zero = b.const(8 * itemsize(t.dtype) - 1, t), b.const(0, t)
        if opcode == "ashr":
            return b.op("ashr", t, x, b.intrinsic("umin", t, amount, last))
        inside = b.compare("ule", t, amount, last)
        return b.select(t, inside, b.op(opcode, t, x, b.select(t, inside, amount, zero)), zero)

    return emit


def _integer_div(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    """Quotient, truncated; ``x / 0 = -1`` and the smallest number ``/ -1`` is itself."""
    if _divides_safely(b, t, args[1]):
        return b.op("sdiv" if t.dtype in SIGNED else "udiv", t, args[0], args[1])
    by_zero, safe = _safe_divisor(b, t, args)
    return b.select(t, by_zero, b.const(-1, t), _quotient(b, t, args[0], safe))


def _integer_rem(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    """Remainder with the dividend's sign; ``x % 0 = x``."""
    if _divides_safely(b, t, args[1]):
        return b.op("srem" if t.dtype in SIGNED else "urem", t, args[0], args[1])
    by_zero, safe = _safe_divisor(b, t, args)
    whole = b.op("mul", t, _quotient(b, t, args[0], safe), safe)
    return b.select(t, by_zero, args[0], b.op("sub", t, args[0], whole))


def _divides_safely(b: Builder, t: VType, y: str) -> bool:
    """Whether a divisor is a constant that never traps; LLVM multiplies by its inverse."""
    return not y.startswith("%") and y not in (b.const(0, t), b.const(-1, t))


def _quotient(b: Builder, t: VType, x: str, y: str) -> str:
    """``x / y``, truncated, of a divisor that does not trap.

    Processors divide vectors of floats only. A float with so many more bits than the integers is exact enough: a
    quotient that is not whole is further from the next integer than rounding moves it.
    """
    signed = t.dtype in SIGNED
    exact = {1: "float32", 2: "float32", 4: "float64"}.get(itemsize(t.dtype))
    if not t.lanes or exact is None:
        return b.op("sdiv" if signed else "udiv", t, x, y)
    wide = t.with_dtype(exact)
    into, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    return b.cast(back, b.op("fdiv", wide, b.cast(into, x, t, wide), b.cast(into, y, t, wide)), wide, t)


def _safe_divisor(b: Builder, t: VType, args: Sequence[str]) -> tuple[str, str]:
    """Where the divisor is zero, and the divisor with 1 wherever division traps."""
    x, y = args
    one = b.const(1, t)
    by_zero = b.compare("eq", t, y, b.const(0, t))
    safe = b.select(t, by_zero, one, y)
    if t.dtype not in SIGNED:
        return by_zero, safe
    smallest = b.const(-(1 << (8 * itemsize(t.dtype) - 1)), t)
    overflow = b.op("and", t.with_dtype("bool"), b.compare("eq", t, x, smallest), b.compare("eq", t, y, b.const(-1, t)))
    return by_zero, b.select(t, overflow, one, safe)


_COMPARISONS: Mapping[str, Emitter] = {name: _compare(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_ANY: Mapping[str, Emitter] = {
    **_COMPARISONS,
    "copy": lambda b, t, args, params: args[0],
    "select_n": lambda b, t, args, params: b.select(t, args[0], args[2], args[1]),
}

FLOAT: Mapping[str, Emitter] = {
    **_ANY,
    "add": _opcode("fadd"),
    "add_any": _opcode("fadd"),
    "sub": _opcode("fsub"),
    "mul": _opcode("fmul"),
    "div": _opcode("fdiv"),
    "square": _square("fmul"),
    "neg": lambda b, t, args, params: b.fneg(t, args[0]),
    "abs": _intrinsic("fabs"),
    "sqrt": _intrinsic("sqrt"),
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "round": lambda b, t, args, params: b.intrinsic(_ROUND[int(params[0])], t, args[0]),
    "max": _float_extremum("lt", "gt", "maximum"),
    "min": _float_extremum("gt", "lt", "minimum"),
    "larger": lambda b, t, args, params: b.select(t, b.compare("gt", t, args[1], args[0]), args[1], args[0]),
    "sign": _float_sign,
    "is_finite": _is_finite,
    "integer_pow": _integer_pow,
    "nextafter": _nextafter,
}
"""Functions of floats."""

_MOVES = frozenset(("copy", "select_n", "neg", "nextafter"))
NARROW_FLOAT: Mapping[str, Emitter] = {
    **{name: emitter if name in _MOVES else through_float32(emitter) for name, emitter in FLOAT.items()},
    **{name: _widened(FLOAT[name]) for name in (*_COMPARISONS, "is_finite")},
    "abs": _narrow_abs,
}
"""Functions of bfloat16 and float16: processors convert to them, but hardly calculate in them."""

INTEGER: Mapping[str, Emitter] = {
    **_ANY,
    "add": _opcode("add"),
    "add_any": _opcode("add"),
    "sub": _opcode("sub"),
    "mul": _opcode("mul"),
    "div": _integer_div,
    "rem": _integer_rem,
    "square": _square("mul"),
    "neg": lambda b, t, args, params: b.op("sub", t, b.const(0, t), args[0]),
    "abs": _integer_abs,
    "max": _integer_extremum("max"),
    "min": _integer_extremum("min"),
    "sign": _integer_sign,
    "integer_pow": _integer_pow,
    "and": _opcode("and"),
    "or": _opcode("or"),
    "xor": _opcode("xor"),
    "not": lambda b, t, args, params: b.op("xor", t, args[0], b.const(-1, t)),
    "population_count": _intrinsic("ctpop"),
    "clz": _intrinsic("ctlz"),
    "shift_left": _shift("shl"),
    "shift_right_logical": _shift("lshr"),
    "shift_right_arithmetic": _shift("ashr"),
}
"""Functions of integers; overflow wraps around."""

BOOLEAN: Mapping[str, Emitter] = {
    **_ANY,
    "and": _opcode("and"),
    "or": _opcode("or"),
    "xor": _opcode("xor"),
    "not": lambda b, t, args, params: b.op("xor", t, args[0], b.const(True, t)),
    "max": _opcode("or"),
    "min": _opcode("and"),
}
"""Functions of booleans."""


def convert(b: Builder, x: str, src: VType, dst: VType) -> str:
    """``lax.convert_element_type``."""
    if src.dtype == dst.dtype:
        return x
    if dst.dtype == "bool":
        return b.compare("ne", src, x, b.const(0, src))
    if dst.is_float:
        return _convert_to_float(b, x, src, dst)
    if src.is_float:
        return _convert_to_integer(b, x, src, dst)
    if src.dtype != "bool" and itemsize(dst.dtype) == itemsize(src.dtype):
        return x
    if src.dtype != "bool" and itemsize(dst.dtype) < itemsize(src.dtype):
        return b.cast("trunc", x, src, dst)
    return b.cast("sext" if src.dtype in SIGNED else "zext", x, src, dst)


def _convert_to_integer(b: Builder, x: str, src: VType, dst: VType) -> str:
    """Truncated; saturates, and makes zero of NaN. LLVM's own saturating conversions take vectors apart."""
    if itemsize(src.dtype) == 2:
        wide = src.with_dtype("float32")
        return _convert_to_integer(b, b.widen(x, src), wide, dst)
    bits, signed = 8 * itemsize(dst.dtype), dst.dtype in SIGNED
    low, above = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    # Both bounds are powers of two, which floats hold exactly.
    large = b.compare("ge", src, x, b.const(above, src))
    inside = b.select(src, b.compare("lt", src, x, b.const(low, src)), b.const(low, src), x)
    usual = b.compare("lt", src, inside, b.const(above, src))  # false of NaN
    inside = b.select(src, usual, inside, b.const(0, src))
    step = dst.with_dtype("int32") if bits < 32 else dst
    whole = b.cast("fptosi" if signed or bits < 32 else "fptoui", inside, src, step)
    whole = b.cast("trunc", whole, step, dst) if bits < 32 else whole
    return b.select(dst, large, b.const(above - 1, dst), whole)


def _convert_to_float(b: Builder, x: str, src: VType, dst: VType) -> str:
    """To 16 bits by way of float32, as XLA does."""
    if itemsize(dst.dtype) == 2 and src.dtype != "float32":
        middle = src.with_dtype("float32")
        return convert(b, convert(b, x, src, middle), middle, dst)
    if not src.is_float:
        return b.cast("sitofp" if src.dtype in SIGNED else "uitofp", x, src, dst)
    if itemsize(src.dtype) == 2:
        return convert(b, b.widen(x, src), src.with_dtype("float32"), dst)
    if itemsize(dst.dtype) > itemsize(src.dtype):
        return b.cast("fpext", x, src, dst)
    return _to_bfloat16(b, x, src, dst) if dst.dtype == "bfloat16" else b.cast("fptrunc", x, src, dst)


def _to_bfloat16(b: Builder, x: str, src: VType, dst: VType) -> str:
    """A float32 rounded to nearest, ties to even. LLVM calls a library for it where there is no instruction."""
    if "avx512bf16" in b.features:
        own = f"<{dst.lanes} x bfloat>" if dst.lanes else "bfloat"
        return b.value(f"bitcast {own} {b.value(f'fptrunc {src.text} {x} to {own}')} to {dst.text}")
    whole = src.with_dtype("uint32")
    bits = b.cast("bitcast", x, src, whole)
    top = b.op("lshr", whole, bits, b.const(16, whole))
    odd = b.op("and", whole, top, b.const(1, whole))
    rounding = b.op("add", whole, odd, b.const(0x7FFF, whole))
    rounded = b.op("lshr", whole, b.op("add", whole, bits, rounding), b.const(16, whole))
    quiet = b.op("or", whole, top, b.const(0x40, whole))
    chosen = b.select(whole, b.compare("uno", src, x, x), quiet, rounded)
    return b.cast("trunc", chosen, whole, dst)


def bitcast(b: Builder, x: str, src: VType, dst: VType) -> str:
    """``lax.bitcast_convert_type`` between types of one size."""
    if itemsize(src.dtype) != itemsize(dst.dtype):
        raise ValueError(f"expected types of one size, found {src.dtype} and {dst.dtype}")
    return x if src.text == dst.text else b.cast("bitcast", x, src, dst)
