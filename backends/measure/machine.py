"""The machine's limits, measured in a few seconds with generated kernels: multiply-add peak and bandwidths."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import llvmlite.binding as llvm
import numpy as np

from ...ir.target import Target, detect_target

_MIB = 2**20
_LANE_BYTES = 4
# Independent multiply-adds in flight: more than latency times units of today's cores, few enough for 16 registers.
_CHAINS = 12
_UNROLL = 8  # vectors per iteration of the memory kernels
_ATTEMPTS = 5  # a limit is the best of these
_ATTEMPT_S = 0.02
_MEMORY_BYTES = 256 * _MIB


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """What the machine can do at most, as measured.

    Attributes:
        vector_bits: Width of the vectors that were used.
        threads: How many threads `all` means.
        fma_gflops_one: float32 multiply-add rate of one thread, in GFLOP/s (two per multiply-add).
        fma_gflops_all: The same of all threads together.
        read_gbs_one: Rate of reading memory with one thread, in GB/s (10**9 bytes).
        read_gbs_all: The same with all threads, each in memory of its own.
        copy_gbs_one: Rate of copying memory with one thread, bytes read plus bytes written.
        copy_gbs_all: The same with all threads.
        l2_gbs_one: Rate of one thread reading its second-level cache.
        l3_gbs_one: Rate of one thread reading the last-level cache.
        l3_gbs_all: The same with all threads.
    """

    vector_bits: int
    threads: int
    fma_gflops_one: float
    fma_gflops_all: float
    read_gbs_one: float
    read_gbs_all: float
    copy_gbs_one: float
    copy_gbs_all: float
    l2_gbs_one: float
    l3_gbs_one: float
    l3_gbs_all: float

    def applied_to(self, target: Target) -> Target:
        """The target with measured instead of estimated speed limits; its fingerprint stays the same."""
        return replace(
            target,
            fma_gflops_per_thread=self.fma_gflops_all / self.threads,
            bandwidth_gbs=self.read_gbs_all,
        )


def measure_limits(target: Target | None = None) -> MachineLimits:
    """Measure the limits; takes about three seconds on an idle machine, and reads low on a busy one.

    Args:
        target: What instructions and how many threads to use, by default all of the host's.

    Returns:
        The best of a few attempts for each limit.
    """
    target = target or detect_target()
    kernels = _Kernels(target)
    one, every = 1, target.threads
    memory = np.ones(max(_MEMORY_BYTES, 4 * target.l3_bytes) // _LANE_BYTES, np.float32)
    copied = np.ones_like(memory)
    l2, l3 = memory[: target.l2_bytes // 2 // _LANE_BYTES], memory[: target.l3_bytes // 2 // _LANE_BYTES]
    return MachineLimits(
        vector_bits=target.vector_bits,
        threads=every,
        fma_gflops_one=kernels.fma_gflops(one),
        fma_gflops_all=kernels.fma_gflops(every),
        read_gbs_one=kernels.read_gbs(memory, one),
        read_gbs_all=kernels.read_gbs(memory, every),
        copy_gbs_one=kernels.copy_gbs(copied, memory, one),
        copy_gbs_all=kernels.copy_gbs(copied, memory, every),
        l2_gbs_one=kernels.read_gbs(l2, one),
        l3_gbs_one=kernels.read_gbs(l3, one),
        l3_gbs_all=kernels.read_gbs(l3, every),
    )


class _Kernels:
    """The compiled kernels of one target, and how to time them."""

    def __init__(self, target: Target) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=target.llvm_cpu, features=target.features, opt=2, jit=True
        )
        lanes = target.vector_bits // 32
        module = llvm.parse_assembly(
            _fma_text(lanes, fused=bool({"fma", "neon"} & target.feature_set)) + _read_text(lanes) + _copy_text(lanes)
        )
        # Kept alive for as long as its code may run.
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._lanes = lanes
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._fma = self._function("fma", count, pointer)
        self._read = self._function("read", count, count, pointer, pointer)
        self._copy = self._function("copy", count, count, pointer, pointer)

    def _function(self, name: str, *types: type) -> Callable[..., None]:
        return ctypes.CFUNCTYPE(None, *types)(self._engine.get_function_address(name))

    def fma_gflops(self, threads: int) -> float:
        """Multiply-add rate of that many threads together."""
        buffers = [np.full((_CHAINS + 2) * self._lanes, 0.5, np.float32) for _ in range(threads)]

        def seconds(count: int) -> float:
            return _run([lambda b=b: self._fma(count, b.ctypes.data) for b in buffers])

        count = _enough(seconds)
        flops = 2 * count * _CHAINS * self._lanes * threads
        return flops / min(seconds(count) for _ in range(_ATTEMPTS)) / 1e9

    def read_gbs(self, data: np.ndarray, threads: int) -> float:
        """Rate at which that many threads read their parts of the data again and again."""
        parts = self._parts(data, threads)
        sinks = [np.zeros(self._lanes, np.float32) for _ in parts]

        def seconds(count: int) -> float:
            return _run(
                [
                    lambda p=p, s=s: self._read(count, p.nbytes, p.ctypes.data, s.ctypes.data)
                    for p, s in zip(parts, sinks, strict=True)
                ]
            )

        count = _enough(seconds)
        moved = count * sum(part.nbytes for part in parts)
        return moved / min(seconds(count) for _ in range(_ATTEMPTS)) / 1e9

    def copy_gbs(self, into: np.ndarray, data: np.ndarray, threads: int) -> float:
        """Rate at which that many threads copy their parts, bytes read plus bytes written."""
        pairs = list(zip(self._parts(into, threads), self._parts(data, threads), strict=True))

        def seconds(count: int) -> float:
            return _run([lambda i=i, d=d: self._copy(count, d.nbytes, i.ctypes.data, d.ctypes.data) for i, d in pairs])

        count = _enough(seconds)
        moved = 2 * count * sum(part.nbytes for _, part in pairs)
        return moved / min(seconds(count) for _ in range(_ATTEMPTS)) / 1e9

    def _parts(self, data: np.ndarray, threads: int) -> list[np.ndarray]:
        """Equal parts, each a whole number of the kernels' iterations."""
        step = self._lanes * _UNROLL
        size = data.size // threads // step * step
        return [data[index * size : (index + 1) * size] for index in range(threads)]


