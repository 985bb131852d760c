"""One small function through every step that a real one takes, for `tilewright doctor`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..backends.llvm.kernel import Kernel
from ..backends.measure.runner import WorkerRunner
from ..driver.assembly import assemble
from ..driver.gate import check_accuracy, runnable
from ..driver.kernels import build_kernel
from ..driver.planning import Choice, Partition, partition
from ..driver.verification import measure_request, task_references
from ..frontends.jaxpr import to_graph
from ..ir.graph import Graph
from ..ir.measure import TimingProtocol
from ..ir.target import detect_target
from ..passes.schedule import Trace
from ..search.space import SearchSpace

_ROWS, _INNER, _COLUMNS = 37, 64, 50
_CHECK = TimingProtocol(quick_repeats=1, repeats=1, budget_s=0.05)


class ProbeError(RuntimeError):
    """A step gave something else than it should."""


def _small(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weights)


@dataclass(slots=True)
class Probe:
    """What the steps hand on."""

    graph: Graph | None = None
    parts: Partition | None = None
    trace: Trace = ()
    kernel: Kernel | None = None


def trace(state: Probe) -> str:
    """JAX traces the function, and it becomes a graph and one workload."""
    shapes = jax.ShapeDtypeStruct((_ROWS, _INNER), "float32"), jax.ShapeDtypeStruct((_INNER, _COLUMNS), "float32")
    state.graph = to_graph(jax.make_jaxpr(_small)(*shapes))
    state.parts = partition(state.graph)
    if len(state.parts.tasks) != 1:
        raise ProbeError(f"expected one workload, found {len(state.parts.tasks)}")
    return f"jax runs on {jax.default_backend()}"


def generate(state: Probe) -> str:
    """A kernel is generated."""
    assert state.parts is not None
    (task,) = state.parts.tasks.values()
    target = detect_target()
    start = time.perf_counter()
    state.trace = SearchSpace(task.workload.func, target).defaults()[0].trace
    state.kernel = build_kernel(task.key, task.workload.func, state.trace, target)
    took = (time.perf_counter() - start) * 1e3
    return f"{len(state.kernel.object_code)} bytes of code in {took:.0f} ms"


def run_in_worker(state: Probe) -> str:
    """The measuring worker starts, runs the kernel and finds it right."""
    assert state.parts is not None and state.kernel is not None
    tasks = list(state.parts.tasks.values())
    data = task_references(tasks, seed=0)[tasks[0].key]
    start = time.perf_counter()
    with WorkerRunner() as runner:
        result = runner.measure(data, [measure_request(state.kernel, data)], _CHECK)[0]
    if not result.ok:
        raise ProbeError(f"{result.status}: {result.error}")
    return f"right, checked in {time.perf_counter() - start:.1f} s"


def run_in_xla(state: Probe) -> str:
    """XLA calls the kernel, and the result keeps the accuracy contract."""
    assert state.parts is not None and state.kernel is not None and state.graph is not None
    choices = {key: Choice(state.trace, state.kernel) for key in state.parts.tasks}
    native, _ = assemble(state.parts, choices, detect_target())
    rng = np.random.default_rng(0)
    cpu = jax.devices("cpu")[0]
    shapes = (_ROWS, _INNER), (_INNER, _COLUMNS)
    examples: list[Any] = [jax.device_put(rng.standard_normal(s, np.float32), cpu) for s in shapes]
    errors = check_accuracy(runnable(native), runnable(state.graph), state.graph, examples)
    if not errors or not all(e.holds for e in errors):
        raise ProbeError(f"the result differs from jax.jit's by more than the accuracy contract allows: {errors}")
    return f"right, largest error {max(e.error for e in errors):.1e} (allowed {errors[0].allowed:.1e})"


STEPS: tuple[tuple[str, str, Callable[[Probe], str]], ...] = (
    ("trace", "reinstall jax and jaxlib in the versions that tilewright asks for", trace),
    ("generate a kernel", "reinstall llvmlite; please report it if that does not help", generate),
    ("run it in the worker", "see that processes may be started here; please report it if they may", run_in_worker),
    ("run it through XLA", "reinstall jaxlib; please report it if that does not help", run_in_xla),
)
"""Name, remedy and function of every step; a function returns what it found or raises."""
