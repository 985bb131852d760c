"""Memory whose surroundings fault: one byte too far is a crash here, not a wrong number somewhere else.

Each buffer is an own mapping with inaccessible pages before and after. Its bytes either end right before the guard
behind them (``tail``) or start right after the guard before them (``head``); running a kernel in both layouts finds
accesses on either side. What alignment leaves between data and guard is filled with a pattern that is checked.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Layout = Literal["tail", "head"]

GUARD_BYTES = 1 << 20
_PAGE = mmap.PAGESIZE
_SLACK_BYTE = 0xA5
_PROT_NONE = 0
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value


@dataclass(frozen=True, slots=True)
class Region:
    """Where a buffer lies, for explaining a fault."""

    label: str
    address: int
    size: int
    readonly: bool


class GuardedBuffer:
    """One array between guard pages.

    Args:
        label: what a message calls it, e.g. ``output 0``.
        size: bytes of data.
        layout: which side touches its guard.
        alignment: of the data's address, a power of two no larger than a page.

    Raises:
        MemoryError: the process may not have that much memory.
    """

    def __init__(self, label: str, size: int, layout: Layout, alignment: int) -> None:
        """Map the memory; its contents are zero."""
        self.label = label
        self.size = size
        self._pages = max(_PAGE, -(-size // _PAGE) * _PAGE)
        self._mapped = self._pages + 2 * GUARD_BYTES
        self._start = _map(self._mapped)
        self._inner = self._start + GUARD_BYTES
        self._readonly = False
        try:
            _protect(self._inner, self._pages, _READ_WRITE)
        except MemoryError:
            self.close()
            raise
        gap = (self._pages - size) // alignment * alignment if layout == "tail" else 0
        self.address = self._inner + gap
        everything = _view(self._inner, self._pages)
        self.bytes = everything[gap : gap + size]
        self._slack = (everything[:gap], everything[gap + size :])
        for part in self._slack:
            part[:] = _SLACK_BYTE

    @property
    def region(self) -> Region:
        """Where it lies now."""
        return Region(self.label, self.address, self.size, self._readonly)

    def make_readonly(self) -> None:
        """Let every later store to the buffer fault."""
        _protect(self._inner, self._pages, mmap.PROT_READ)
        self._readonly = True

    def array(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The data as an array (no copy)."""
        return self.bytes.view(dtype).reshape(shape)

    def slack_intact(self) -> bool:
        """Whether nothing was stored between the data and its guards."""
        return all(bool((part == _SLACK_BYTE).all()) for part in self._slack)

    def close(self) -> None:
        """Unmap; arrays of this buffer must not be used any more."""
        if self._start:
            _libc.munmap(self._start, self._mapped)
            self._start = 0


def close_all(buffers: Iterable[GuardedBuffer]) -> None:
    """Unmap several buffers."""
    for buffer in buffers:
        buffer.close()


def _map(size: int) -> int:
    """Reserve inaccessible memory."""
    address = _libc.mmap(None, size, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, _MAP_FAILED):
        raise MemoryError(f"{size} bytes refused: {errno.errorcode.get(ctypes.get_errno(), 'unknown error')}")
    return address


def _protect(address: int, size: int, protection: int) -> None:
    if _libc.mprotect(address, size, protection) != 0:
        raise MemoryError(f"{size} bytes refused: {errno.errorcode.get(ctypes.get_errno(), 'unknown error')}")


def _view(address: int, size: int) -> np.ndarray:
    """Memory as bytes, without owning it."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