def _run(calls: Sequence[Callable[[], None]]) -> float:
    """Seconds from the common start of the calls, each in a thread and on a core of its own, to the end of the last."""
    if len(calls) == 1:
        start = time.perf_counter()
        calls[0]()
        return time.perf_counter() - start
    gate = threading.Barrier(len(calls))
    starts, ends = [0.0] * len(calls), [0.0] * len(calls)

    def work(index: int) -> None:
        _stay(index)
        gate.wait()
        starts[index] = time.perf_counter()
        calls[index]()  # foreign code runs without the interpreter lock
        ends[index] = time.perf_counter()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(ends) - min(starts)


def _stay(index: int) -> None:
    """Keep the calling thread on one core: the system may put a woken one beside its waker and leave it there."""
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[index % len(usable)]})


def _enough(seconds: Callable[[int], float]) -> int:
    """A repetition count that takes about `_ATTEMPT_S`; one interruption does not pass for work."""
    count = 1
    while (elapsed := min(seconds(count), seconds(count))) < _ATTEMPT_S / 4:
        count *= 4
    return max(1, round(count * _ATTEMPT_S / elapsed))


def _fma_text(lanes: int, fused: bool) -> str:
    """`fma(count, data)`: `_CHAINS` independent chains of `count` multiply-adds; operands and results in `data`."""
    vector, size = f"<{lanes} x float>", lanes * _LANE_BYTES
    phis, steps, stores = [], [], []
    for i in range(_CHAINS):
        phis.append(f"  %x{i} = phi {vector} [ %b, %entry ], [ %y{i}, %loop ]")
        if fused:
            steps.append(f"  %y{i} = call {vector} @llvm.fma.v{lanes}f32({vector} %x{i}, {vector} %a, {vector} %b)")
        else:
            steps += [f"  %m{i} = fmul {vector} %x{i}, %a", f"  %y{i} = fadd {vector} %m{i}, %b"]
        stores += [
            f"  %p{i} = getelementptr i8, ptr %data, i64 {(i + 2) * size}",
            f"  store {vector} %y{i}, ptr %p{i}, align 4",
        ]
    body = "\n".join(phis + steps)
    return f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @fma(i64 %count, ptr %data) {{
entry:
  %a = load {vector}, ptr %data, align 4
  %second = getelementptr i8, ptr %data, i64 {size}
  %b = load {vector}, ptr %second, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{body}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
{chr(10).join(stores)}
  ret void
}}
"""


def _read_text(lanes: int) -> str:
    """`read(count, bytes, data, sink)`: read all the data `count` times, combine it into `sink`."""
    vector, size = f"<{lanes} x i32>", lanes * _LANE_BYTES
    body = []
    for i in range(_UNROLL):
        body += [
            f"  %q{i} = getelementptr i8, ptr %p, i64 {i * size}",
            f"  %v{i} = load {vector}, ptr %q{i}, align 4",
            f"  %n{i} = xor {vector} %s{i}, %v{i}",
        ]
    phis = [f"  %s{i} = phi {vector} [ zeroinitializer, %again ], [ %n{i}, %loop ]" for i in range(_UNROLL)]
    folds = ["  %f0 = load " + f"{vector}, ptr %sink, align 4"]
    folds += [f"  %f{i + 1} = xor {vector} %f{i}, %n{i}" for i in range(_UNROLL)]
    folds.append(f"  store {vector} %f{_UNROLL}, ptr %sink, align 4")
    return _sweep_text("read", "sink", phis, body, folds, size)


def _copy_text(lanes: int) -> str:
    """`copy(count, bytes, into, data)`: copy all the data `count` times."""
    vector, size = f"<{lanes} x i32>", lanes * _LANE_BYTES
    body = ["  %o = getelementptr i8, ptr %into, i64 %i"]
    for i in range(_UNROLL):
        body += [
            f"  %q{i} = getelementptr i8, ptr %p, i64 {i * size}",
            f"  %v{i} = load {vector}, ptr %q{i}, align 4",
            f"  %w{i} = getelementptr i8, ptr %o, i64 {i * size}",
            f"  store {vector} %v{i}, ptr %w{i}, align 4",
        ]
    return _sweep_text("copy", "into", [], body, [], size)


def _sweep_text(name: str, other: str, phis: list[str], body: list[str], end: list[str], size: int) -> str:
    """A function that sweeps over the data `count` times; `%i` is the byte offset and `%p` the address."""
    parameters = "ptr %data, ptr %sink" if other == "sink" else f"ptr %{other}, ptr %data"
    lines = "\n".join([*phis, "  %p = getelementptr i8, ptr %data, i64 %i", *body])
    return f"""
define void @{name}(i64 %count, i64 %bytes, {parameters}) {{
entry:
  br label %again
again:
  %r = phi i64 [ 0, %entry ], [ %following, %swept ]
  br label %loop
loop:
  %i = phi i64 [ 0, %again ], [ %next, %loop ]
{lines}
  %next = add i64 %i, {size * _UNROLL}
  %more = icmp slt i64 %next, %bytes
  br i1 %more, label %loop, label %swept
swept:
{chr(10).join(end)}
  %following = add i64 %r, 1
  %repeat = icmp slt i64 %following, %count
  br i1 %repeat, label %again, label %done
done:
  ret void
}}
"""
