"""Arithmetic and minimal traffic of a whole function, counted on its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
from jax.extend import core


def product_flops(program: core.Jaxpr) -> int:
    """Operations of all matrix products and convolutions, a multiply-add as two; loops count as often as they run.

    Raises:
        NotImplementedError: A product stands in a `while` loop, whose number of rounds is not known.
    """
    return sum(_equation_flops(equation) for equation in program.eqns)


def _equation_flops(equation: core.JaxprEqn) -> int:
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            return 2 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)
        case "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            window = list(_shape(equation.invars[1]))
            window.pop(numbers.rhs_spec[0])  # all but the results: inputs of the group and the window itself
            zeros = math.prod(equation.params["lhs_dilation"])  # a transposed convolution multiplies none of them
            return 2 * _size(equation.outvars[0]) * math.prod(window) // zeros
    inner = sum(product_flops(program) for program in _programs(equation.params.values()))
    if inner and equation.primitive.name == "while":
        raise NotImplementedError("expected loops of known length, found products in a while loop")
    return inner * equation.params.get("length", 1) if equation.primitive.name == "scan" else inner


def _programs(values: Iterable[Any]) -> Iterable[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _programs(value)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _size(variable: Any) -> int:
    return math.prod(_shape(variable))


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
