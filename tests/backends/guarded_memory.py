"""Runs kernels in memory with pages around every buffer that can't be touched; helpers that tests share."""

from __future__ import annotations

import ctypes
import itertools
import mmap

import numpy as np

from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.link import load
from tilewright.ir import dtypes

PAGE = mmap.PAGESIZE
_NONE, _READ, _BOTH = 0, 1, 3
_POISON = 0xA5
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """An array that ends right before a forbidden page, or as close to it as its alignment allows."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, align: int) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        pages = max(1, -(-size // PAGE))
        self._length = (pages + 2) * PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._start = _libc.mmap(None, self._length, _BOTH, flags, -1, 0)
        first, end = self._start + PAGE, self._start + PAGE + pages * PAGE
        _libc.mprotect(self._start, PAGE, _NONE)
        _libc.mprotect(end, PAGE, _NONE)
        self._pages = (first, pages * PAGE)
        self.address = (end - size) // align * align
        memory = (ctypes.c_char * size).from_address(self.address)
        self.array = np.frombuffer(memory, dtype).reshape(shape)
        self._spare = np.frombuffer((ctypes.c_char * (pages * PAGE)).from_address(first), np.uint8)
        self._spare[:] = _POISON
        self._inside = slice(self.address - first, self.address - first + size)

    def forbid_writing(self) -> None:
        _libc.mprotect(*self._pages, _READ)

    def close(self) -> bool:
        """Whether the bytes around the array are as they were; gives the memory back."""
        untouched = self._spare.copy()
        untouched[self._inside] = _POISON
        del self.array, self._spare
        _libc.munmap(self._start, self._length)
        return bool((untouched == _POISON).all())


def run_native(
    kernel: Kernel, arrays: list[np.ndarray], parts: int = 1, in_place: int | None = None
) -> list[np.ndarray]:
    """Run a kernel in ``parts`` ranges, the last first; its inputs can't be written, its outputs begin as poison.

    With ``in_place`` the result is written over the parameter of that number.
    """
    count = len(kernel.params) - kernel.num_outputs
    held = [Guarded(b.shape, dtypes.to_numpy(b.dtype), 64 if b.scope == "constant" else 1) for b in kernel.params]
    for memory, array in zip(held, arrays, strict=False):
        memory.array[...] = array
        memory.forbid_writing()
    if in_place is not None:
        held[in_place].close()
        held[in_place] = held[-1]
        held[-1].array[...] = arrays[in_place].reshape(held[-1].array.shape)
    for memory in held[count:] if in_place is None else ():
        kind = memory.array.dtype.kind
        memory.array[...] = np.nan if kind == "f" else kind == "b" or _odd(memory.array.dtype)
    scratch = Guarded((-(-kernel.scratch_bytes // 64) * 64,), np.dtype(np.uint8), 64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(
        load(kernel.object_code).address(kernel.symbol)
    )
    ahead = (held[0].address, held[0].address + held[0].array.nbytes)
    pointers = (ctypes.c_void_p * (len(held) + 2))(*(h.address for h in held), *ahead)
    cuts = np.linspace(0, kernel.extent, parts + 1).astype(int)
    for low, high in reversed(list(itertools.pairwise(cuts))):
        scratch.array[:] = _POISON  # what another range left behind must not matter
        call(ctypes.addressof(pointers), int(low), int(high), scratch.address)
    outputs = [memory.array.copy() for memory in held[count:]]
    assert all([memory.close() for memory in {*held, scratch}]), "memory beside a buffer was written"
    return outputs


def _odd(dtype: np.dtype) -> int:
    return int(np.frombuffer(bytes([_POISON]) * dtype.itemsize, dtype)[0])
