"""Reductions of every kind: what schedules make of them, against the interpreter and JAX, special values included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.memory import CodegenError
from tilewright.backends.xla import emit
from tilewright.driver.planning import Partition, Task, partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.interp import interpret
from tilewright.ir.target import Target, detect_target
from tilewright.ir.verify import verify
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import ScheduleError, replay
from tilewright.search.space import SearchSpace

Array = np.ndarray[Any, Any]

SMALL_CACHES = replace(detect_target(), threads=2, l1_bytes=1 << 10, l2_bytes=1 << 12)
"""So that small arrays are large ones."""
TARGETS = {"native": SMALL_CACHES, "avx2": SMALL_CACHES.restricted("avx2")}

PLACES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "rows": (lambda x: jnp.argmax(x, -1), (5, 37)),
    "least of rows": (lambda x: jnp.argmin(x, -1), (4, 64)),
    "columns": (lambda x: jnp.argmax(x, 0), (29, 40)),
    "middle": (lambda x: jnp.argmin(x, 1), (3, 18, 33)),
    "everything": (lambda x: jnp.argmax(x), (7, 19)),
    "one column": (lambda x: jnp.argmax(x, -1), (6, 1)),
    "one row": (lambda x: jnp.argmax(x, 0), (1, 6)),
    "with its reader": (lambda x: jnp.argmax(x, -1) * 2 + 1, (5, 37)),
    "of a result": (lambda x: jnp.argmin(x + x, -1), (5, 37)),
}


@functools.cache
def cut(fn: Callable[..., Any], *types: tuple[tuple[int, ...], str]) -> Partition:
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    return partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*avals))))


def special(shape: tuple[int, ...], dtype: str, rng: np.random.Generator, kind: str) -> Array:
    """Values with many ties; of floating point numbers some special ones, or in some rows nothing but NaN."""
    array = rng.integers(-3, 4, shape).astype(dtype) if dtype != "bool" else rng.integers(0, 2, shape).astype(bool)
    if dtype == "float32":
        choices = {"ties": [-0.0], "infinities": [np.inf, -np.inf, -0.0], "nan": [np.nan, -np.nan, np.inf, -np.inf]}
        mask = rng.random(shape) < 0.1
        array[mask] = rng.choice(np.array(choices[kind], dtype), int(mask.sum()))
        if kind != "ties":
            array[0] = choices[kind][1]
    return array


def kernels(task: Task, target: Target, rng: np.random.Generator, samples: int = 3) -> list[tuple[str, Any]]:
    """Kernels of every sketch's default, and of some other points of the space."""
    space = SearchSpace(task.workload.func, target)
    found = [*space.defaults(), *(space.sample(rng) for _ in range(samples))]
    out: list[tuple[str, Any]] = []
    for candidate in {c.key: c for c in found if c is not None}.values():
        try:
            scheduled = replay(task.workload.func, candidate.trace)
        except ScheduleError:
            continue
        verify(scheduled)
        try:
            out.append((f"{candidate.sketch} {candidate.decisions}", compile_kernel(scheduled, target)))
        except CodegenError:
            assert candidate not in space.defaults()
    assert out, "no schedule at all"
    return out


def agree(got: Array, want: Array, exact: bool, what: str, tolerance: float = 2e-5) -> None:
    if exact or want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want.reshape(got.shape), what)
    else:
        np.testing.assert_allclose(got, want.reshape(got.shape), rtol=tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("name", PLACES)
def test_places_of_extremes(name: str, dtype: str, target: str, rng: np.random.Generator) -> None:
    fn, shape = PLACES[name]
    parts = cut(fn, (shape, dtype))
    if dtype == "bool" and name == "of a result":
        pytest.skip("booleans are not added")
    places = [t for t in parts.tasks.values() if any(op.opcode in ("argmax", "argmin") for op in t.region.ops)]
    assert len(places) == (0 if name in ("one column", "one row") and not parts.tasks else 1)
    for task in places:
        built = kernels(task, TARGETS[target], rng)
        kinds = ("ties", "infinities", "nan") if dtype == "float32" else ("ties",)
        for kind in kinds:
            array = special(shape, dtype, rng, kind)
            wanted = np.asarray(jax.jit(fn)(array))
            flat = array.reshape(task.workload.func.params[0].shape)
            agree(interpret(task.workload.func, [flat])[0], wanted, True, f"interpreter, {kind}")
            for what, kernel in built:
                agree(run_native(kernel, [flat], 2)[0], wanted, True, f"{what}, {kind}")


def test_places_as_other_integers_stay_xlas() -> None:
    parts = cut(lambda x: jax.lax.argmax(x, 0, np.int16), ((8, 8), "float32"))
    assert not parts.tasks


def softmax(x: Any, axis: int) -> Any:
    return jax.nn.softmax(x, axis)


def standardised(x: Any, axes: tuple[int, ...]) -> Any:
    return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + 1e-3)


