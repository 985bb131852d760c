"""Kernels of traces, built once per process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ..backends.llvm.codegen import CODEGEN_VERSION, compile_kernel
from ..backends.llvm.kernel import Kernel
from ..backends.llvm.memory import CodegenError
from ..backends.llvm.toolchain import ToolchainError
from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import ScheduleError, Trace, replay

BACKEND = f"llvm-{CODEGEN_VERSION}"
"""Name under which the database keeps results of this code generator."""

BuildError = (ScheduleError, CodegenError, ToolchainError)
"""What a trace may be refused with."""

_lock = threading.Lock()
_built: dict[tuple[str, Trace, str], Kernel] = {}


def build_kernel(key: str, func: LoopFunc, trace: Trace, target: Target) -> Kernel:
    """The kernel of a workload under a trace.

    Args:
        key: digest of the workload.
        func: the workload.
        trace: its schedule.
        target: the CPU.

    Raises:
        BuildError: the trace is refused, or no code can be generated for it.
    """
    identity = (key, trace, target.fingerprint)
    with _lock:
        known = _built.get(identity)
    if known is not None:
        return known
    kernel = compile_kernel(replay(func, trace), target)
    with _lock:
        return _built.setdefault(identity, kernel)


def build_all(
    items: Iterable[tuple[str, LoopFunc, Trace]], target: Target
) -> dict[tuple[str, Trace], Kernel | Exception]:
    """Build kernels on all cores; a refusal is returned in the kernel's place."""

    def one(item: tuple[str, LoopFunc, Trace]) -> Kernel | Exception:
        try:
            return build_kernel(*item, target)
        except BuildError as error:
            return error

    wanted = list(items)
    with ThreadPoolExecutor(max(target.threads, 1)) as pool:
        return {(k, t): built for (k, _, t), built in zip(wanted, pool.map(one, wanted), strict=True)}
