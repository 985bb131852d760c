"""JAX primitives as opcodes with plain parameters, and back.

A primitive of the list below becomes a transparent operation if its parameters survive the way to plain data and back
unchanged; this is checked for each one, so a parameter that a later JAX adds makes the operation opaque, never wrong.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import Primitive, primitives

from ..ir.graph import Param
from .avals import dtype_name, dtype_of, is_extended

_OPCODES = """
abs acos acosh add add_any and argmax argmin asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type
broadcast_in_dim cbrt ceil clamp clz complex concatenate conv_general_dilated convert_element_type copy cos cosh
cumlogsumexp cummax cummin cumprod cumsum digamma div dot_general dynamic_slice dynamic_update_slice eq erf erf_inv
erfc exp exp2 expm1 floor gather ge gt igamma igammac imag integer_pow iota is_finite le lgamma log log1p logistic
lt max min mul name ne neg nextafter not optimization_barrier or pad polygamma population_count pow pvary real
reduce_and reduce_max reduce_min reduce_or reduce_precision reduce_prod reduce_sum reduce_window_max
reduce_window_min reduce_window_sum reduce_xor rem reshape rev round rsqrt scatter select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh slice sort split sqrt square squeeze stop_gradient sub tan
tanh threefry2x32 top_k transpose xor zeta
""".split()

_DTYPES = frozenset({"new_dtype", "dtype", "index_dtype", "preferred_element_type", "out_dtype"})
_OPTIONAL = frozenset({"sharding", "out_sharding", "accuracy", "out_dtype", "dimensions"})
"""Parameters that are left out of the graph while they are None; all but these are always present."""

_ENUMS: Mapping[str, type[enum.Enum]] = {"mode": lax.GatherScatterMode, "rounding_method": lax.RoundingMethod}
_NUMBERS: Mapping[str, type] = {
    "conv_general_dilated": lax.ConvDimensionNumbers,
    "gather": lax.GatherDimensionNumbers,
    "scatter": lax.ScatterDimensionNumbers,
}
_FIELDS: Mapping[type, tuple[str, ...]] = {
    lax.GatherDimensionNumbers: (
        "offset_dims",
        "collapsed_slice_dims",
        "start_index_map",
        "operand_batching_dims",
        "start_indices_batching_dims",
    ),
    lax.ScatterDimensionNumbers: (
        "update_window_dims",
        "inserted_window_dims",
        "scatter_dims_to_operand_dims",
        "operand_batching_dims",
        "scatter_indices_batching_dims",
    ),
}


class NotPlain(Exception):
    """A parameter has no plain form."""


def encode(primitive: Primitive, params: Mapping[str, Any]) -> dict[str, Param] | None:
    """Plain parameters of a primitive, or None if the operation has to stay opaque."""
    opcode = primitive.name
    if _table().get(opcode) is not primitive or (opcode == "reshape" and params.get("dimensions") is not None):
        return None
    try:
        plain = {
            name: _encode(name, value) for name, value in params.items() if not (value is None and name in _OPTIONAL)
        }
        back = decode(opcode, plain)
    except NotPlain:
        return None
    return plain if _same(back, params) else None


def decode(opcode: str, params: Mapping[str, Param]) -> dict[str, Any]:
    """JAX parameters of a transparent operation."""
    decoded: dict[str, Any] = dict.fromkeys(_optional_params(opcode))
    decoded.update((name, _decode(opcode, name, value)) for name, value in params.items())
    return decoded


def primitive(opcode: str) -> Primitive:
    """The JAX primitive of a transparent opcode.

    Raises:
        KeyError: the opcode is not one of JAX's, or not one that can be transparent.
    """
    return _table()[opcode]


@functools.cache
def _table() -> dict[str, Primitive]:
    found = {p.name: p for p in vars(primitives).values() if isinstance(p, Primitive)}
    found |= {p.name: p for p in vars(lax).values() if isinstance(p, Primitive)}
    for make in _HIDDEN:
        found |= {eqn.primitive.name: eqn.primitive for eqn in jax.make_jaxpr(make)(np.float32(1)).eqns}
    return {name: found[name] for name in _OPCODES if name in found}


# Primitives that no public module exports, by a function that uses them.
_HIDDEN: tuple[Callable[[Any], Any], ...] = (lax.optimization_barrier, lax.stop_gradient)


def _probes() -> dict[str, Callable[[Any], Any]]:
    """Calls that show which optional parameters a primitive has, for those that have any."""
    accuracy = "cbrt cos exp exp2 expm1 log log1p logistic rsqrt sin sqrt tan tanh".split()
    table: dict[str, Callable[[Any], Any]] = {name: getattr(lax, name) for name in accuracy}
    for name in ("reduce_max", "reduce_min", "reduce_sum"):
        reduce = getattr(lax, name)
        table[name] = lambda x, reduce=reduce: reduce(lax.broadcast(x, (2,)), axes=(0,))
    table |= {
        "mul": lambda x: lax.mul(x, x),
        "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (2,), ()),
        "convert_element_type": lambda x: lax.convert_element_type(x, np.int32),
        "iota": lambda x: lax.iota(np.int32, 2),
        "reshape": lambda x: lax.reshape(x, (1, 1)),
        "dot_general": lambda x: lax.dot(lax.broadcast(x, (2, 2)), lax.broadcast(x, (2, 2))),
        "conv_general_dilated": lambda x: lax.conv_general_dilated(
            lax.broadcast(x, (1, 1, 1)), lax.broadcast(x, (1, 1, 1)), (1,), "VALID"
        ),
    }
    return table


@functools.cache
def _optional_params(opcode: str) -> tuple[str, ...]:
    probe = _probes().get(opcode)
    if probe is None:
        return ()
    (eqn,) = [e for e in jax.make_jaxpr(probe)(np.float32(1)).eqns if e.primitive.name == opcode]
    return tuple(name for name, value in eqn.params.items() if value is None and name in _OPTIONAL)


def _encode(name: str, value: Any) -> Param:
    if name in _DTYPES and value is not None:
        return _encode_dtype(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if type(value) in _FIELDS:
        return tuple(_encode(name, getattr(value, field)) for field in _FIELDS[type(value)])
    if isinstance(value, tuple | list):
        return tuple(_encode(name, item) for item in value)
    if isinstance(value, enum.Enum) and (name in _ENUMS or isinstance(value, lax.Precision)):
        return value.name
    raise NotPlain(name)


def _encode_dtype(value: Any) -> str:
    if is_extended(value):
        raise NotPlain(value)
    return dtype_name(value)


def _decode(opcode: str, name: str, value: Param) -> Any:
    if value is None:
        return None
    if name in _DTYPES:
        return dtype_of(value)
    if name in _ENUMS:
        return _ENUMS[name][value]
    if name == "dimension_numbers" and opcode in _NUMBERS:
        return _NUMBERS[opcode](*value)
    if name == "precision":
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise NotPlain(name)
        return tuple(lax.Precision[item] for item in value)
    return value


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(_equal(a[name], b[name]) for name in a)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | np.floating):
        return a == b or (a != a and b != b)
    return bool(a == b)
