"""Loops with a known number of iterations inside native calls, against JAX's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import tilewright as tw
from tilewright.database.store import Database
from tilewright.driver import pipeline
from tilewright.driver.gate import check_accuracy, runnable
from tilewright.driver.options import make_options
from tilewright.driver.outcome import Outcome
from tilewright.driver.pipeline import Driver, host
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.plan import ExecPlan

U = np.random.default_rng(0).standard_normal((13, 37)).astype(np.float32)


@pytest.fixture(autouse=True)
def anything_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small programs are not worth kernels; tests want them all the same."""
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)
    monkeypatch.setattr(pipeline, "WORTHWHILE_SECONDS", 0.0)


def compiled(fn: Callable[..., Any], **options: Any) -> Any:
    return tw.compile(fn, **{"effort": 0, "database": ":memory:", **options})


def built(fn: Callable[..., Any], *args: Any, bits: int | None = None) -> Outcome:
    """What the driver makes of a function; for AVX2 alone with ``bits=256``."""
    target = host().restricted("avx2") if bits == 256 else host()
    graph = to_graph(jax.make_jaxpr(fn)(*args))
    return Driver(make_options(None, 0, ":memory:", "cpu", 0, False), Database(":memory:"), target).run(graph, None)


def plan_of(fn: Callable[..., Any], *args: Any) -> ExecPlan:
    """The plan of a function that becomes one native call and nothing else."""
    outcome = built(fn, *args)
    assert outcome.graph is not None, outcome.reason
    assert [op.opcode for op in outcome.graph.ops] == ["tilewright_plan"], outcome.graph.ops
    return outcome.natives[0].plan


def same(fn: Callable[..., Any], *args: Any, exact: bool = False) -> None:
    """The compiled function is native, has no loop left for XLA, and gives what JAX gives."""
    plan_of(fn, *args)
    found, wanted = compiled(fn)(*args), jax.jit(fn)(*args)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.weak_type == b.weak_type
        np.testing.assert_allclose(a, b, rtol=0 if exact else 2e-5, atol=0 if exact else 2e-5)


def relaxation(steps: int) -> Callable[[Any], Any]:
    """Means of four neighbours with a fixed border."""

    def step(_: Any, u: Any) -> Any:
        inner = 0.25 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])
        return u.at[1:-1, 1:-1].set(inner)

    return lambda u: lax.fori_loop(0, steps, step, u)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 11])
def test_carries_end_where_they_belong(steps: int) -> None:
    same(relaxation(steps), U)


def test_pairs_of_iterations_are_repeated() -> None:
    plan = plan_of(relaxation(10), U)
    (repeat,) = plan.repeats
    assert (len(plan.stages), repeat.first, repeat.stages, repeat.count) == (4, 1, 2, 4)
    assert plan.arena_bytes < 2 * U.nbytes, "one buffer beside the result"


@pytest.mark.parametrize("bits", [256, 512])
def test_vector_widths(bits: int) -> None:
    if host().vector_bits < bits:
        pytest.skip(f"this machine has no {bits}-bit vectors")
    outcome = built(relaxation(7), U, bits=bits)
    graph = to_graph(jax.make_jaxpr(relaxation(7))(U))
    assert outcome.graph is not None, outcome.reason
    assert all(e.holds for e in check_accuracy(runnable(outcome.graph), runnable(graph), graph, [U]))


@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_slices_and_stacks(length: int, reverse: bool) -> None:
    xs = np.random.default_rng(1).standard_normal((length, 5, 17)).astype(np.float32)
    flags = np.arange(length) % 2 == 0

    def fn(carry: Any, xs: Any, flags: Any) -> Any:
        def body(carry: Any, x: Any) -> Any:
            total, count = carry
            row, flag = x
            total = jnp.where(flag, total * 0.5 + row, total)
            return (total, count + 1), (total.sum(-1), row * count, flag)

        return lax.scan(body, (carry, 3), (xs, flags), reverse=reverse)

    same(fn, U[:5, :17], xs, flags)


