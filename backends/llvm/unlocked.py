"""Object code from several threads at a time: llvmlite's call that takes longest, without its lock.

llvmlite takes one lock around each call into LLVM, since its users may share LLVM objects between threads. Code
generation touches nothing but the module, the module's context and the target machine, and LLVM itself runs it in
parallel on that condition (so do its linkers). Everything else that is done with LLVM here is short, and stays locked.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite.utils import get_library_name

_EMIT = "LLVMPY_TargetMachineEmitToMemory"
_OBJECT_FILE = 1


def emit_object(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> bytes:
    """An object file of a module, as ``machine.emit_object(module)`` gives it.

    Args:
        module: of a context that no other thread uses.
        machine: made for this module alone.

    Raises:
        RuntimeError: LLVM can't generate code for it.
    """
    with llvm.ffi.OutputString() as error:
        buffer = _emit()(machine, module, _OBJECT_FILE, error)
        if not buffer:
            raise RuntimeError(str(error))
    library = llvm.ffi.lib
    try:
        return ctypes.string_at(library.LLVMPY_GetBufferStart(buffer), library.LLVMPY_GetBufferSize(buffer))
    finally:
        library.LLVMPY_DisposeMemoryBuffer(buffer)


@functools.cache
def _emit() -> Callable[..., Any]:
    """The function as the library exports it."""
    with importlib.resources.as_file(importlib.resources.files(llvm) / get_library_name()) as path:
        function = getattr(ctypes.CDLL(str(path)), _EMIT)  # the library is loaded already; this is another handle to it
    locked = getattr(llvm.ffi.lib, _EMIT)
    function.argtypes, function.restype = locked.argtypes, locked.restype
    return function
