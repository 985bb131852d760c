"""Values of arguments: drawn at random, read from files, written to files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ir import dtypes
from .errors import CommandError, UsageError, describe
from .inputs import ArrayType

_WHOLE_NUMBERS = 10


def random_array(wanted: ArrayType, rng: np.random.Generator) -> np.ndarray:
    """Random values: standard normal ones, whole numbers from 0 to 9, or truth values.

    Args:
        wanted: The type.
        rng: Draws them.

    Raises:
        UsageError: there is not enough memory.
    """
    dtype = dtypes.to_numpy(wanted.dtype)
    try:
        if wanted.dtype == dtypes.BOOL:
            return rng.random(wanted.shape) < 0.5
        if dtypes.is_integer(wanted.dtype):
            return rng.integers(0, _WHOLE_NUMBERS, wanted.shape).astype(dtype)
        real = rng.standard_normal(wanted.shape, np.float64 if dtype.itemsize > 8 else np.float32)
        if wanted.dtype in dtypes.COMPLEX:
            return (real + 1j * rng.standard_normal(wanted.shape)).astype(dtype)
        return real.astype(dtype, copy=False)
    except (MemoryError, ValueError) as error:  # a ValueError is "array is too big"
        raise UsageError(f"{wanted}: values of this type don't fit into memory", "ask for a smaller shape") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npy` or `.npz` file by name; the only one of a `.npy` file is `arr_0`.

    Nothing in the file is executed.

    Raises:
        UsageError: it can't be read, is something else, or holds what JAX has no arrays for.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise UsageError(f"{path}: expected a .npy or .npz file, found {found}")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                found = {"arr_0": loaded}
            else:
                found = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
        remedy = "write it with numpy.save or numpy.savez"
        # NumPy's own words advise to execute what is in the file.
        reason = "it is none, or holds Python objects" if "pickle" in str(error) else describe(error)
        raise UsageError(f"{path}: can't be read as .npy or .npz ({reason})", remedy) from error
    if not found:
        raise UsageError(f"{path}: expected arrays, found none")
    return {name: _usable(path, name, array) for name, array in found.items()}


def _usable(path: Path, name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path}: expected {name} to be an array, found something else")
    if array.dtype.type is np.void and array.dtype.itemsize == 2 and array.dtype.names is None:
        return array.view(dtypes.to_numpy("bfloat16"))  # NumPy's files have no name for it
    if not dtypes.is_known(array.dtype.name):
        raise UsageError(f"{path}: expected numbers or truth values in {name}, found the type {array.dtype}")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(array.shape)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a `.npz` file; `read_arrays` gives them back.

    Raises:
        CommandError: it can't be written.
    """
    try:
        with path.open("wb") as file:
            # By hand, because numpy.savez takes the names as arguments of its own.
            with zipfile.ZipFile(file, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as error:
        raise CommandError(f"{path}: can't be written: {error.strerror or error}") from error
