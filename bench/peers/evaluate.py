"""Operations of the graph IR in NumPy, in whatever precision the operands have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ...ir.graph import Op, Param

Values = NDArray[Any]

ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "cos": np.cos,
    "div": np.divide,
    "eq": np.equal,
    "erf": special.erf,
    "erfc": special.erfc,
    "exp": np.exp,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": special.expit,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "select_n": lambda which, first, second: np.where(which, second, first),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tanh": np.tanh,
}
"""Functions of equal or broadcast shapes that take no parameters."""

_REDUCTIONS = {"reduce_sum": np.sum, "reduce_max": np.max, "reduce_min": np.min}


def has_form(op: Op) -> bool:
    """Whether `evaluate` knows an operation."""
    return op.opcode in ELEMENTWISE or op.opcode in _REDUCTIONS or op.opcode in _OTHERS


def evaluate(op: Op, operands: Sequence[Values]) -> Values:
    """The result of an operation.

    Raises:
        KeyError: It has no form here.
    """
    if op.opcode in ELEMENTWISE:
        return np.asarray(ELEMENTWISE[op.opcode](*operands))
    if op.opcode in _REDUCTIONS:
        return np.asarray(_REDUCTIONS[op.opcode](operands[0], axis=tuple(op.params["axes"])))
    return np.asarray(_OTHERS[op.opcode](op.params, *operands))


def _broadcast(params: Mapping[str, Param], value: Values) -> Values:
    kept = dict(zip(params["broadcast_dimensions"], value.shape, strict=True))
    return np.broadcast_to(value.reshape([kept.get(axis, 1) for axis in range(len(params["shape"]))]), params["shape"])


def _iota(params: Mapping[str, Param]) -> Values:
    size = params["shape"][params["dimension"]]
    shape = [size if axis == params["dimension"] else 1 for axis in range(len(params["shape"]))]
    return np.broadcast_to(np.arange(size, dtype=params["dtype"]).reshape(shape), params["shape"])


def _slice(params: Mapping[str, Param], value: Values) -> Values:
    strides = params["strides"] or (1,) * value.ndim
    return value[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


_OTHERS: Mapping[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda params, *values: np.concatenate(values, params["dimension"]),
    "convert_element_type": lambda params, value: value.astype(params["new_dtype"]),
    "integer_pow": lambda params, value: value ** params["y"],
    "iota": _iota,
    "reshape": lambda params, value: value.reshape(params["new_sizes"]),
    "slice": _slice,
    "squeeze": lambda params, value: np.squeeze(value, tuple(params["dimensions"])),
    "transpose": lambda params, value: value.transpose(params["permutation"]),
}
