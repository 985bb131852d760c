"""What the vector math functions are written in: short names for instructions and the usual bit manipulations.

Every function is straight-line code on values of one type, so that it works for scalars and vectors of any length, and
it must hold with denormals honoured and with denormals flushed to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.dtypes import to_numpy
from .builder import Builder, VType, vtype

_MANTISSA_BITS = {"float32": 23, "float64": 52}
_BIAS = {"float32": 127, "float64": 1023}
LOG2E = 1.4426950408889634
# AVX-512 instructions exist for these lanes (ps, pd) with this suffix.
_AVX512 = {("float32", 16): "ps.512", ("float64", 8): "pd.512"}
_AVX512VL = {("float32", 8): "ps.256", ("float32", 4): "ps.128", ("float64", 4): "pd.256", ("float64", 2): "pd.128"}


class Ops:
    """Instructions on values of one floating point type, by short names.

    Attributes:
        b: The builder that is appended to.
        t: The floating point type.
        i: The integer type of the same width.
        mantissa: Explicit bits of the mantissa.
        bias: Bias of the exponent.
    """

    __slots__ = ("b", "bias", "i", "mantissa", "t")

    def __init__(self, b: Builder, t: VType) -> None:
        """Bind to ``b``; ``t`` is float32 or float64."""
        self.b = b
        self.t = t
        self.i = vtype("int32" if t.dtype == "float32" else "int64", t.lanes)
        self.mantissa = _MANTISSA_BITS[t.dtype]
        self.bias = _BIAS[t.dtype]

    def c(self, value: float) -> str:
        """A constant."""
        return self.b.const(value, self.t)

    def ci(self, value: int) -> str:
        """An integer constant."""
        return self.b.const(value, self.i)

    def rounded(self, value: float) -> float:
        """``value`` rounded to this type."""
        return float(to_numpy(self.t.dtype).type(value))

    def widened(self) -> Ops:
        """The same instructions on as many lanes of float64."""
        return Ops(self.b, self.t.with_dtype("float64"))

    def widen(self, x: str) -> str:
        """A value as float64."""
        return self.b.cast("fpext", x, self.t, self.t.with_dtype("float64"))

    def narrow(self, x: str) -> str:
        """A float64 rounded to this type."""
        return self.b.cast("fptrunc", x, self.t.with_dtype("float64"), self.t)

    def add(self, x: str, y: str | float) -> str:
        """``x + y``."""
        return self.b.op("fadd", self.t, x, self._operand(y))

    def sub(self, x: str | float, y: str | float) -> str:
        """``x - y``."""
        return self.b.op("fsub", self.t, self._operand(x), self._operand(y))

    def mul(self, x: str, y: str | float) -> str:
        """``x * y``."""
        return self.b.op("fmul", self.t, x, self._operand(y))

    def div(self, x: str | float, y: str) -> str:
        """``x / y``."""
        return self.b.op("fdiv", self.t, self._operand(x), y)

    def fma(self, x: str, y: str | float, z: str | float) -> str:
        """``x * y + z`` with one rounding."""
        return self.b.intrinsic("fma", self.t, x, self._operand(y), self._operand(z))

    def two_sum(self, x: str, y: str) -> tuple[str, str]:
        """``x + y`` and what rounding lost of it (Knuth)."""
        total = self.add(x, y)
        back = self.sub(total, x)
        return total, self.add(self.sub(x, self.sub(total, back)), self.sub(y, back))

    def fast_two_sum(self, x: str | float, y: str) -> tuple[str, str]:
        """`two_sum` where x is not the smaller one."""
        x = self._operand(x)
        total = self.add(x, y)
        return total, self.sub(y, self.sub(total, x))

    def two_product(self, x: str, y: str | float) -> tuple[str, str]:
        """``x * y`` and what rounding lost of it."""
        product = self.mul(x, y)
        return product, self.fma(x, y, self.neg(product))

    def _operand(self, value: str | float) -> str:
        return value if isinstance(value, str) else self.c(value)

    def neg(self, x: str) -> str:
        """``-x``."""
        return self.b.fneg(self.t, x)

    def abs(self, x: str) -> str:
        """``|x|``."""
        return self.b.intrinsic("fabs", self.t, x)

    def copysign(self, magnitude: str, sign: str) -> str:
        """``magnitude`` with the sign bit of ``sign``."""
        return self.b.intrinsic("copysign", self.t, magnitude, sign)

    def rint(self, x: str) -> str:
        """``x`` rounded to the nearest integer, ties to even."""
        return self.b.intrinsic("rint", self.t, x)

    def compare(self, predicate: str, x: str, y: str | float) -> str:
        """An ordered comparison (false with NaN), ``ne`` excepted."""
        return self.b.compare(predicate, self.t, x, self._operand(y))

    def select(self, cond: str, x: str | float, y: str | float) -> str:
        """``x`` where ``cond`` else ``y``."""
        return self.b.select(self.t, cond, self._operand(x), self._operand(y))

    def at_least(self, x: str, low: float) -> str:
        """``max(x, low)`` in one instruction; NaN stays NaN."""
        return self.select(self.compare("lt", x, low), low, x)

    def at_most(self, x: str, high: float) -> str:
        """``min(x, high)`` in one instruction; NaN stays NaN."""
        return self.select(self.compare("gt", x, high), high, x)

    def bits(self, x: str) -> str:
        """The bits as an integer."""
        return self.b.cast("bitcast", x, self.t, self.i)

    def from_bits(self, x: str) -> str:
        """The number with these bits."""
        return self.b.cast("bitcast", x, self.i, self.t)

    def iop(self, opcode: str, x: str, y: str | int) -> str:
        """An integer instruction."""
        return self.b.op(opcode, self.i, x, y if isinstance(y, str) else self.ci(y))

    def to_float(self, x: str) -> str:
        """A signed integer as a float."""
        return self.b.cast("sitofp", x, self.i, self.t)

    def lookup(self, values: Sequence[float], index: str) -> str:
        """Elements of a constant table, one per lane; the integer ``index`` is inside of it in every lane."""
        b, t, scalar = self.b, self.t, self.t.scalar
        body = ", ".join(f"{scalar.text} {b.const(value, scalar)}" for value in values)
        table = b.global_constant(f"[{len(values)} x {scalar.text}]", f"[{body}]")
        places = b.value(f"getelementptr {scalar.text}, ptr {table}, {self.i.text} {index}")
        if not t.lanes:
            return b.value(f"load {scalar.text}, ptr {places}")
        kind, mask = f"<{t.lanes} x ptr>", t.with_dtype("bool")
        args = ((kind, places), ("i32", "8"), (mask.text, b.const(True, mask)), (t.text, "poison"))
        return b.call(f"llvm.masked.gather.{t.suffix}.v{t.lanes}p0", t.text, args)

    @property
    def looks_up(self) -> bool:
        """Whether `lookup16` exists for these values."""
        return self.t.dtype == "float32" and self.t.lanes == 16 and "avx512f" in self.b.features

    def lookup16(self, values: Sequence[float], index: str) -> str:
        """Elements of a table of 16 numbers by the lowest four bits of an index, in one instruction."""
        args = ((self.t.text, self.b.lanes(values, self.t)), (self.i.text, index))
        return self.b.call("llvm.x86.avx512.permvar.sf.512", self.t.text, args)

    def lookup32(self, values: Sequence[float], index: str) -> str:
        """Elements of a table of 32 numbers by the lowest five bits of an index, in one instruction."""
        halves = (self.b.lanes(values[:16], self.t), self.b.lanes(values[16:], self.t))
        args = ((self.t.text, halves[0]), (self.i.text, index), (self.t.text, halves[1]))
        return self.b.call("llvm.x86.avx512.vpermi2var.ps.512", self.t.text, args)

    def rarely(
        self, condition: str, usual: Sequence[tuple[VType, str]], then: Callable[[], Sequence[str]]
    ) -> list[str]:
        """Values that are computed in another way where a condition holds in some lane, which it rarely does.

        Args:
            condition: Booleans, one per lane.
            usual: Type and value of each where it holds in none.
            then: Emits the others.
        """
        b = self.b
        holds = b.reduce("or", self.t.with_dtype("bool"), condition) if self.t.lanes else condition
        before, special, after = b.block, b.fresh_label("rare"), b.fresh_label("usual")
        b.cond_br(holds, special, after, (1, 1000))
        b.label(special)
        b.enter()
        found = then()
        b.leave()
        end = b.block
        b.br(after)
        b.label(after)
        out = [b.phi(t.text, value, before) for t, value in usual]
        for result, value in zip(out, found, strict=True):
            b.add_incoming(result, value, end)
        return out

    def horner(self, x: str, coeffs: Sequence[float], start: str | None = None) -> str:
        """The polynomial with these coefficients, lowest power first; ``start`` stands for a higher part."""
        rest = list(coeffs)
        total = start if start is not None else self.c(rest.pop())
        for coefficient in reversed(rest):
            total = self.fma(total, x, coefficient)
        return total

    def even_odd(self, x: str, coeffs: Sequence[float]) -> str:
        """Like `horner`, as two polynomials in ``x**2``: half as long a chain of dependent instructions, one more."""
        square = self.mul(x, x)
        return self.fma(self.horner(square, coeffs[1::2]), x, self.horner(square, coeffs[::2]))

    def round_scaled(self, x: str, factor: float) -> tuple[str, str]:
        """``n = rint(x * factor)`` for ``|n| < 2**(mantissa - 2)`` as a float and as an integer."""
        magic = 1.5 * 2.0**self.mantissa
        shifted = self.fma(x, factor, magic)
        # The low bits of 1.5 * 2**mantissa + n are n in two's complement.
        exponent = self.b.op("sub", self.i, self.bits(shifted), self.bits(self.c(magic)))
        return self.sub(shifted, magic), exponent

    def split_integer(self, x: str) -> tuple[str, str, str]:
        """``n = rint(x)`` as a float and as an integer, and ``x - n``."""
        n, n_int = self.round_scaled(x, 1.0)
        return n, n_int, self.sub(x, n)

    def power_of_two(self, n: str) -> str:
        """``2**n`` of an integer in the range of normal exponents."""
        return self.from_bits(self.iop("shl", self.iop("add", n, self.bias), self.mantissa))

    def scale(self, x: str, n: str, n_int: str) -> str:
        """``x * 2**n`` with one rounding, for ``n`` up to twice the range of normal exponents.

        Args:
            x: A normal number near 1.
            n: The exponent as a float.
            n_int: The exponent as an integer.
        """
        suffix = self._avx512_suffix()
        if suffix is None:
            half = self.iop("ashr", n_int, 1)
            rest = self.iop("sub", n_int, half)
            return self.mul(self.mul(x, self.power_of_two(half)), self.power_of_two(rest))
        text = self.t.text
        mask = ("i16" if self.t.lanes == 16 else "i8", "-1")
        rounding = (("i32", "4"),) if suffix.endswith("512") else ()
        args = ((text, x), (text, n), (text, "zeroinitializer"), mask, *rounding)
        return self.b.call(f"llvm.x86.avx512.mask.scalef.{suffix}", text, args)

    def _avx512_suffix(self) -> str | None:
        """Suffix of AVX-512 intrinsics for this type, None where the target lacks them."""
        key = (self.t.dtype, self.t.lanes)
        if "avx512f" in self.b.features and key in _AVX512:
            return _AVX512[key]
        return _AVX512VL.get(key) if "avx512vl" in self.b.features else None
