"""Elementwise operations of the loop IR, for the code generator."""

from __future__ import annotations

from collections.abc import Sequence

from . import vecmath
from .builder import Builder, VType


def binary(b: Builder, op: str, t: VType, left: str, right: str) -> str:
    """A binary operation on two values of one type."""
    return vecmath.emit(b, op, t, (left, right))


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
    """
    operand = types[1] if op == "select_n" else types[0]
    return vecmath.emit(b, op, operand, args, params, result)
