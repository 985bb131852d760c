"""Element types: their names, sizes and NumPy equivalents.

A dtype is named by its NumPy name (``"float32"``, ``"bfloat16"``, ``"int8"``, ``"bool"``); JAX's extended types (PRNG
keys) keep their own name and are only ever carried, never computed on.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

FLOATS = ("float16", "bfloat16", "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
BOOL = "bool"
COMPLEX = ("complex64", "complex128")

_KNOWN = frozenset((*FLOATS, *INTEGERS, BOOL, *COMPLEX))

LOSSLESS = {
    ("float16", "float32"),
    ("float16", "float64"),
    ("bfloat16", "float32"),
    ("bfloat16", "float64"),
    ("float32", "float64"),
    ("int8", "int16"),
    ("int8", "int32"),
    ("int8", "int64"),
    ("int16", "int32"),
    ("int16", "int64"),
    ("int32", "int64"),
    ("uint8", "uint16"),
    ("uint8", "uint32"),
    ("uint8", "uint64"),
    ("uint16", "uint32"),
    ("uint16", "uint64"),
    ("uint32", "uint64"),
}
"""Pairs of element types of which the second one holds every value of the first."""


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` is a real floating point type."""
    return dtype in FLOATS


def is_integer(dtype: str) -> bool:
    """Whether ``dtype`` is a signed or unsigned integer type (``bool`` is not)."""
    return dtype in INTEGERS


def is_known(dtype: str) -> bool:
    """Whether kernels can name this element type at all (extended and sub-byte types are not known)."""
    return dtype in _KNOWN


def itemsize(dtype: str) -> int:
    """Size of one element in bytes.

    Raises:
        KeyError: the dtype is not known (see `is_known`).
    """
    return _ITEMSIZE[dtype]


def to_numpy(dtype: str) -> np.dtype:
    """The NumPy dtype of that name, ``bfloat16`` included."""
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


_ITEMSIZE = {name: to_numpy(name).itemsize for name in _KNOWN}
