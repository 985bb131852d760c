"""Links objects while the free address space is single pages and, gigabytes away, the rest. A process of its own."""

import ctypes
import mmap
import sys

from tilewright.backends.llvm import toolchain
from tilewright.backends.llvm.link import load

PAGE = mmap.PAGESIZE
NO_ACCESS, PRIVATE_ANONYMOUS_NORESERVE = 0, 0x4022
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def reserve(size: int) -> int:
    return libc.mmap(None, size, NO_ACCESS, PRIVATE_ANONYMOUS_NORESERVE, -1, 0)


def object_code(value: float) -> bytes:
    """A function that reads a table, so that its code and its data have to reach each other."""
    return toolchain.object_code(
        f"""
        @table = constant [2 x double] [double {value}, double 0.5]
        define double @f(i64 %i) {{
            %place = getelementptr [2 x double], ptr @table, i64 0, i64 %i
            %result = load double, ptr %place
            ret double %result
        }}""",
        features="",
    )


objects = [object_code(float(i)) for i in range(40)]
load(object_code(-1.0)).address("f")
pages = [reserve(PAGE) for _ in range(20_000)]
reserve(8 << 30)
for page in pages[1000:1062:2]:
    libc.munmap(page, PAGE)
for i, code in enumerate(objects):
    address = load(code).address("f")
    found = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)(address)(0)
    assert found == i, (found, i)
sys.stdout.write("linked\n")
