"""A fast builder of textual LLVM IR.

Values are strings (``%v12`` or a constant), instructions are lines of text: candidates are built by the thousand, so
nothing here allocates an object per instruction. One `Builder` is one module. Names are never reused, so values may be
used wherever they dominate. Types come as `VType`; booleans are ``i1`` in registers and ``i8`` (0 or 1) in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from ...ir.dtypes import FLOATS, INTEGERS, SIGNED
from .constants import scalar_constant

_SCALAR_TEXT = {
    **{name: f"i{name.lstrip('uint')}" for name in INTEGERS},
    "float16": "half",
    "bfloat16": "i16",  # its bits: LLVM calls a library for scalars of its own type where it has no instructions
    "float32": "float",
    "float64": "double",
    "bool": "i1",
}
_SUFFIX = {"half": "f16", "float": "f32", "double": "f64"}
_FLOAT_PREDICATE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_SIGNED_PREDICATE = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_UNSIGNED_PREDICATE = {"lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}
# Intrinsics with a constant flag after their operands: "zero (or INT_MIN) is not poison".
_FLAGGED = frozenset({"ctlz", "cttz", "abs"})
_REDUCTION_START = {"fadd": -0.0, "fmul": 1.0}


@dataclass(frozen=True, slots=True)
class VType:
    """The type of a value in a register: a scalar (``lanes == 0``) or a vector of one element type.

    Attributes:
        dtype: NumPy name of the element type (`tilewright.ir.dtypes`), complex types excepted.
        lanes: Number of elements, 0 for a scalar.
        text: The LLVM type in registers, e.g. ``<16 x float>``.
        memory: The LLVM type in memory (differs for booleans).
        suffix: What intrinsic names end in, e.g. ``v16f32``.
        is_float: Whether elements are floating point.
    """

    dtype: str
    lanes: int = 0
    text: str = field(init=False, repr=False, compare=False)
    memory: str = field(init=False, repr=False, compare=False)
    suffix: str = field(init=False, repr=False, compare=False)
    is_float: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Precompute the texts, which are read once or more per instruction."""
        if self.dtype not in _SCALAR_TEXT:
            raise ValueError(f"expected an element type that kernels can hold, found {self.dtype!r}")
        if self.lanes < 0:
            raise ValueError(f"expected lanes >= 0, found {self.lanes}")
        scalar = _SCALAR_TEXT[self.dtype]
        memory = "i8" if self.dtype == "bool" else scalar
        suffix = _SUFFIX.get(scalar, scalar)
        object.__setattr__(self, "text", f"<{self.lanes} x {scalar}>" if self.lanes else scalar)
        object.__setattr__(self, "memory", f"<{self.lanes} x {memory}>" if self.lanes else memory)
        object.__setattr__(self, "suffix", f"v{self.lanes}{suffix}" if self.lanes else suffix)
        object.__setattr__(self, "is_float", self.dtype in FLOATS)

    @property
    def scalar(self) -> VType:
        """The type of one element."""
        return vtype(self.dtype)

    def with_dtype(self, dtype: str) -> VType:
        """The type with as many lanes of another element type."""
        return vtype(dtype, self.lanes)


@cache
def vtype(dtype: str, lanes: int = 0) -> VType:
    """The interned `VType`; cheaper than constructing it."""
    return VType(dtype, lanes)


