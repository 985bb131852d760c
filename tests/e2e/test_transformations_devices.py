"""Several devices, threads and side effects: the compiled function behaves as `jax.jit` does."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import tilewright

EIGHT_DEVICES = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import logging
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import tilewright
from tilewright import compiler
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

assert jax.device_count() == 8
built = []
passes = PassManager(GRAPH_PASSES)
compiler.Compiled.build = lambda self, graph, arguments: (built.append(graph), passes.run(graph))[1]
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
x = jnp.arange(32.0).reshape(8, 4) / 10
w = jnp.linspace(-1, 1, 12).reshape(4, 3)

def f(x, w):
    return jax.nn.softmax(jnp.tanh(x @ w)), (x * 2).sum()

def same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)
    assert jax.tree.map(lambda a: a.sharding, actual) == jax.tree.map(lambda a: a.sharding, expected)
"""

CASES = {
    "sharded_arguments_run_as_plain_jax": """
        xs = jax.device_put(x, NamedSharding(mesh, P("data", None)))
        ws = jax.device_put(w, NamedSharding(mesh, P()))
        same(tilewright.compile(f)(xs, ws), jax.jit(f)(xs, ws))
        assert not built
        """,
    "another_device": """
        xs, ws = jax.device_put((x, w), jax.devices()[5])
        same(tilewright.compile(f)(xs, ws), jax.jit(f)(xs, ws))
        assert len(built) == 1
        """,
    "same_function_on_two_devices": """
        compiled = tilewright.compile(f)
        for device in (jax.devices()[0], jax.devices()[3]):
            xs, ws = jax.device_put((x, w), device)
            same(compiled(xs, ws), jax.jit(f)(xs, ws))
        """,
    "shard_map_with_collectives": """
        def local(x, w):
            h = jax.nn.relu(x @ w * 2.0)
            total = lax.psum(h.sum(0), "data")
            scan = lax.scan(lambda c, r: (c + lax.psum(r, "data"), None), jnp.zeros(3), h)
            return h / total, total, scan[0] * lax.axis_index("model")

        for check in (True, False):
            def run(make):
                g = jax.shard_map(make(local), mesh=mesh, in_specs=(P("data"), P()),
                                  out_specs=(P("data"), P(), P("model")), check_vma=check)
                return jax.jit(g)(x, w)
            same(run(tilewright.compile), run(jax.jit))
        assert len(built) == 2, len(built)
        """,
    "grad_through_shard_map": """
        def local(x, w):
            return lax.pmean(jnp.sum(jnp.tanh(x @ w) ** 2), "data")

        def loss(make):
            g = jax.shard_map(make(local), mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
            return jax.jit(jax.grad(lambda w: g(x, w)))(w)
        same(loss(tilewright.compile), loss(jax.jit))
        """,
    "partly_manual_shard_map_runs_as_plain_jax": """
        def run(make):
            g = jax.shard_map(make(lambda x: x * 2 + lax.psum(x, "data")), mesh=mesh, in_specs=P("data"),
                              out_specs=P("data"), axis_names={"data"})
            return jax.jit(g)(x)
        same(run(tilewright.compile), run(jax.jit))
        assert not built
        """,
    "pmap_with_collective": """
        g = lambda v: (v - lax.pmean(v, "i")) / (1e-3 + lax.psum(jnp.abs(v), "i"))
        same(jax.pmap(tilewright.compile(g), axis_name="i")(x), jax.pmap(g, axis_name="i")(x))
        """,
    "explicit_mesh": """
        explicit = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
        with jax.set_mesh(explicit):
            xs = jax.device_put(x, P("i", None))
            same(tilewright.compile(lambda x: jnp.tanh(x) * 2)(xs), jax.jit(lambda x: jnp.tanh(x) * 2)(xs))
        """,
    "sharding_constraint": """
        def g(x):
            return lax.with_sharding_constraint(jnp.sin(x), NamedSharding(mesh, P("data", "model"))) + 1
        same(tilewright.compile(g)(x), jax.jit(g)(x))
        """,
    "sharded_constant": """
        xs = jax.device_put(x, NamedSharding(mesh, P("data", None)))
        same(tilewright.compile(lambda v: v + xs)(xs), jax.jit(lambda v: v + xs)(xs))
        """,
}


