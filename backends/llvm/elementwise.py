"""Elementwise operations of the loop IR, for the code generator."""

from __future__ import annotations

from collections.abc import Sequence

from . import vecmath
from .builder import Builder, VType
from .memory import CodegenError


def binary(b: Builder, op: str, t: VType, left: str, right: str) -> str:
    """A binary operation on two values of one type."""
    return apply(b, op, t, (t, t), (left, right), ())


def apply(
    b: Builder, op: str, result: VType, types: Sequence[VType], args: Sequence[str], params: tuple[int | str, ...]
) -> str:
    """An elementwise operation; see `vecmath.emit`.

    Args:
        b: gets the instructions.
        op: its name in ``jax.lax``.
        result: type of the result.
        types: types of the arguments, with as many lanes as the result.
        args: the arguments.
        params: what else the primitive needs.

    Raises:
        CodegenError: there is no code for the operation on this element type or target.
    """
    operand = types[1] if op == "select_n" else types[0]
    if operand.dtype not in vecmath.SUPPORTED.get(op, ()) or (op == "pow" and types[1] != operand):
        found = ", ".join(t.dtype for t in types)
        raise CodegenError(f"expected an operation that code is generated for, found {op} of {found}")
    try:
        return vecmath.emit(b, op, operand, args, params, result)
    except ValueError as error:
        raise CodegenError(str(error)) from error
