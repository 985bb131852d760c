"""Loops as part of the graph: what passes do to bodies, and what is carried in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit, emit_float64
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph, Op
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

U = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def optimised(fn: Callable[..., Any], *args: Any) -> Graph:
    """The graph after all passes, which computes what the function does, also in float64."""
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))
    wanted = jax.tree.leaves(jax.jit(fn)(*args))
    for result in (jax.jit(jaxpr_as_fun(emit(graph)))(*args), emit_float64(graph)(*args)):
        for a, b in zip(result, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return graph


def in_known_window(graph: Graph, op: Op) -> bool:
    return op.opcode == "dynamic_update_slice" and all(v in graph.constants for v in op.operands[2:])


def only_loop(graph: Graph) -> Op:
    (op,) = [op for op in graph.ops if op.opcode == "scan"]
    assert op.body is not None
    return op


def counts(op: Op) -> tuple[int, int, int, int]:
    """Invariants, carries, scanned and stacked arrays."""
    consts, carries = op.params["num_consts"], op.params["num_carry"]
    return consts, carries, len(op.operands) - consts - carries, len(op.results) - carries


def test_a_counter_that_nobody_reads_goes() -> None:
    op = only_loop(optimised(lambda u: lax.fori_loop(0, 5, lambda _, c: c * 0.5, u), U))
    assert counts(op) == (0, 1, 0, 0) and [o.opcode for o in op.body.ops] == ["mul"]  # pyright: ignore[reportOptionalMemberAccess]
    op = only_loop(optimised(lambda u: lax.fori_loop(0, 5, lambda i, c: c * 0.5 + i, u), U))
    assert counts(op)[1] == 2


def test_carries_that_stay_become_invariants() -> None:
    def fn(u: Any, w: Any) -> Any:
        return lax.scan(lambda c, _: ((c[0] * c[1], c[1]), None), (u, w), None, 3)[0]

    graph = optimised(fn, U, U + 1)
    assert counts(only_loop(graph)) == (1, 1, 0, 0)
    assert graph.outputs[1] == list(graph.inputs)[1]


def test_what_no_result_depends_on_goes() -> None:
    def fn(u: Any, xs: Any, ys: Any) -> Any:
        def body(c: Any, x: Any) -> Any:
            a, b = c
            return (a * 0.5 + x[0], b + x[1]), (a, b)

        (a, _), (stacked, _) = lax.scan(body, (u, u), (xs, ys))
        return a, stacked

    xs = np.stack([U, U, U])
    assert counts(only_loop(optimised(fn, U, xs, xs * 2))) == (0, 1, 1, 1)


def test_a_carry_that_another_one_needs_stays() -> None:
    def fn(u: Any) -> Any:
        return lax.scan(lambda c, _: ((c[1], c[0] + 1), None), (u, u * 2), None, 4)[0][0]

    assert counts(only_loop(optimised(fn, U))) == (0, 2, 0, 0)


def test_constants_are_folded_in_the_body_and_stored_outside() -> None:
    w = np.arange(6, dtype=np.float32)
    graph = optimised(lambda u: lax.fori_loop(0, 3, lambda _, c: c * (w[::-1] * 2 + 1), u), U)
    op = only_loop(graph)
    assert counts(op) == (1, 1, 0, 0) and op.operands[0] in graph.constants
    assert all(c.type.size == 1 for c in op.body.constants.values())  # pyright: ignore[reportOptionalMemberAccess]


def test_loops_inside_loops() -> None:
    def fn(u: Any) -> Any:
        inner = lambda c: lax.fori_loop(0, 2, lambda _, d: d * 0.5 + 0.0, c)  # noqa: E731
        return lax.fori_loop(0, 3, lambda _, c: inner(c) + 1, u)

    (inner,) = [op for op in only_loop(optimised(fn, U)).body.ops if op.body is not None]  # pyright: ignore[reportOptionalMemberAccess]
    assert counts(inner) == (0, 1, 0, 0)


def test_a_loop_that_nobody_reads_goes() -> None:
    graph = optimised(lambda u: (lax.fori_loop(0, 3, lambda _, c: c * 2, u), u * 2)[1], U)
    assert [op.opcode for op in graph.ops] == ["mul"]


@pytest.mark.parametrize("length", [0, 1])
def test_short_loops(length: int) -> None:
    optimised(lambda u: lax.scan(lambda c, _: (c * 2, c), u, None, length), U)


# ---- updates of a known window


@pytest.mark.parametrize(
    "fn",
    [
        lambda u: u.at[1:-1, 1:-1].set(7.0),
        lambda u: u.at[0].set(u[1]),
        lambda u: u.at[:, 2].set(u[:, 3] * 2),
        lambda u: u.at[3, 5].set(1.0),
        lambda u: u.at[-2:].set(u[:2]),
        lambda u: lax.dynamic_update_slice(u, u[:2, :2], (1, 3)),
        lambda u: lax.dynamic_update_slice(u, u[:2, :2], (99, -99)),
    ],
)
def test_static_updates_have_a_known_window(fn: Callable[..., Any]) -> None:
    graph = optimised(fn, U)
    found = [in_known_window(graph, op) for op in graph.ops if op.opcode in ("scatter", "dynamic_update_slice")]
    assert found == [True]


@pytest.mark.parametrize(
    "fn",
    [
        lambda u: u.at[jnp.array([0, 2])].set(1.0),
        lambda u: u.at[9].set(1.0),
        lambda u: u.at[::2].set(1.0),
        lambda u: u.at[1].add(1.0),
        lambda u: lax.dynamic_update_slice(u, u[:1], (u[0, 0].astype(int), 0)),
    ],
)
def test_other_updates_are_left_alone(fn: Callable[..., Any]) -> None:
    graph = optimised(fn, U)
    assert not any(in_known_window(graph, op) for op in graph.ops)


def test_an_update_of_everything_is_what_is_written() -> None:
    graph = optimised(lambda u: u.at[:, :].set(u * 2), U)
    assert [op.opcode for op in graph.ops] == ["mul"]


def test_a_split_becomes_slices() -> None:
    graph = optimised(lambda u: jnp.split(u, (1, 4), axis=1), U)
    assert [op.opcode for op in graph.ops] == ["slice"] * 3
    assert [op.type.shape for op in graph.ops] == [(4, 1), (4, 3), (4, 2)]