def test_eight_devices() -> None:
    """All cases in one process of their own: the number of devices is fixed when JAX starts."""
    script = [textwrap.dedent(EIGHT_DEVICES), "failed = []", "import traceback"]
    for name, body in CASES.items():
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        script.append(f"def {name}():\n    built.clear()\n{indented}")
        script.append(f"try:\n    {name}()\nexcept Exception:\n    traceback.print_exc(); failed.append({name!r})")
    script.append("assert not failed, failed")
    result = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-6000:]


def effects_of(make: Any, f: Any, *arguments: Any) -> tuple[list[Any], Any]:
    """What a function's callbacks saw in two calls, and its last result."""
    seen: list[Any] = []
    function = make(lambda *args: f(seen, *args))
    for _ in range(2):
        result = function(*arguments)
    jax.effects_barrier()
    return seen, result


def ordered(seen: list[Any], x: jax.Array) -> jax.Array:
    y = io_callback(
        lambda v: (seen.append(("a", float(v))), np.float32(v + 1))[1], jnp.float32(0), x.sum(), ordered=True
    )
    io_callback(lambda v: seen.append(("b", float(v))), None, y, ordered=True)
    jax.debug.callback(lambda v: seen.append(("c", float(v))), x[0], ordered=True)
    io_callback(lambda: seen.append("nothing read"), None, ordered=True)
    return y * 2


def in_control_flow(seen: list[Any], x: jax.Array) -> jax.Array:
    def body(i: Any, c: jax.Array) -> jax.Array:
        jax.debug.callback(lambda v: seen.append(float(v)), c[0], ordered=True)
        return c * 2

    return lax.fori_loop(0, 3, body, x)


def unordered(seen: list[Any], x: jax.Array) -> jax.Array:
    jax.debug.callback(lambda v: seen.append(float(v)), x.sum())
    return x + 1


def pure(seen: list[Any], x: jax.Array) -> jax.Array:
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + jnp.cos(x)


def _debug(seen: list[Any]) -> list[Any]:
    return [event for event in seen if isinstance(event, tuple) and event[0] == "c"]


def _rest(seen: list[Any]) -> list[Any]:
    return [event for event in seen if event not in _debug(seen)]


@pytest.mark.parametrize("f", [ordered, in_control_flow, unordered, pure])
def test_effects_happen_once_and_in_order(f: Any) -> None:
    x = jnp.arange(1.0, 4.0)
    actual, expected = effects_of(tilewright.compile, f, x), effects_of(jax.jit, f, x)
    # JAX orders callbacks of one kind among themselves; debug callbacks (here "c") and the others are two kinds.
    assert _debug(actual[0]) == _debug(expected[0])
    assert _rest(actual[0]) == _rest(expected[0])
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)


def test_effects_under_vmap_and_grad() -> None:
    def run(make: Any) -> tuple[list[float], Any]:
        seen: list[float] = []

        def f(x: jax.Array) -> jax.Array:
            jax.debug.callback(lambda v: seen.append(float(v)), x)
            return jnp.sin(x)

        gradient = jax.vmap(jax.grad(make(f)))(jnp.arange(3.0))
        jax.effects_barrier()
        return sorted(seen), np.asarray(gradient)

    actual, expected = run(tilewright.compile), run(jax.jit)
    assert actual[0] == expected[0]
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)


def test_mutable_references() -> None:
    def inside(x: jax.Array) -> jax.Array:
        ref = jax.new_ref(jnp.zeros_like(x))
        ref[...] = x * 2
        ref[0] = 7.0
        return ref[...] + 1

    np.testing.assert_array_equal(tilewright.compile(inside)(jnp.arange(3.0)), jax.jit(inside)(jnp.arange(3.0)))

    def argument(ref: Any, x: jax.Array) -> jax.Array:
        ref[...] += x
        return ref[...] * 2

    results = []
    for make in (tilewright.compile, jax.jit):
        ref = jax.new_ref(jnp.ones(3))
        results.append((make(argument)(ref, jnp.arange(3.0)), ref[...]))
    np.testing.assert_array_equal(results[0], results[1])


def test_many_threads() -> None:
    """Threads that meet new and known shapes at once, with functions that call each other."""
    inner = tilewright.compile(lambda x: jnp.tanh(x) + 1)
    outer = tilewright.compile(lambda x: inner(x) * x.shape[0])

    def work(number: int) -> None:
        x = jnp.full((number % 5 + 1,), float(number))
        for _ in range(5):
            np.testing.assert_allclose(outer(x), (np.tanh(float(number)) + 1) * x.shape[0], rtol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
