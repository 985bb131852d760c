"""Types of JAX values as graph types and back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.sharding import NamedSharding, PartitionSpec

from ..ir import dtypes
from ..ir.graph import TensorType

_EXTENDED: dict[str, Any] = {}
"""JAX's own element types (PRNG keys) that were seen, by name: they have no NumPy equivalent to look up."""


class UnsupportedProgram(Exception):
    """The program holds a value that the graph IR has no type for; such programs run as plain JAX."""


def type_of(aval: Any) -> TensorType:
    """The graph type of an abstract JAX value.

    Raises:
        UnsupportedProgram: it is no array (a token, a mutable reference), is sharded by an explicit mesh, lives in
            another memory space, or has a symbolic shape.
    """
    if not isinstance(aval, ShapedArray):
        raise UnsupportedProgram(f"value of type {aval} is no array")
    if not all(isinstance(size, int) for size in aval.shape):
        raise UnsupportedProgram(f"shape {aval.shape} is symbolic")
    if any(axis is not None for axis in aval.sharding.spec):
        raise UnsupportedProgram(f"value of type {aval.str_short(mesh_axis_types=True)} is sharded in its type")
    if aval.memory_space != jax.memory.Space.Device:
        raise UnsupportedProgram(f"value of type {aval.str_short()} lives in {aval.memory_space}")
    manual = aval.manual_axis_type
    if manual.unreduced or manual.reduced:
        raise UnsupportedProgram(f"value of type {aval.str_short()} is partially reduced")
    return TensorType(tuple(aval.shape), dtype_name(aval.dtype), bool(aval.weak_type), tuple(sorted(manual.varying)))


def aval_of(type_: TensorType) -> ShapedArray:
    """The abstract JAX value of a graph type, in the mesh that is current."""
    mesh = jax.sharding.get_abstract_mesh()
    dtype = dtype_of(type_.dtype)
    if mesh.empty:
        return ShapedArray(type_.shape, dtype, type_.weak_type)
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * type_.rank))
    varying = jax.sharding.ManualAxisType(varying=frozenset(type_.varying))
    return ShapedArray(type_.shape, dtype, type_.weak_type, sharding=sharding, manual_axis_type=varying)


def dtype_name(dtype: Any) -> str:
    """Name of an element type; `dtype_of` gives it back."""
    if dtype == jax.dtypes.float0:
        return "float0"
    if is_extended(dtype):
        _EXTENDED[dtype.name] = dtype
        return dtype.name
    return np.dtype(dtype).name


def is_extended(dtype: Any) -> bool:
    """Whether an element type is one of JAX's own (PRNG keys), which NumPy can't hold."""
    return jax.numpy.issubdtype(dtype, jax.dtypes.extended)


def dtype_of(name: str) -> Any:
    """The element type of that name."""
    if name == "float0":
        return jax.dtypes.float0
    if name in _EXTENDED:
        return _EXTENDED[name]
    return dtypes.to_numpy(name) if dtypes.is_known(name) else jax.numpy.dtype(name)
