"""What loops cost, by prediction: inside a plan, and as XLA runs them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..backends.llvm.kernel import Kernel
from ..costmodel.features import DISPATCH_S
from ..costmodel.roofline import predict_native
from ..costmodel.xla import predict_xla_loop
from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import Trace
from ..search.contest import chunk_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .loops import Loop
    from .planning import Choice

BARRIER_SECONDS = 0.7e-6
"""What it takes all threads to meet after a stage that is cut into chunks, and to share the next one."""
STAGE_SECONDS = 0.01e-6
"""What a stage costs on one thread beyond its kernel."""


def stage_seconds(func: LoopFunc, trace: Trace, target: Target) -> tuple[float, float]:
    """Predicted seconds of a repeated stage on one thread, and shared among the target's."""
    alone, shared = (
        max(float(predict_native(func, [trace], t)[0]) - DISPATCH_S, 0.0) for t in (replace(target, threads=1), target)
    )
    return alone + STAGE_SECONDS, shared + BARRIER_SECONDS


def loop_chunks(func: LoopFunc, trace: Trace, kernel: Kernel, target: Target) -> int:
    """Into how many parts a stage of a loop is cut: one where waiting for others outweighs sharing."""
    alone, shared = stage_seconds(func, trace, target)
    return 1 if alone <= shared else max(chunk_count(kernel.extent, target.threads), 1)


def native_loop_seconds(loop: Loop, choices: Mapping[str, Choice], target: Target) -> float:
    """Predicted seconds of a loop inside a plan."""
    tasks = loop.parts.tasks.values()
    body = sum(t.count * min(stage_seconds(t.workload.func, choices[t.key].trace, target)) for t in tasks)
    return loop.scan.length * body


def xla_loop_seconds(loop: Loop, target: Target) -> float:
    """Predicted seconds of a loop as XLA runs it."""
    return loop.scan.length * predict_xla_loop(loop.parts.graph, target)
