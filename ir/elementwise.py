"""Signatures of the elementwise functions that scalar expressions apply, named as in ``jax.lax``.

Three are not in ``jax.lax``: ``larger(x, y)`` is y where that is larger, else x, so that NaN replaces no number;
``decay`` is ``exp`` of rounded numbers that are not positive, such as differences with their maximum, or of NaN;
``threefry(k0, k1, i)`` is the i-th random word under the key k0, k1.
Operands of a function share one element type unless stated otherwise; what each function computes is defined by
`ir.interp_ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import dtypes

_DOMAINS: dict[str, Callable[[str], bool]] = {
    "number": lambda d: dtypes.is_float(d) or dtypes.is_integer(d),
    "signed": lambda d: dtypes.is_float(d) or d in dtypes.SIGNED,
    "float": dtypes.is_float,
    "integer": dtypes.is_integer,
    "word": lambda d: d == "uint32",
    "bits": lambda d: dtypes.is_integer(d) or d == dtypes.BOOL,
    "ordered": lambda d: dtypes.is_known(d) and d not in dtypes.COMPLEX,
    "any": dtypes.is_known,
}


@dataclass(frozen=True, slots=True)
class Signature:
    """What an elementwise function takes and gives.

    Args:
        arity: number of operands.
        domain: the element types it takes: number, signed (numbers), float, integer, word (uint32), bits (integers and
            bool), ordered (all but complex) or any.
        result: ``same`` type as the operands, ``bool``, or ``stated`` by the application.
        params: number of static parameters.
    """

    arity: int
    domain: str
    result: str = "same"
    params: int = 0


def _table() -> dict[str, Signature]:
    table: dict[str, Signature] = {}

    def add(names: str, arity: int, domain: str, result: str = "same", params: int = 0) -> None:
        table.update(dict.fromkeys(names.split(), Signature(arity, domain, result, params)))

    add("add sub mul div rem", 2, "number")
    add("max min", 2, "ordered")
    add("larger", 2, "float")
    add("decay", 1, "float")
    add("pow atan2 nextafter", 2, "float")
    add("neg sign square", 1, "number")
    add("abs", 1, "signed")
    add("integer_pow", 1, "number", params=1)
    add("floor ceil", 1, "float")
    add("round", 1, "float", params=1)
    add("exp exp2 expm1 log log1p sqrt rsqrt cbrt logistic", 1, "float")
    add("sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh", 1, "float")
    add("erf erfc erf_inv lgamma digamma", 1, "float")
    add("is_finite", 1, "float", "bool")
    add("and or xor", 2, "bits")
    add("not", 1, "bits")
    add("population_count clz", 1, "integer")
    add("shift_left shift_right_logical shift_right_arithmetic", 2, "integer")
    add("eq ne", 2, "any", "bool")
    add("lt le gt ge", 2, "ordered", "bool")
    add("clamp", 3, "ordered")
    add("threefry", 3, "word")
    add("select_n", 3, "any")
    add("copy", 1, "any")
    add("convert_element_type bitcast_convert_type", 1, "ordered", "stated")
    return table


SIGNATURES = _table()


def default_dtype(op: str, args: Sequence[str]) -> str | None:
    """Result type that follows from the operands' types, None where it has to be stated.

    Args:
        op: the function's name; an unknown one is taken to give its first operand's type.
        args: element types of the operands.
    """
    signature = SIGNATURES.get(op)
    if signature is not None and signature.result != "same":
        return dtypes.BOOL if signature.result == "bool" else None
    if op == "select_n":
        return args[1] if len(args) > 1 else None
    return args[0] if args else None


def check(op: str, args: Sequence[str], dtype: str, params: Sequence[int | str] = ()) -> None:
    """Check that an application is well typed.

    Args:
        op: the function's name.
        args: element types of the operands.
        dtype: the stated result type.
        params: the static parameters.

    Raises:
        ValueError: saying what was expected and what was found.
    """
    signature = SIGNATURES.get(op)
    if signature is None:
        raise ValueError(f"expected an elementwise function of jax.lax, found {op!r}")
    if len(args) != signature.arity or len(params) != signature.params:
        want = f"{signature.arity} operands and {signature.params} parameters"
        raise ValueError(f"expected {want} for {op}, found {len(args)} and {len(params)}")
    if any(isinstance(p, bool) or not isinstance(p, int) for p in params):
        raise ValueError(f"expected integer parameters for {op}, found {tuple(params)}")
    values = _values(op, args)
    if not _DOMAINS[signature.domain](values[0]):
        raise ValueError(f"expected {signature.domain} operands for {op}, found {values[0]}")
    if any(d != values[0] for d in values):
        raise ValueError(f"expected operands of one type for {op}, found {', '.join(args)}")
    _check_result(op, values[0], dtype)


def _values(op: str, args: Sequence[str]) -> Sequence[str]:
    """The operands that share a type; the odd ones of ``select_n`` and ``pow`` are checked here."""
    if op == "select_n":
        if args[0] != dtypes.BOOL:
            raise ValueError(f"expected a bool condition for select_n, found {args[0]}")
        return args[1:]
    if op == "pow" and dtypes.is_integer(args[1]):
        return args[:1]
    return args


def _check_result(op: str, operand: str, dtype: str) -> None:
    expected = default_dtype(op, [operand, operand])
    if expected is not None:
        if dtype != expected:
            raise ValueError(f"expected {op} to give {expected}, found {dtype}")
        return
    if not _DOMAINS["ordered"](dtype):
        raise ValueError(f"expected {op} to give a known type, found {dtype}")
    if op == "bitcast_convert_type":
        if dtypes.BOOL in (operand, dtype) or dtypes.itemsize(operand) != dtypes.itemsize(dtype):
            raise ValueError(f"expected number types of one size for {op}, found {operand} and {dtype}")
