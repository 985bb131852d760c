"""Where the time of a native call goes, stage by stage: `python -m tilewright.bench.stages NAME`.

Runs a row of a suite with a driver that notes when each thread enters, has done its share of, and leaves each phase.
A line per phase: median microseconds until all threads are through, how long the threads waited for each other in
it, arithmetic and traffic per second, and the roofline's share of the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..backends.jax_call import prune
from ..backends.llvm.codegen import kernel_ir
from ..backends.llvm.ffi import bind_plan, recorded_moments, recording_code
from ..backends.llvm.phases import Phase, groups_of
from ..backends.llvm.toolchain import assembly
from ..costmodel.bounds import bound_seconds, flops, moved_bytes
from ..driver.assembly import NativePlan
from ..driver.options import make_options
from ..driver.pipeline import Driver, Outcome, host, measured_host
from ..frontends.jaxpr import to_graph
from ..ir import dtypes
from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import Trace, replay
from .cases import SUITES, load_case
from .instructions import innermost_loops

_WARM_UP = 10


@dataclass(frozen=True, slots=True)
class StageWork:
    """What a kernel of a plan does.

    Attributes:
        label: The operations in it.
        func: Its workload.
        trace: Its schedule.
    """

    label: str
    func: LoopFunc
    trace: Trace


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """What was measured of a phase.

    Attributes:
        seconds: From the first thread's entry to the last one's leaving.
        waiting: Mean of the threads' time between the end of their own share and the end of the phase.
    """

    seconds: float
    waiting: float


def compiled(suite: str, name: str, effort: int, database: str | None) -> tuple[Outcome, Callable[[], Any]]:
    """Compile a row as `tilewright.compile` does.

    Returns:
        What became of it, and a call of what `jax.jit` makes of it.

    Raises:
        ValueError: there is no such row, or no part of it became native.
    """
    case = load_case(suite, name).model  # pyright: ignore[reportArgumentType]
    args = [jnp.asarray(a) for a in case.make_input(np.random.default_rng(0))]
    closed, kept = prune(jax.make_jaxpr(case.fn)(*args))
    options = make_options(None, effort, database, "cpu", 0, False)
    examples = [a for a, keep in zip(args, kept, strict=True) if keep]
    outcome = Driver(options, options.open_database(), host()).run(to_graph(closed), examples)
    if outcome.graph is None:
        raise ValueError(f"{name} runs as plain JAX: {outcome.reason}")
    jitted = jax.jit(case.fn)
    return outcome, lambda: jax.block_until_ready(jitted(*args))


def stage_work(outcome: Outcome) -> dict[str, StageWork]:
    """What each kernel computes, by symbol."""
    assert outcome.parts is not None
    found: dict[str, StageWork] = {}
    for key, choice in outcome.choices.items():
        task = outcome.parts.tasks[key]
        operations = "+".join(dict.fromkeys(op.opcode for op in task.region.ops))
        shape = "x".join(map(str, task.region.output_types[0].shape))
        found[choice.kernel.symbol] = StageWork(f"{operations} -> {shape}", task.workload.func, choice.trace)
    for formulated in outcome.parts.formulated.values():
        alternatives = [a for a in outcome.formulations.values() if a.name == formulated.formulation.name]
        for number, kernel in enumerate(formulated.kernels):
            choices = (c for a in alternatives for c in a.parts.values())
            trace = next((c.trace for c in choices if c.kernel.symbol == kernel.symbol), ())
            label = f"{formulated.formulation.name}, part {number + 1}"
            found[kernel.symbol] = StageWork(label, formulated.formulation.parts[number].func, trace)
    return found


def profile(native: NativePlan, calls: int, before: Callable[[], Any] | None) -> tuple[list[Phase], np.ndarray, float]:
    """Run a native call on random arguments and record its phases.

    Args:
        native: The call.
        calls: How often.
        before: What is done before every call, if anything.

    Returns:
        Its phases in order (of repeated ones those of the first repetition), the moments float64[calls, threads,
        phases, moments] in seconds, and the median seconds of a call.
    """
    rng = np.random.default_rng(0)
    arrays = [_argument(rng, t.shape, t.dtype) for t in native.plan.inputs]
    run = jax.jit(bind_plan(native.plan, native.kernels, recording_code()))
    moments = recorded_moments()
    phases = [phase for group in groups_of(native.plan) for phase in group.phases]
    kept, took = [], []
    for call in range(_WARM_UP + calls):
        if before is not None:
            before()
        moments[:] = 0
        start = time.perf_counter()
        jax.block_until_ready(run(*arrays))
        if call >= _WARM_UP:
            took.append(time.perf_counter() - start)
            kept.append(moments[:, : len(phases)].copy())
    threads = max(1, int((np.array(kept)[:, :, 0, 0] > 0).any(axis=0).sum()))
    return phases, np.array(kept)[:, :threads] * 1e-9, float(np.median(took))


def phase_times(moments: np.ndarray) -> list[PhaseTime]:
    """Medians over calls of what `profile` recorded; threads that came late to a phase don't count in it."""
    entered, shared, left = (np.where(moments[..., i] > 0, moments[..., i], np.nan) for i in range(3))
    ends = np.nanmax(left, axis=1)
    starts = np.concatenate([np.nanmin(entered[:, :, :1], axis=1), ends[:, :-1]], axis=1)
    waited = ends[:, None] - shared
    waiting = np.nansum(waited, axis=1) / np.maximum(np.isfinite(waited).sum(axis=1), 1)
    return [
        PhaseTime(float(s), float(w))
        for s, w in zip(np.median(ends - starts, axis=0), np.median(waiting, axis=0), strict=True)
    ]


