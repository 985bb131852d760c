"""Object code into the running process.

Each object becomes a library of its own in one LLVM ORC session, so that equal symbol names in different objects don't
meet, and an undefined symbol is an exception (LLVM's older MCJIT would end the process). Code is never unloaded: a
thread pool may still hold a task of it long after the last Python reference is gone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import threading
from collections.abc import Mapping
from types import MappingProxyType

import llvmlite.binding as llvm

_lock = threading.Lock()
_libraries: dict[str, Library] = {}
_NOTHING: Mapping[str, int] = MappingProxyType({})


class LinkError(RuntimeError):
    """Object code can't be loaded, or lacks a symbol."""


class Library:
    """Loaded object code. Made by `load` only; lives as long as the process."""

    def __init__(self, name: str) -> None:
        """Describe the already linked library of that name."""
        self._name = name
        self._addresses: dict[str, int] = {}

    def address(self, symbol: str) -> int:
        """Address of a defined symbol.

        Raises:
            LinkError: the object does not define it, or it needs a symbol that the process does not have.
        """
        with _lock:
            if symbol not in self._addresses:
                self._addresses[symbol] = self._look_up(symbol)
            return self._addresses[symbol]

    def _look_up(self, symbol: str) -> int:
        try:
            tracker = _session().lookup(self._name, symbol)
        except RuntimeError as error:
            raise LinkError(f"can't link symbol {symbol!r}: {error}") from error
        tracker.detach()
        return tracker[symbol]


def digest(object_code: bytes) -> str:
    """Content digest of object code: 32 hexadecimal digits."""
    return hashlib.blake2b(object_code, digest_size=16).hexdigest()


def load(object_code: bytes, imports: Mapping[str, int] = _NOTHING) -> Library:
    """Load object code, or return what was loaded from equal bytes before. Safe to call from any thread.

    Args:
        object_code: a relocatable object file for this machine.
        imports: addresses of symbols that the object leaves undefined.

    Returns:
        The library; other undefined symbols are taken from the process (libc and libm).

    Raises:
        LinkError: the bytes are not an object file for this machine.
    """
    key = "-".join([digest(object_code), *(f"{name}.{address:x}" for name, address in sorted(imports.items()))])
    with _lock:
        if key not in _libraries:
            _libraries[key] = _link(object_code, imports, f"tilewright-{key}")
        return _libraries[key]


def _link(object_code: bytes, imports: Mapping[str, int], name: str) -> Library:
    builder = llvm.JITLibraryBuilder().add_object_img(object_code).add_current_process()
    for symbol, address in imports.items():
        builder.import_symbol(symbol, address)
    try:
        tracker = builder.link(_session(), name)
    except RuntimeError as error:
        raise LinkError(f"can't load object code of {len(object_code)} bytes: {error}") from error
    tracker.detach()
    return Library(name)


@functools.cache
def _session() -> llvm.LLJIT:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # JITLink places all sections of an object side by side. LLVM's older linker may put code and constants further
    # apart than a relative address reaches, which ends the process.
    session = llvm.create_lljit_compiler(use_jit_link=True)
    # One reference too many, so that not even interpreter shutdown unmaps code that another thread may be running.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    return session
