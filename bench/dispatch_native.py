"""What a native call costs apart from its kernels: dispatch, barriers, and how evenly two threads share the work.

Run: ``python -m tilewright.bench.dispatch_native``
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..backends.llvm.ffi import bind_plan
from ..backends.llvm.kernel import Kernel
from ..backends.llvm.toolchain import object_code
from ..ir.graph import TensorType
from ..ir.loop import Buffer
from ..ir.plan import ExecPlan, Slot, Stage

_SIZE = 16
_TYPE = TensorType((_SIZE,), "float32")
_BUFFERS = (Buffer("x", (_SIZE,), "float32"), Buffer("y", (_SIZE,), "float32"))

# Per unit of the parallel range: `rounds` dependent multiplications, which no cache or memory can disturb.
_BUSY = """
define void @{symbol}(ptr %bufs, i64 %lo, i64 %hi, ptr %scratch) {{
entry:
  %units = sub i64 %hi, %lo
  %rounds = mul i64 %units, {rounds}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %more ]
  %v = phi float [ 1.0, %entry ], [ %w, %more ]
  %c = icmp ult i64 %i, %rounds
  br i1 %c, label %more, label %done
more:
  %w = fmul float %v, 0x3FF0000020000000
  %next = add i64 %i, 1
  br label %loop
done:
  %out_at = getelementptr ptr, ptr %bufs, i64 1
  %out = load ptr, ptr %out_at
  %to = getelementptr float, ptr %out, i64 %lo
  store float %v, ptr %to
  ret void
}}
"""


def _kernel(extent: int, rounds: int) -> Kernel:
    symbol = f"busy_{extent}_{rounds}"
    code = object_code(_BUSY.format(symbol=symbol, rounds=rounds), features="")
    return Kernel(symbol, code, extent, 0, _BUFFERS, 1)


def _plan(kernel: Kernel, stages: int, chunks: int) -> ExecPlan:
    stage = Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), kernel.extent, chunks)
    return ExecPlan((_TYPE,), (_TYPE,), (), 0, (stage,) * stages)


def _jitted(kernel: Kernel, stages: int, chunks: int) -> Callable[[jax.Array], jax.Array]:
    call = bind_plan(_plan(kernel, stages, chunks), {kernel.symbol: kernel})
    return jax.jit(lambda x: call(x)[0])


def _times(functions: dict[str, Callable[[jax.Array], jax.Array]], repeats: int) -> dict[str, np.ndarray]:
    """Microseconds of each call, the functions taking turns."""
    x = jnp.ones(_SIZE, jnp.float32)
    for function in functions.values():
        jax.block_until_ready(function(x))
    times = {name: np.empty(repeats) for name in functions}
    for repeat in range(repeats):
        for name, function in functions.items():
            # Twice, so that the measured call finds the caches and threads as its own kind left them.
            jax.block_until_ready(function(x))
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            times[name][repeat] = (time.perf_counter() - start) * 1e6
    return times


def _show(title: str, times: dict[str, np.ndarray]) -> None:
    print(f"\n{title}\n{'microseconds':34}{'p5':>9}{'median':>9}{'p75':>9}{'p95':>9}{'max':>9}")
    for name, values in times.items():
        figures = [*np.percentile(values, [5, 50, 75, 95]), values.max()]
        print(f"{name:34}" + "".join(f"{figure:9.1f}" for figure in figures))


def main() -> None:
    """Print the three tables."""
    print(f"jax {jax.__version__}, {os.cpu_count()} processors")
    trivial = _kernel(2, 0)
    calls = {
        "jax.jit(x + 1)": jax.jit(lambda x: x + 1),
        "1 stage, 1 chunk": _jitted(trivial, 1, 1),
        "1 stage, 2 chunks": _jitted(trivial, 1, 2),
        "50 stages, 1 chunk": _jitted(trivial, 50, 1),
        "50 stages, 2 chunks": _jitted(trivial, 50, 2),
        "550 stages, 2 chunks": _jitted(trivial, 550, 2),
    }
    times = _times(calls, 2000)
    _show("Trivial kernels", times)
    difference = np.median(times["550 stages, 2 chunks"]) - np.median(times["50 stages, 2 chunks"])
    print(f"a stage of 2 chunks costs {difference / 500:.3f} us")

    busy = _kernel(16, 5000)
    calls = {
        "50 stages, 1 chunk": _jitted(busy, 50, 1),
        "50 stages, 2 chunks": _jitted(busy, 50, 2),
        "50 stages, 4 chunks": _jitted(busy, 50, 4),
        "50 stages, 16 chunks": _jitted(busy, 50, 16),
    }
    _show("Compute-bound kernels (the first row is one thread)", _times(calls, 300))


if __name__ == "__main__":
    main()