def _argument(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> jax.Array:
    kind = dtypes.to_numpy(dtype)
    floats = np.issubdtype(kind, np.floating) or dtype == "bfloat16"
    return jnp.asarray(rng.standard_normal(shape).astype(kind) if floats else np.zeros(shape, kind))


def table(phases: Sequence[Phase], times: Sequence[PhaseTime], work: dict[str, StageWork], limits: Target) -> list[str]:
    """A line per phase."""
    lines = [f"{'':>4} {'us':>8} {'waiting':>8} {'GFLOP/s':>8} {'GB/s':>7} {'roofline':>8}  contents"]
    for number, (phase, took) in enumerate(zip(phases, times, strict=True)):
        found = [work[s.kernel] for s in phase.stages if s.kernel in work]
        operations = phase.count * sum(flops(w.func) for w in found)
        moved = phase.count * sum(moved_bytes(w.func) for w in found)
        bound = phase.count * sum(bound_seconds(w.func, limits) for w in found)
        contents = "; ".join(w.label for w in found)
        lines.append(
            f"{number:4d} {took.seconds * 1e6:8.1f} {took.waiting * 1e6:8.1f} {operations / took.seconds / 1e9:8.0f} "
            f"{moved / took.seconds / 1e9:7.0f} {bound / took.seconds:8.0%}  {contents}"
        )
    return lines


def loops(work: StageWork, target: Target, most: int) -> list[str]:
    """The heaviest innermost loops of a kernel, a line each."""
    if target.arch != "x86_64":
        return ["    instructions are counted on x86-64 only"]
    code = assembly(kernel_ir(replay(work.func, work.trace), target)[0], features=target.features)
    return [f"    {mix.label}: {mix}" for mix in innermost_loops(code)[:most]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of a row; 2 for wrong usage."""
    found = _parser().parse_args(arguments)
    try:
        outcome, jitted = compiled(found.suite, found.row, found.effort, found.database)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    work = stage_work(outcome)
    for native in outcome.natives:
        phases, moments, call = profile(native, found.calls, jitted if found.after_jit else None)
        times = phase_times(moments)
        inside = sum(t.seconds for t in times)
        print(f"{found.row}: {call * 1e6:.1f} us a call, {inside * 1e6:.1f} us in {len(phases)} phases", end="")
        print(f", {sum(t.waiting for t in times) * 1e6:.1f} us waiting, arena {native.plan.arena_bytes / 1e6:.1f} MB")
        print("\n".join(table(phases, times, work, measured_host())))
        if found.loops:
            for number, phase in enumerate(phases):
                for stage in phase.stages:
                    print(f"{number:4d} {work[stage.kernel].label}")
                    print("\n".join(loops(work[stage.kernel], host(), found.loops)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench.stages", description="Where the time of a native call goes, stage by stage."
    )
    parser.add_argument("row", help="a row of the suite")
    parser.add_argument("--suite", default="models", choices=SUITES)
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--database", help="where results of tuning are kept; the user's by default")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--after-jit", action="store_true", help="run jax.jit's program before every call")
    parser.add_argument("--loops", type=int, default=0, metavar="N", help="the N heaviest inner loops of each kernel")
    return parser


if __name__ == "__main__":
    sys.exit(main())
