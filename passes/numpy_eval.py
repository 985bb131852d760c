"""What operations compute, on NumPy arrays: for folding constants.

Transcendental functions are computed in float64 and rounded. Where XLA's CPU code and NumPy could differ in more than
the last place (numbers out of an integer type's range, division by zero, subnormal numbers, which XLA flushes), the
answer is None and the operation is left to XLA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.graph import Op, Param, TensorType

Array = np.ndarray
Params = Mapping[str, Param]


def evaluate(op: Op, operands: Sequence[Array]) -> Array | None:
    """The result of a transparent operation with one result.

    Args:
        op: The operation.
        operands: Contents of what it reads.

    Returns:
        An array of the declared type (possibly a view of an operand), or None if it can't be told exactly enough.
    """
    rule = _RULES.get(op.opcode)
    if rule is None or not all(dtypes.is_known(array.dtype.name) for array in operands):
        return None
    if op.opcode not in _MOVES and any(map(_has_subnormals, operands)):
        return None
    with np.errstate(all="ignore"):
        result = rule(op.type, op.params, *operands)
    if result is None or (op.opcode not in _MOVES and _has_subnormals(result)):
        return None
    return np.asarray(result, dtype=dtypes.to_numpy(op.type.dtype)).reshape(op.type.shape)


def _has_subnormals(array: Array) -> bool:
    if not dtypes.is_float(array.dtype.name):
        return False
    smallest = np.finfo(array.dtype).smallest_normal if array.dtype.kind == "f" else np.float32(2.0**-126)
    with np.errstate(invalid="ignore"):  # bfloat16 warns of NaN
        size = np.abs(array)
        return bool(np.any((size > 0) & (size < smallest)))


def _binary(function: Callable[[Array, Array], Any]) -> Callable[..., Any]:
    return lambda type_, params, a, b: function(a, b) if params.get("out_dtype") is None else None


def _unary(function: Callable[[Array], Any]) -> Callable[..., Any]:
    return lambda type_, params, a: function(a)


def _in_float64(function: Callable[[Array], Any]) -> Callable[..., Any]:
    return lambda type_, params, a: function(a.astype(np.float64)) if dtypes.is_float(a.dtype.name) else None


def _divide(type_: TensorType, params: Params, a: Array, b: Array) -> Any:
    if dtypes.is_float(a.dtype.name):
        return a / b
    if not dtypes.is_integer(a.dtype.name) or np.any(b == 0) or np.any(b == np.array(-1).astype(b.dtype)):
        return None
    quotient = np.abs(a.astype(object)) // np.abs(b.astype(object))  # XLA rounds towards zero
    return (quotient * np.sign(a.astype(object)) * np.sign(b.astype(object))).astype(a.dtype)


def _convert(type_: TensorType, params: Params, a: Array) -> Any:
    if not dtypes.is_known(type_.dtype) or a.dtype.kind == "c" or type_.dtype in dtypes.COMPLEX:
        return None
    if dtypes.is_float(a.dtype.name) and dtypes.is_integer(type_.dtype):
        info, wide = np.iinfo(type_.dtype), a.astype(np.float64)
        if not np.all((wide > info.min) & (wide < info.max)):
            return None
        a = wide
    if type_.dtype == dtypes.BOOL:
        return a != 0
    return a.astype(dtypes.to_numpy(type_.dtype))


def _broadcast(type_: TensorType, params: Params, a: Array) -> Any:
    axes = params["broadcast_dimensions"]
    shape = [1] * type_.rank
    for axis, size in zip(axes, a.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(a.reshape(shape), type_.shape)


def _select(type_: TensorType, params: Params, which: Array, *cases: Array) -> Any:
    if which.dtype != np.bool_ or len(cases) != 2:
        return None
    return np.where(which, cases[1], cases[0])


def _pad(type_: TensorType, params: Params, a: Array, value: Array) -> Any:
    config = params["padding_config"]
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        return None
    return np.pad(a, [(low, high) for low, high, _ in config], constant_values=value)


def _slice(type_: TensorType, params: Params, a: Array) -> Any:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params.get("strides") or (1,) * len(starts)
    return a[tuple(slice(*item) for item in zip(starts, limits, strides, strict=True))]


def _iota(type_: TensorType, params: Params) -> Any:
    axis = params["dimension"]
    line = np.arange(type_.shape[axis]).astype(dtypes.to_numpy(type_.dtype))
    return np.broadcast_to(line.reshape([-1 if i == axis else 1 for i in range(type_.rank)]), type_.shape)


def _integer_pow(type_: TensorType, params: Params, a: Array) -> Any:
    return a ** params["y"] if 0 <= params["y"] <= 2 else None


def _sum(type_: TensorType, params: Params, a: Array) -> Any:
    wide = np.float64 if dtypes.is_float(a.dtype.name) else a.dtype
    return np.sum(a, axis=params["axes"], dtype=wide)


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda type_, params, a: function(a, axis=params["axes"]) if a.size else None


_RULES: dict[str, Callable[..., Any]] = {
    "add": _binary(np.add),
    "sub": _binary(np.subtract),
    "mul": _binary(np.multiply),
    "max": _binary(np.maximum),
    "min": _binary(np.minimum),
    "div": _divide,
    "and": _binary(np.bitwise_and),
    "or": _binary(np.bitwise_or),
    "xor": _binary(np.bitwise_xor),
    **{
        name: _binary(getattr(np, ufunc))
        for name, ufunc in (
            ("eq", "equal"),
            ("ne", "not_equal"),
            ("lt", "less"),
            ("le", "less_equal"),
            ("gt", "greater"),
            ("ge", "greater_equal"),
        )
    },
    "not": _unary(np.invert),
    "neg": _unary(lambda a: np.negative(a) if a.dtype != np.bool_ else None),
    "abs": _unary(lambda a: np.abs(a) if a.dtype.kind != "c" else None),
    "square": _unary(np.square),
    "sign": _unary(lambda a: np.sign(a) if a.dtype.kind != "c" else None),
    "floor": _unary(np.floor),
    "ceil": _unary(np.ceil),
    "is_finite": _unary(np.isfinite),
    "integer_pow": _integer_pow,
    "sqrt": _in_float64(np.sqrt),
    "rsqrt": _in_float64(lambda a: 1 / np.sqrt(a)),
    "exp": _in_float64(np.exp),
    "log": _in_float64(np.log),
    "log1p": _in_float64(np.log1p),
    "expm1": _in_float64(np.expm1),
    "tanh": _in_float64(np.tanh),
    "sin": _in_float64(np.sin),
    "cos": _in_float64(np.cos),
    "select_n": _select,
    "clamp": lambda type_, params, low, a, high: np.minimum(np.maximum(a, low), high),
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "reshape": lambda type_, params, a: a.reshape(type_.shape),
    "squeeze": lambda type_, params, a: a.reshape(type_.shape),
    "transpose": lambda type_, params, a: a.transpose(params["permutation"]),
    "rev": lambda type_, params, a: np.flip(a, params["dimensions"]),
    "concatenate": lambda type_, params, *parts: np.concatenate(parts, params["dimension"]),
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "reduce_sum": _sum,
    "reduce_max": _extreme(np.max),
    "reduce_min": _extreme(np.min),
    "stop_gradient": _unary(lambda a: a),
    "copy": _unary(lambda a: a),
    "pvary": _unary(lambda a: a),
}

_MOVES = frozenset(
    "broadcast_in_dim concatenate copy iota pad pvary reshape rev slice squeeze stop_gradient transpose".split()
)
"""Operations that move numbers without looking at them."""
