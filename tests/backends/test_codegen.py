"""Generated code against the interpreter: random traces, all sketches, tails, guards, and memory that must not be touched.

Every buffer ends right before a page that can't be read (and begins right after one), so that a vector that reaches
too far ends the process instead of going unnoticed.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections import Counter

import numpy as np
import pytest
from tilewright.backends.llvm.codegen import compile_kernel, kernel_ir
from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.link import load
from tilewright.backends.llvm.memory import CodegenError
from tilewright.ir import dtypes
from tilewright.ir.affine import constant, var
from tilewright.ir.interp import interpret
from tilewright.ir.loop import (
    Access,
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    For,
    If,
    IndexValue,
    Iter,
    LoopFunc,
    Read,
    seq,
)
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, Step, Trace, replay
from tilewright.search.sketch import Sketch, sketches
from traces import Traces
from workloads import CASES, Sample, assert_same, sample, samples

PAGE = mmap.PAGESIZE
_NONE, _READ, _BOTH = 0, 1, 3
_POISON = 0xA5
HOST = detect_target()


def _targets():
    found = {}
    for name in ("avx512", "avx2", "sse2"):
        try:
            found[name] = HOST.restricted(name)
        except ValueError:
            continue
    return found or {"host": HOST}


TARGETS = _targets()
WIDE = next(iter(TARGETS.values()))

# ---- memory with pages around it that can't be touched

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


def run_native(kernel: Kernel, arrays: list[np.ndarray], parts: int = 1) -> list[np.ndarray]:
    """Run a kernel in ``parts`` ranges, the last one first; its inputs can't be written, its outputs begin as poison."""
    count = len(kernel.params) - kernel.num_outputs
    held = [Guarded(b.shape, dtypes.to_numpy(b.dtype), 64 if b.scope == "constant" else 1) for b in kernel.params]
    for memory, array in zip(held, arrays, strict=False):
        memory.array[...] = array
        memory.forbid_writing()
    for memory in held[count:]:
        kind = memory.array.dtype.kind
        memory.array[...] = np.nan if kind == "f" else kind == "b" or _odd(memory.array.dtype)
    scratch = Guarded((-(-kernel.scratch_bytes // 64) * 64,), np.dtype(np.uint8), 64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(
        load(kernel.object_code).address(kernel.symbol)
    )
    pointers = (ctypes.c_void_p * len(held))(*(h.address for h in held))
    cuts = np.linspace(0, kernel.extent, parts + 1).astype(int)
    for low, high in reversed(list(itertools.pairwise(cuts))):
        scratch.array[:] = _POISON  # what another range left behind must not matter
        call(ctypes.addressof(pointers), int(low), int(high), scratch.address)
    outputs = [memory.array.copy() for memory in held[count:]]
    assert all([memory.close() for memory in (*held, scratch)]), "memory beside a buffer was written"
    return outputs


def _odd(dtype: np.dtype) -> int:
    return int(np.frombuffer(bytes([_POISON]) * dtype.itemsize, dtype)[0])


def check(func: LoopFunc, arrays: list[np.ndarray], exact: bool, what: str, target=WIDE, parts: int = 3) -> None:
    """Compile, run, and compare with the interpreter."""
    wanted = interpret(func, arrays)
    kernel = compile_kernel(func, target)
    for got, want in zip(run_native(kernel, arrays, parts), wanted, strict=True):
        assert_same(got, want, exact, what)


def text(trace: Trace) -> str:
    return ", ".join(map(str, trace))


# ---- random traces

ROUNDS = {"avx512": 2, "avx2": 1, "sse2": 1, "host": 2}
FULL_ROUNDS = 25


@pytest.mark.parametrize("name", TARGETS)
def test_random_traces_run_as_interpreted(name, request):
    traces = Traces(seed=len(name))
    rounds = FULL_ROUNDS if request.config.getoption("--full") else ROUNDS[name]
    outcome: Counter[str] = Counter()
    for number in range(rounds):
        for lowered in samples(special=number % 2 == 1):
            trace, scheduled = traces.draw(lowered.func, 12)
            try:
                compile_kernel(scheduled, TARGETS[name])
            except CodegenError as error:
                outcome["refused"] += 1
                assert "expected" in str(error)
                continue
            outcome["ran"] += 1
            what = f"{lowered.case.name} for {name}: {text(trace)}"
            check(scheduled, lowered.arguments(scheduled), lowered.case.exact, what, TARGETS[name])
    assert outcome["ran"] > 3 * outcome["refused"], outcome


# ---- sketches


def _decisions(sketch: Sketch, rng: np.random.Generator, most: int) -> list[dict[str, int | str]]:
    """The default, then other points, all of them if there are no more than ``most``."""
    points = [dict(zip(sketch.choices, p, strict=True)) for p in itertools.product(*sketch.choices.values())]
    if len(points) > most:
        points = [points[int(n)] for n in rng.permutation(len(points))[:most]]
    return [dict(sketch.default), *points]


def _check_sketches(lowered: Sample, target, what: str, rng: np.random.Generator, most: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, sketch in enumerate(sketches(lowered.func, target)):
        for point in _decisions(sketch, rng, most):
            trace = sketch.build(point)
            said = f"{what} {sketch.name} {point}"
            try:
                scheduled = replay(lowered.func, trace)
                verify(scheduled)
                check(scheduled, lowered.arguments(scheduled), lowered.case.exact, said, target)
                counts["ran"] += 1
            except (ScheduleError, CodegenError) as error:
                default = number == 0 and point == dict(sketch.default)
                assert not default or "fused multiply-add" in str(error), f"the default was refused: {said}: {error}"
                counts["refused"] += 1
    return counts


@pytest.mark.parametrize("name", TARGETS)
def test_sketches_of_odd_shapes_run_as_interpreted(name, rng, request):
    most = 10_000 if request.config.getoption("--full") else 3
    counts: Counter[str] = Counter()
    for lowered in samples():
        counts += _check_sketches(lowered, TARGETS[name], f"{lowered.case.name} for {name}", rng, most)
    assert counts["ran"] > 5 * counts["refused"], counts
