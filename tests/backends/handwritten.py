"""Kernels written by hand in LLVM IR, and plans made of them, for testing the runtime without the code generator."""

from __future__ import annotations

import numpy as np

from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.toolchain import object_code
from tilewright.ir import dtypes
from tilewright.ir.graph import TensorType
from tilewright.ir.loop import Buffer
from tilewright.ir.plan import ExecPlan, Slot, Stage

_LOOP = """
{declarations}
define void @{symbol}(ptr %bufs, i64 %lo, i64 %hi, ptr %scratch) {{
entry:
{pointers}
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %more ]
  %c = icmp slt i64 %i, %hi
  br i1 %c, label %more, label %done
more:
{body}
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}}
"""


def loop_kernel(
    symbol: str,
    params: tuple[Buffer, ...],
    extent: int,
    body: str,
    scratch: int = 0,
    declarations: str = "",
    in_place: tuple[int, ...] = (),
) -> Kernel:
    """A kernel that executes `body` for each %i of its range; parameter k is at %pk."""
    pointers = "\n".join(
        f"  %at{k} = getelementptr ptr, ptr %bufs, i64 {k}\n  %p{k} = load ptr, ptr %at{k}" for k in range(len(params))
    )
    text = _LOOP.format(symbol=symbol, pointers=pointers, body=body, declarations=declarations)
    return Kernel(symbol, object_code(text, features=""), extent, scratch, params, 1, in_place)


def _floats(*names: str, n: int) -> tuple[Buffer, ...]:
    return tuple(Buffer(name, (n,), "float32") for name in names)


def scale(n: int, factor: float = 2.0) -> Kernel:
    """Make y = x * factor."""
    body = f"""
  %from = getelementptr float, ptr %p0, i64 %i
  %v = load float, ptr %from
  %w = fmul float %v, {factor}
  %to = getelementptr float, ptr %p1, i64 %i
  store float %w, ptr %to"""
    return loop_kernel(f"scale_{n}_{int(factor * 1000)}", _floats("x", "y", n=n), n, body)


def rotate(n: int) -> Kernel:
    """Make y[i] = x[(i + 1) % n] + 1: every chunk reads what another chunk of the stage before wrote."""
    body = f"""
  %j = add i64 %i, 1
  %end = icmp eq i64 %j, {n}
  %k = select i1 %end, i64 0, i64 %j
  %from = getelementptr float, ptr %p0, i64 %k
  %v = load float, ptr %from
  %w = fadd float %v, 1.0
  %to = getelementptr float, ptr %p1, i64 %i
  store float %w, ptr %to"""
    return loop_kernel(f"rotate_{n}", _floats("x", "y", n=n), n, body)


def rotated(x: np.ndarray, stages: int) -> np.ndarray:
    """What a chain of `rotate` gives."""
    for _ in range(stages):
        x = np.roll(x, -1) + np.float32(1)
    return x


def increment(n: int) -> Kernel:
    """Make y = x + 1; run in place it counts how often each element was visited."""
    body = """
  %from = getelementptr float, ptr %p0, i64 %i
  %v = load float, ptr %from
  %w = fadd float %v, 1.0
  %to = getelementptr float, ptr %p1, i64 %i
  store float %w, ptr %to"""
    return loop_kernel(f"increment_{n}", _floats("x", "y", n=n), n, body, in_place=(0,))


def negative(n: int) -> Kernel:
    """Make y[0] = x[0] < 0, a boolean."""
    body = """
  %v = load float, ptr %p0
  %below = fcmp olt float %v, 0.0
  %byte = zext i1 %below to i8
  store i8 %byte, ptr %p1"""
    params = (Buffer("x", (n,), "float32"), Buffer("y", (), "bool"))
    return loop_kernel(f"negative_{n}", params, 1, body)


def saxpy(n: int) -> Kernel:
    """Make y = a * x + b with arrays a, x, b."""
    loads = "\n".join(
        f"  %f{k} = getelementptr float, ptr %p{k}, i64 %i\n  %v{k} = load float, ptr %f{k}" for k in range(3)
    )
    body = f"""{loads}
  %m = fmul float %v0, %v1
  %w = fadd float %m, %v2
  %to = getelementptr float, ptr %p3, i64 %i
  store float %w, ptr %to"""
    return loop_kernel(f"saxpy_{n}", _floats("a", "x", "b", "y", n=n), n, body)


def through_scratch(n: int) -> Kernel:
    """Make y = x by way of one scratch cell, written and read back with a delay: shared scratch would show."""
    body = """
  %from = getelementptr float, ptr %p0, i64 %i
  %v = load float, ptr %from
  store volatile float %v, ptr %scratch
  call void @llvm.x86.sse2.pause()
  %w = load volatile float, ptr %scratch
  %to = getelementptr float, ptr %p1, i64 %i
  store float %w, ptr %to"""
    return loop_kernel(
        f"through_scratch_{n}", _floats("x", "y", n=n), n, body, 4, "declare void @llvm.x86.sse2.pause()"
    )


def float_state() -> Kernel:
    """Make y = the control register of the SSE unit while the kernel runs."""
    body = "  call void @llvm.x86.sse.stmxcsr(ptr %p0)"
    params = (Buffer("y", (1,), "int32"),)
    return loop_kernel("float_state", params, 1, body, 0, "declare void @llvm.x86.sse.stmxcsr(ptr)")


def copy_bytes(dtype: str, n: int) -> Kernel:
    """Make y = x for any element type, byte by byte."""
    body = f"""
  %start = mul i64 %i, {dtypes.itemsize(dtype)}
  %from = getelementptr i8, ptr %p0, i64 %start
  %to = getelementptr i8, ptr %p1, i64 %start
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 {dtypes.itemsize(dtype)}, i1 false)"""
    params = (Buffer("x", (n,), dtype), Buffer("y", (n,), dtype))
    declaration = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
    return loop_kernel(f"copy_{dtype}_{n}", params, n, body, 0, declaration)


def chain(kernel: Kernel, stages: int, chunks: int | list[int]) -> ExecPlan:
    """`stages` times a kernel of one input and one output, by way of two arena buffers."""
    x = kernel.params[0]
    cuts = [chunks] * stages if isinstance(chunks, int) else chunks
    room = -(-4 * x.shape[0] // 64) * 64
    places = [Slot("input", 0), *(Slot("arena", room * (k % 2)) for k in range(stages - 1)), Slot("output", 0)]
    calls = tuple(Stage(kernel.symbol, (places[k], places[k + 1]), kernel.extent, cuts[k]) for k in range(stages))
    kind = TensorType(x.shape, x.dtype)
    return ExecPlan((kind,), (kind,), (), 2 * room, calls)