class Builder:
    """Builds one LLVM module as text.

    Attributes:
        features: Target features in LLVM's names (``avx512f``, ``fma``, ...) that emitters may rely on.
        block: Label of the block that is being filled; needed as the incoming block of a phi.
    """

    def __init__(self, features: frozenset[str] = frozenset()) -> None:
        """Start an empty module.

        Args:
            features: Target features in LLVM's names that the code will be compiled with.
        """
        self.features = features
        self.block = ""
        self._count = 0
        self._header = ""
        self._allocas: list[str] = []
        self._lines: list[str] = []
        self._phis: dict[str, int] = {}
        self._functions: list[str] = []
        self._declares: dict[str, str] = {}
        self._metadata: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._known: list[dict[str, str]] = []

    # Functions and module ---------------------------------------------------------------------------------------------

    def begin(
        self, name: str, params: Sequence[tuple[str, str]], attributes: str = "nounwind", linkage: str = ""
    ) -> None:
        """Open a ``void`` function and its block ``entry``.

        Args:
            name: The symbol.
            params: Type text with attributes and name of each parameter, e.g. ``("ptr noalias", "%a")``.
            attributes: Function attributes as written in LLVM IR.
            linkage: For example ``internal``.
        """
        if self._header:
            raise RuntimeError(f"expected no open function, found {self._header!r}: call end() first")
        arguments = ", ".join(f"{text} {value}" for text, value in params)
        self._header = f"define {linkage + ' ' if linkage else ''}void @{name}({arguments}) {attributes} {{\nentry:"
        self.block = "entry"

    def end(self) -> None:
        """Return from the function and close it."""
        self._lines.append("ret void")
        self._functions.append("\n".join([self._header, *self._allocas, *self._lines, "}"]))
        self._header = ""
        self._allocas = []
        self._lines = []
        self._phis = {}
        self._known = []

    def module(self) -> str:
        """The text of the module with everything it declares.

        Raises:
            RuntimeError: a function is still open.
        """
        if self._header:
            raise RuntimeError(f"expected every function closed, found an open one: {self._header!r}")
        nodes = [f"{name} = {node}" for node, name in self._metadata.items()]
        constants = [f"{name} = {text}" for text, name in self._globals.items()]
        return "\n".join([*constants, *self._declares.values(), *self._functions, *nodes, ""])

    @property
    def length(self) -> int:
        """Instructions of the open function."""
        return len(self._lines)

    def metadata(self, node: str) -> str:
        """Intern a metadata node such as ``!{i32 1}`` and return its name, e.g. ``!0``."""
        return self._metadata.setdefault(node, f"!{len(self._metadata)}")

    # Control flow -----------------------------------------------------------------------------------------------------

    def fresh(self) -> str:
        """A value name that is not used yet."""
        self._count += 1
        return f"%v{self._count}"

    def fresh_label(self, hint: str = "b") -> str:
        """A label name that is not used yet."""
        self._count += 1
        return f"{hint}{self._count}"

    def enter(self) -> None:
        """Begin a region of code: until `leave`, an instruction computed before in it or around it is not repeated.

        The blocks of a region must be dominated by what stands before them in it, nested regions aside.
        """
        self._known.append({})

    def leave(self) -> None:
        """End a region; what follows does not know its values."""
        self._known.pop()

    def emit(self, line: str) -> None:
        """Append a line of LLVM IR as it is."""
        self._lines.append(line)

    def value(self, expression: str) -> str:
        """The result of the pure instruction ``expression``: a fresh one, or the same one's in a region around."""
        for known in reversed(self._known):
            if expression in known:
                return known[expression]
        result = self.effect(expression)
        if self._known:
            self._known[-1][expression] = result
        return result

    def effect(self, expression: str) -> str:
        """Append an instruction whose result depends on when it runs, such as a load, and return that."""
        self._count = n = self._count + 1
        self._lines.append(f"%v{n} = {expression}")
        return f"%v{n}"

    def label(self, name: str) -> None:
        """Start the block ``name``; the block before it must have ended in a branch."""
        self._lines.append(f"{name}:")
        self.block = name

    def br(self, target: str) -> None:
        """Branch to the block ``target``."""
        self._lines.append(f"br label %{target}")

    def cond_br(self, cond: str, then: str, otherwise: str, weights: tuple[int, int] | None = None) -> None:
        """Branch to ``then`` where the scalar ``cond`` holds; ``weights`` say how often each way is taken."""
        note = ""
        if weights is not None:
            node = self.metadata(f'!{{!"branch_weights", i32 {weights[0]}, i32 {weights[1]}}}')
            note = f", !prof {node}"
        self._lines.append(f"br i1 {cond}, label %{then}, label %{otherwise}{note}")

    def phi(self, text: str, value: str, block: str) -> str:
        """A phi of LLVM type ``text`` with its first incoming value; see `add_incoming`."""
        self._phis[result := self.fresh()] = len(self._lines)
        self._lines.append(f"{result} = phi {text} [{value}, %{block}]")
        return result

    def add_incoming(self, phi: str, value: str, block: str) -> None:
        """Complete a phi, usually with the value at the end of the loop."""
        self._lines[self._phis[phi]] += f", [{value}, %{block}]"

    # Constants --------------------------------------------------------------------------------------------------------

    def const(self, value: float | int | bool, t: VType) -> str:
        """The constant of type ``t`` (every lane the same), rounded to floats, wrapped to integers."""
        if not t.lanes:
            return scalar_constant(value, t.dtype)
        return f"splat ({_SCALAR_TEXT[t.dtype]} {scalar_constant(value, t.dtype)})"

    def lanes(self, values: Sequence[float | int | bool], t: VType) -> str:
        """The vector constant with these lanes."""
        scalar = _SCALAR_TEXT[t.dtype]
        return "<" + ", ".join(f"{scalar} {scalar_constant(value, t.dtype)}" for value in values) + ">"

    def global_constant(self, kind: str, body: str) -> str:
        """Name of a private constant of the module with LLVM type ``kind``, such as an array."""
        return self._globals.setdefault(f"private unnamed_addr constant {kind} {body}", f"@g{len(self._globals)}")

    # Arithmetic -------------------------------------------------------------------------------------------------------

    def op(self, opcode: str, t: VType, a: str, b: str, flags: str = "") -> str:
        """A binary instruction (``fadd``, ``mul``, ``lshr``, ...), ``flags`` such as ``contract`` or ``nsw``."""
        return self.value(f"{opcode} {flags} {t.text} {a}, {b}" if flags else f"{opcode} {t.text} {a}, {b}")

    def fneg(self, t: VType, a: str) -> str:
        """``-a``: flips the sign bit, of NaN and zero as well."""
        if t.dtype == "bfloat16":
            return self.op("xor", t, a, self.const(0x8000, t.with_dtype("uint16")))
        return self.value(f"fneg {t.text} {a}")

    def intrinsic(self, name: str, t: VType, *args: str, flags: str = "") -> str:
        """``llvm.<name>`` with operands and result of type ``t`` (``fma``, ``maximum``, ...), ``flags`` as in `op`."""
        text = t.text
        full = f"llvm.{name}.{t.suffix}"
        flag = name in _FLAGGED
        if full not in self._declares:
            types = ", ".join([text] * len(args) + ["i1"] * flag)
            self._declares[full] = f"declare {text} @{full}({types})"
        operands = f", {text} ".join(args)
        call = f"call {flags}" if flags else "call"
        return self.value(f"{call} {text} @{full}({text} {operands}{', i1 false' if flag else ''})")

    def call(self, name: str, result: str, args: Sequence[tuple[str, str]]) -> str:
        """Call the external function or intrinsic ``name``.

        Args:
            name: The full symbol, e.g. ``llvm.x86.avx512.mask.scalef.ps.512``.
            result: LLVM type of the result, or ``void`` (then the returned string is empty).
            args: LLVM type and value of each argument.
        """
        if name not in self._declares:
            self._declares[name] = f"declare {result} @{name}({', '.join(text for text, _ in args)})"
        expression = f"call {result} @{name}({', '.join(f'{text} {value}' for text, value in args)})"
        if result != "void":
            return self.value(expression)
        self._lines.append(expression)
        return ""

    def compare(self, predicate: str, t: VType, a: str, b: str) -> str:
        """Compare lanes of type ``t``: ``eq ne lt le gt ge`` by the dtype's order, or LLVM's own predicate names.

        Returns:
            A boolean with as many lanes. NaN is unequal to and not ordered with everything, as in ``lax``.
        """
        if t.dtype == "bfloat16":
            return self.compare(predicate, t.with_dtype("float32"), self.widen(a, t), self.widen(b, t))
        if t.is_float:
            return self.value(f"fcmp {_FLOAT_PREDICATE.get(predicate, predicate)} {t.text} {a}, {b}")
        names = _SIGNED_PREDICATE if t.dtype in SIGNED else _UNSIGNED_PREDICATE
        return self.value(f"icmp {names.get(predicate, predicate)} {t.text} {a}, {b}")

    def select(self, t: VType, cond: str, a: str, b: str) -> str:
        """``a`` where ``cond`` (a boolean with as many lanes as ``t``) holds, else ``b``."""
        return self.value(f"select {vtype('bool', t.lanes).text} {cond}, {t.text} {a}, {t.text} {b}")

    def cast(self, opcode: str, a: str, src: VType, dst: VType) -> str:
        """A conversion instruction, or the saturating ``fptosi.sat`` and ``fptoui.sat``."""
        if not opcode.endswith(".sat"):
            return self.value(f"{opcode} {src.text} {a} to {dst.text}")
        return self.call(f"llvm.{opcode}.{dst.suffix}.{src.suffix}", dst.text, ((src.text, a),))

    def widen(self, a: str, t: VType) -> str:
        """A float of 16 bits as float32, exactly."""
        wide = t.with_dtype("float32")
        if t.dtype != "bfloat16":
            return self.cast("fpext", a, t, wide)
        bits = t.with_dtype("uint32")
        top = self.op("shl", bits, self.cast("zext", a, t, bits), self.const(16, bits))
        return self.cast("bitcast", top, bits, wide)

    # Vectors ----------------------------------------------------------------------------------------------------------

    def splat(self, a: str, t: VType) -> str:
        """The scalar ``a`` in every lane of ``t`` (itself where ``t`` is a scalar)."""
        if not t.lanes:
            return a
        if not a.startswith("%"):
            return f"splat ({_SCALAR_TEXT[t.dtype]} {a})"
        first = self.value(f"insertelement {t.text} poison, {_SCALAR_TEXT[t.dtype]} {a}, i32 0")
        return self.value(f"shufflevector {t.text} {first}, {t.text} poison, <{t.lanes} x i32> zeroinitializer")

    def extract(self, t: VType, a: str, lane: int) -> str:
        """Lane ``lane`` of the vector ``a`` as a scalar."""
        return self.value(f"extractelement {t.text} {a}, i32 {lane}")

    def insert(self, t: VType, a: str, element: str, lane: int) -> str:
        """The vector ``a`` with ``element`` at ``lane``; ``a`` may be ``poison``."""
        return self.value(f"insertelement {t.text} {a}, {_SCALAR_TEXT[t.dtype]} {element}, i32 {lane}")

    def shuffle(self, t: VType, a: str, b: str, indices: Sequence[int]) -> str:
        """Lanes of ``a`` followed by ``b`` (both of type ``t``) picked by constant ``indices``, -1 for don't care."""
        picks = ", ".join(f"i32 {i}" if i >= 0 else "i32 poison" for i in indices)
        return self.value(f"shufflevector {t.text} {a}, {t.text} {b}, <{len(indices)} x i32> <{picks}>")

    def reduce(self, name: str, t: VType, a: str) -> str:
        """Reduce the lanes of ``a`` as a tree: ``fadd fmul add mul and or xor smax umax fmaximum fminimum ...``."""
        full, scalar = f"llvm.vector.reduce.{name}.{t.suffix}", _SCALAR_TEXT[t.dtype]
        if name not in _REDUCTION_START:
            return self.call(full, scalar, ((t.text, a),))
        self._declares.setdefault(full, f"declare {scalar} @{full}({scalar}, {t.text})")
        start = self.const(_REDUCTION_START[name], t.scalar)
        return self.value(f"call reassoc {scalar} @{full}({scalar} {start}, {t.text} {a})")

    # Memory -----------------------------------------------------------------------------------------------------------

    def alloca(self, text: str, align: int) -> str:
        """Stack memory of LLVM type ``text``, allocated once in the entry block wherever this is called."""
        self._allocas.append(f"{(result := self.fresh())} = alloca {text}, align {align}")
        return result

    def gep(self, elem: str, base: str, offset: str | int) -> str:
        """The address ``offset`` (an ``i64``) elements of LLVM type ``elem`` after ``base``."""
        if offset == 0:
            return base
        return self.value(f"getelementptr {elem}, ptr {base}, i64 {offset}")

    def load(
        self,
        t: VType,
        ptr: str,
        align: int,
        mask: str | None = None,
        otherwise: str = "zeroinitializer",
        metadata: str = "",
    ) -> str:
        """Load a value.

        Args:
            t: Its type.
            ptr: The address.
            align: Alignment of ``ptr`` in bytes.
            mask: Booleans, one per lane: memory is touched only where they hold.
            otherwise: The lanes where they don't, of the type in memory.
            metadata: Attachments, e.g. ``!alias.scope !1, !noalias !2``.
        """
        note = f", {metadata}" if metadata else ""
        if mask is None:
            loaded = self.effect(f"load {t.memory}, ptr {ptr}, align {align}{note}")
        else:
            name, kind = self._masked("load", t)
            self._declares.setdefault(name, f"declare {t.memory} @{name}(ptr, i32 immarg, {kind}, {t.memory})")
            loaded = self.effect(
                f"call {t.memory} @{name}(ptr {ptr}, i32 {align}, {kind} {mask}, {t.memory} {otherwise}){note}"
            )
        return loaded if t.dtype != "bool" else self.value(f"icmp ne {t.memory} {loaded}, zeroinitializer")

    def store(
        self,
        t: VType,
        value: str,
        ptr: str,
        align: int,
        mask: str | None = None,
        nontemporal: bool = False,
        metadata: str = "",
    ) -> None:
        """Store a value.

        Args:
            t: Its type.
            value: The value.
            ptr: The address.
            align: Alignment of ``ptr`` in bytes.
            mask: Booleans, one per lane: memory is touched only where they hold.
            nontemporal: Bypass the caches (needs ``ptr`` aligned to the whole vector).
            metadata: Attachments, e.g. ``!alias.scope !1, !noalias !2``.
        """
        note = f", {metadata}" if metadata else ""
        if nontemporal:
            note += f", !nontemporal {self.metadata('!{i32 1}')}"
        if t.dtype == "bool":
            value = self.value(f"zext {t.text} {value} to {t.memory}")
        if mask is None:
            self._lines.append(f"store {t.memory} {value}, ptr {ptr}, align {align}{note}")
            return
        name, kind = self._masked("store", t)
        self._declares.setdefault(name, f"declare void @{name}({t.memory}, ptr, i32 immarg, {kind})")
        self._lines.append(f"call void @{name}({t.memory} {value}, ptr {ptr}, i32 {align}, {kind} {mask}){note}")

    def store_fence(self) -> None:
        """What was stored past the caches becomes visible before anything that is stored after."""
        if any(name.startswith("sse") for name in self.features):
            self.call("llvm.x86.sse.sfence", "void", ())
        else:
            self._lines.append("fence release")

    def _masked(self, verb: str, t: VType) -> tuple[str, str]:
        """Name of the masked intrinsic, and type of its mask."""
        suffix = f"v{t.lanes}i8" if t.dtype == "bool" else t.suffix
        return f"llvm.masked.{verb}.{suffix}.p0", f"<{t.lanes} x i1>"