def flax_like(x: Any, axes: tuple[int, ...]) -> Any:
    mean = x.mean(axes, keepdims=True)
    variance = jnp.maximum((x * x).mean(axes, keepdims=True) - mean * mean, 0)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-3)


def group_norm(x: Any, groups: int) -> Any:
    n, h, w, c = x.shape
    return standardised(x.reshape(n, h, w, groups, c // groups), (1, 2, 4)).reshape(x.shape)


SUMS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "rows": (lambda x: x.sum(-1), (5, 333)),
    "columns": (lambda x: x.sum(0), (70, 100)),
    "many columns": (lambda x: x.sum(0), (1030, 1040)),
    "many columns, few rows": (lambda x: x.max(0), (7, 1100)),
    "few columns": (lambda x: x.sum(0), (300, 8)),
    "middle": (lambda x: x.max(1), (3, 21, 50)),
    "positions": (lambda x: x.mean((1, 2)), (2, 7, 9, 24)),
    "all but channels": (lambda x: x.mean((0, 1, 2)), (3, 5, 7, 24)),
    "everything": (lambda x: (x * x).sum(), (37, 41)),
    "a long row": (lambda x: jnp.abs(x).sum(), (70_001,)),
    "squares of columns": (lambda x: jnp.square(x - x[0]).sum(0), (70, 100)),
    "softmax of rows": (lambda x: softmax(x, -1), (5, 333)),
    "softmax of columns": (lambda x: softmax(x, 0), (70, 100)),
    "log-sum-exp of columns": (lambda x: jax.nn.logsumexp(x, 0), (70, 100)),
    "layer norm": (lambda x: standardised(x, (-1,)), (7, 200)),
    "layer norm, one pass": (lambda x: flax_like(x, (-1,)), (7, 200)),
    "instance norm": (lambda x: standardised(x, (1, 2)), (2, 6, 9, 40)),
    "instance norm, one pass": (lambda x: flax_like(x, (1, 2)), (2, 6, 9, 40)),
    "norm over channels first": (lambda x: standardised(x, (1,)), (2, 12, 6, 9)),
    "weighted rows": (lambda x: (x * jnp.linspace(0, 1, 70)[:, None]).sum(0), (70, 100)),
    "norm of weighted positions": (
        lambda x: x - (x * jnp.arange(1.0, 55.0)[:, None]).sum(1, keepdims=True) / x.max(1, keepdims=True).clip(1),
        (2, 54, 40),
    ),
    "batch norm": (lambda x: standardised(x, (0, 1, 2)), (3, 6, 9, 40)),
    "group norm": (lambda x: group_norm(x, 4), (2, 6, 5, 24)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SUMS)
def test_what_is_reduced_and_rescaled(name: str, target: str, rng: np.random.Generator) -> None:
    fn, shape = SUMS[name]
    parts = cut(fn, (shape, "float32"))
    for task in parts.tasks.values():
        func = task.workload.func
        graph = task.region
        values = {v: rng.standard_normal(t.shape).astype(np.float32) for v, t in graph.inputs.items()}
        for value, constant in graph.constants.items():
            values[value] = np.asarray(constant.value)
        flat = [
            values[v].reshape(b.shape)
            for v, b in zip((*task.workload.inputs, *task.workload.constants), func.inputs, strict=True)
        ]
        region = jax.jit(jax.extend.core.jaxpr_as_fun(emit(graph)))
        wanted = [np.asarray(y) for y in region(*(values[v] for v in graph.inputs))]
        agree(interpret(func, flat)[0], wanted[0], False, "interpreter", 1e-3)  # it sums in one long chain
        for what, kernel in kernels(task, TARGETS[target], rng, samples=1):
            agree(run_native(kernel, flat, 2)[0], wanted[0], False, what)


@pytest.mark.parametrize("name", SUMS)
def test_what_was_cut_is_not_cut_again(name: str) -> None:
    """Saved functions keep the graph as it was cut, and find their kernels by its regions."""
    fn, shape = SUMS[name]
    parts = cut(fn, (shape, "float32"))
    assert list(partition(parts.graph).tasks) == list(parts.tasks)


def test_parts_of_large_sums_are_not_cut_again() -> None:
    for fn, shape in ((jnp.sum, (4096, 3, 100)), (lambda x: group_norm(x, 32), (2, 64, 64, 64)), (jnp.var, (999_000,))):
        parts = cut(fn, (shape, "float32"))
        assert list(partition(parts.graph).tasks) == list(parts.tasks)