def test_a_map_has_no_carries() -> None:
    xs = np.random.default_rng(1).standard_normal((9, 33)).astype(np.float32)
    plan = plan_of(lambda xs: lax.map(jnp.tanh, xs), xs)
    assert plan.arena_bytes == 0 and [r.count for r in plan.repeats] == [9]
    same(lambda xs: lax.map(lambda x: (x * 2, x), xs), xs, exact=True)


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_carries_that_swap_stay_or_repeat(length: int) -> None:
    def fn(a: Any, b: Any, c: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            a, b, c, _ = carry
            return (b, a, c, a + c), (a, a, c)

        return lax.scan(body, (a, b, c, a), None, length)

    same(fn, U, U * 2, U * 3, exact=True)


def test_constants_and_weights_in_the_body() -> None:
    w, bias = (np.random.default_rng(n).standard_normal((37, 37)).astype(np.float32) * 0.1 for n in (2, 3))

    def fn(u: Any) -> Any:
        return lax.scan(lambda c, x: (jnp.tanh(c @ w + bias[0] + x), c.max()), u, jnp.arange(6, dtype=jnp.float32))

    same(fn, U)


def test_what_surrounds_a_loop_shares_its_call() -> None:
    def fn(u: Any) -> Any:
        last, rows = lax.scan(lambda c, _: (c * 0.5 + 1, c[0]), u * 2, None, 7)
        return jax.nn.softmax(last) + rows.sum(0)

    same(fn, U)


def test_two_loops_one_after_the_other() -> None:
    same(lambda u: relaxation(5)(jnp.exp(relaxation(4)(u))), U)


def test_special_values() -> None:
    u = U.copy()
    u[3, 4], u[5, 6], u[0, 0], u[12, 36] = np.nan, np.inf, -0.0, np.nan
    found, wanted = compiled(relaxation(3))(u), jax.jit(relaxation(3))(u)
    np.testing.assert_array_equal(np.signbit(found[0]), np.signbit(wanted[0]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_loops_that_stay_with_xla() -> None:
    def unknown(u: Any, n: Any) -> Any:
        return lax.fori_loop(0, n, lambda _, c: c * 0.5, u)

    def nested(u: Any) -> Any:
        return lax.fori_loop(0, 3, lambda _, c: relaxation(3)(c) * 0.5, u)

    def foreign(u: Any) -> Any:
        return lax.scan(lambda c, _: (jnp.sort(c) * 0.5, None), u, None, 4)[0]

    def doubles(u: Any) -> Any:
        return lax.scan(lambda c, _: (c * 0.5j, None), u + 0j, None, 4)[0]

    def nothing(u: Any) -> Any:
        return lax.scan(lambda c, _: (c * 0.5, c), u, None, 0)

    def effects(u: Any) -> Any:
        return lax.scan(lambda c, _: (c * jax.pure_callback(lambda: np.float32(2), jnp.float32(0)), None), u, None, 2)

    def keys(u: Any) -> Any:
        return lax.scan(lambda k, x: (jax.random.split(k)[0], x + jax.random.normal(k)), jax.random.key(0), u)[1]

    for fn in (nested, foreign, doubles, nothing, effects, keys):
        found, wanted = compiled(fn)(U), jax.jit(fn)(U)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=fn.__name__)
    np.testing.assert_allclose(compiled(unknown)(U, 3), jax.jit(unknown)(U, 3), rtol=1e-6)


def test_under_transformations() -> None:
    fn, fast = relaxation(4), compiled(relaxation(4))
    np.testing.assert_allclose(jax.vmap(fast)(np.stack([U, -U])), jax.vmap(fn)(np.stack([U, -U])), rtol=1e-5, atol=1e-5)
    grads = (jax.grad(lambda u, f=f: (f(u) ** 2).sum())(U) for f in (fast, fn))
    np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-4)
    for a, b in zip(jax.jvp(fast, (U,), (U,)), jax.jvp(fn, (U,), (U,)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_donated_argument() -> None:
    fast = compiled(relaxation(6), donate_argnums=0)
    for _ in range(3):
        np.testing.assert_allclose(fast(jnp.asarray(U)), jax.jit(relaxation(6))(U), rtol=1e-5, atol=1e-6)


def test_a_second_process_s_verdict(tmp_path: Any) -> None:
    path = str(tmp_path / "db.sqlite")
    first = compiled(relaxation(9), database=path)
    wanted = first(U)
    second = compiled(lambda u: relaxation(9)(u), database=path)
    np.testing.assert_array_equal(second(U), wanted)
    assert (first.report().basis, second.report().basis) == ("predicted", "database")


@st.composite
def bodies(draw: st.DrawFn) -> tuple[int, bool, list[int], list[int]]:
    """Length, direction, and for each carry and stacked result which of a few expressions it is."""
    carries = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    return draw(st.integers(1, 7)), draw(st.booleans()), carries, draw(st.lists(st.integers(0, 7), max_size=3))


@settings(max_examples=12, deadline=None)
@given(bodies())
def test_random_bodies(case: tuple[int, bool, list[int], list[int]]) -> None:
    length, reverse, carries, stacked = case
    rng = np.random.default_rng(length)
    xs = rng.standard_normal((length, 3, 9)).astype(np.float32)
    initial = [rng.standard_normal((3, 9)).astype(np.float32) for _ in carries]

    def pick(kind: int, c: Any, k: int, x: Any) -> Any:
        other = c[(k + 1) % len(c)]
        options = (other, c[k], x, c[k] * 0.5 + x, other - c[k], jnp.tanh(c[k]), jnp.where(x > 0, other, c[k]))
        return options[kind] if kind < len(options) else c[0].at[1:, 2:-1].set(other[1:, 2:-1] * 2)

    def fn(initial: Any, xs: Any) -> Any:
        def body(c: Any, x: Any) -> Any:
            ys = [pick(kind, c, 0, x) for kind in stacked]
            return [pick(kind, c, k, x) for k, kind in enumerate(carries)], ys

        return lax.scan(body, initial, xs, reverse=reverse)

    for a, b in zip(jax.tree.leaves(compiled(fn)(initial, xs)), jax.tree.leaves(fn(initial, xs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_arguments_that_jax_narrows() -> None:
    places = np.random.default_rng(0).integers(0, 13, 9)
    assert places.dtype == np.int64

    def fn(table: Any, places: Any) -> Any:
        return lax.scan(lambda c, k: (c + table[k], c), jnp.zeros((37,)), places)

    fast = compiled(fn)
    for a, b in zip(fast(U, places), jax.jit(fn)(U, places), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert fast.report().mode == "native"
