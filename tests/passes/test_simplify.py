"""Graph passes: golden before/after text, refusals, and meaning compared with JAX."""

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
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit, emit_float64
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph, GraphBuilder, GraphError, Op, TensorType
from tilewright.ir.graph_text import digest, parse_graph, print_graph, verify
from tilewright.passes.fold import FoldConstants, MergeEqual
from tilewright.passes.fold_scale import FoldScales
from tilewright.passes.manager import PassManager, RewriteRule, apply_rules
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.simplify import Simplify

SPECIAL = np.array([0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-30, 3e38], np.float32)


def trace(f: Callable[..., Any], *arguments: Any) -> Graph:
    return to_graph(jax.make_jaxpr(f)(*arguments))


def run(graph: Graph, *arguments: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.jit(jaxpr_as_fun(emit(graph)))(*arguments)]


def optimize(graph: Graph) -> Graph:
    return PassManager(GRAPH_PASSES).run(graph)


def opcodes(graph: Graph) -> list[str]:
    return [op.opcode for op in graph.ops]


def bits(x: np.ndarray) -> bytes:
    return np.where(np.isnan(x), np.float32(np.nan), x).tobytes() if x.dtype.kind == "f" else x.tobytes()


# What each function is after `Simplify` (with constants folded first); every one must keep each bit.
EXACT: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "over eight": (lambda x: x / 8.0, ["mul"]),
    "over minus a quarter": (lambda x: x / -0.25, ["mul"]),
    "over three": (lambda x: x / 3.0, ["div"]),
    "over the smallest": (lambda x: x / 2.0**-126, ["div"]),
    "over zero": (lambda x: x / 0.0, ["div"]),
    "a choice of truth": (lambda x: jnp.where(x > 1, True, False) | False, ["gt"]),
    "a choice of the contrary": (lambda x: jnp.where(x > 1, False, True), ["gt", "select_n"]),
    "a truth as a number": (lambda x: (x > 1).astype(jnp.float32) != 0, ["gt"]),
    "a truth above zero": (lambda x: (x > 1).astype(jnp.int32) > 0, ["gt"]),
    "a truth above one": (lambda x: (x > 1).astype(jnp.int32) > 1, ["gt", "convert_element_type", "gt"]),
    "truth of more": (lambda x: jnp.ones((3, 9), bool) & (x > 1)[None, :], ["gt", "broadcast_in_dim"]),
    "times one": (lambda x: x * 1.0, []),
    "one times": (lambda x: 1.0 * x, []),
    "over one": (lambda x: x / 1.0, []),
    "one over": (lambda x: 1.0 / x, ["div"]),
    "plus minus zero": (lambda x: x + -0.0, []),
    "plus zero": (lambda x: x + 0.0, ["add"]),
    "minus zero": (lambda x: x - 0.0, []),
    "minus minus zero": (lambda x: x - -0.0, ["sub"]),
    "zero minus": (lambda x: 0.0 - x, ["sub"]),
    "times zero": (lambda x: x * 0.0, ["mul"]),
    "integer plus zero": (lambda x: x.view(jnp.int32) + 0, ["bitcast_convert_type"]),
    "max with lowest": (lambda x: jnp.maximum(x, -jnp.inf), []),
    "max with highest": (lambda x: jnp.maximum(x, jnp.inf), ["max"]),
    "ones array": (lambda x: x * jnp.ones(x.shape), []),
    "one per row": (lambda x: x.reshape(3, 3) * np.ones((3, 1), np.float32), ["reshape"]),
    "growing one": (lambda x: jnp.ones((2, 1)) * x[None], ["broadcast_in_dim", "mul"]),
    "double negation": (lambda x: lax.neg(lax.neg(x)), []),
    "triple negation": (lambda x: lax.neg(lax.neg(lax.neg(x))), ["neg"]),
    "reshape twice": (lambda x: x.reshape(3, 3).reshape(1, 9).reshape(9, 1), ["reshape"]),
    "reshape back": (lambda x: x.reshape(3, 3).reshape(9), []),
    "axis added and reshaped": (lambda x: x[None, :, None].reshape(3, 3), ["reshape"]),
    "axis added and reshaped back": (lambda x: x[:, None].reshape(9), []),
    "axis added and dropped": (lambda x: lax.squeeze(x[None], (0,)), []),
    "repeated": (lambda x: jnp.broadcast_to(x[:, None], (9, 2)).reshape(18), ["broadcast_in_dim", "reshape"]),
    "nothing repeated": (lambda x: jnp.broadcast_to(x[:, None], (9, 0)).reshape(0), ["broadcast_in_dim", "reshape"]),
    "squeeze of reshape": (lambda x: lax.squeeze(x.reshape(1, 9, 1), (0, 2)), []),
    "transpose twice": (lambda x: x.reshape(3, 3).T.T, ["reshape"]),
    "transposes": (
        lambda x: x.reshape(1, 3, 3).transpose(2, 0, 1).transpose(2, 1, 0),
        ["reshape", "transpose"],
    ),
    "slice all": (lambda x: x[:], []),
    "slice twice": (lambda x: x[1:8:2][1:3], ["slice"]),
    "slice of nothing": (lambda x: x[2:2][:], ["slice"]),
    "no padding": (lambda x: lax.pad(x, 0.0, [(0, 0, 0)]), []),
    "concatenate one": (lambda x: jnp.concatenate([x]), []),
    "convert and back": (
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32).astype(jnp.bfloat16),
        ["convert_element_type"],
    ),
    "narrow and back": (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), ["convert_element_type"] * 2),
    "stop gradient": (lambda x: lax.stop_gradient(x), []),
    "copy": (lambda x: jnp.array(x, copy=True), []),
    "sum of no axes": (lambda x: lax.reduce_sum(x, ()), []),
    "broadcast scalar": (lambda x: x * lax.broadcast(x[0] + 1.0, (9,)), ["slice", "squeeze", "add", "mul"]),
    "constant folded": (lambda x: x * (np.float32(3) + jnp.sqrt(4.0)), ["mul"]),
    "broadcasts late": (lambda x: jnp.exp(jnp.full((9,), 2.0) * 3.0) + x, ["add"]),
    "broadcast twice": (
        lambda x: jnp.broadcast_to(jnp.broadcast_to(x[:, None], (9, 2)), (3, 9, 2)),
        ["broadcast_in_dim"],
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_simplify_removes_what_changes_no_bit(name: str) -> None:
    f, expected = EXACT[name]
    before = trace(f, SPECIAL)
    after = MergeEqual()(Simplify()(FoldConstants()(Simplify()(FoldConstants()(before)))))
    verify(after)
    assert opcodes(after) == expected
    for a, b in zip(run(after, SPECIAL), run(before, SPECIAL), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def test_barriers_survive_everything() -> None:
    def f(x: jax.Array) -> jax.Array:
        a, b = lax.optimization_barrier(x), lax.optimization_barrier(x)
        return jnp.sin(a) + jnp.sin(b) + lax.optimization_barrier(np.float32(2)) * 3

    assert opcodes(optimize(trace(f, SPECIAL))).count("optimization_barrier") == 3
    assert opcodes(optimize(trace(f, SPECIAL))).count("sin") == 2


def test_rematerialization_keeps_its_barrier() -> None:
    f = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) * 2))
    gradient = trace(jax.grad(lambda x: f(x).sum()), SPECIAL)
    assert "optimization_barrier" in opcodes(optimize(gradient))
    assert "optimization_barrier" not in opcodes(trace(f, SPECIAL))


def test_equal_operations_are_computed_once() -> None:
    def f(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.exp(x + y) * jnp.exp(y + x) + (x - y) * (y - x) + jnp.arange(9.0) * np.arange(9, dtype=np.float32)

    after = optimize(trace(f, SPECIAL, SPECIAL))
    assert opcodes(after).count("exp") == 1 and opcodes(after).count("sub") == 2
    assert len(after.constants) <= 2


def test_different_parameters_are_not_merged() -> None:
    after = optimize(
        trace(lambda x: (x.sum(0), x.sum(1), x.astype(bool), x.astype(np.int32)), np.ones((2, 2), np.float32))
    )
    assert len(after.ops) == 4


def test_random_numbers_and_callbacks_are_not_merged() -> None:
    def f(x: jax.Array) -> Any:
        jax.debug.callback(lambda v: None, x)
        jax.debug.callback(lambda v: None, x)
        return x

    assert opcodes(optimize(trace(f, SPECIAL))) == ["debug_callback"] * 2


def test_broadcast_constants_stay_small() -> None:
    big = optimize(
        trace(lambda x: x + jnp.full((1000, 1000), 2.0) * jnp.arange(1000.0), np.ones((1000, 1000), np.float32))
    )
    assert sum(constant.value.size for constant in big.constants.values()) <= 1001
    alone = optimize(trace(lambda: jnp.zeros((1000, 1000)) + 1))
    assert sum(constant.value.size for constant in alone.constants.values()) == 1


@pytest.mark.parametrize(
    "f",
    [
        lambda: jnp.float32(300.0).astype(jnp.int8),
        lambda: jnp.float32(np.nan).astype(jnp.int32),
        lambda: lax.mul(jnp.float32(1e-30), jnp.float32(1e-15)),
        lambda: lax.reduce_max(jnp.zeros((0, 2)), (0,)),
        lambda: lax.shift_left(jnp.int32(1), jnp.int32(40)),
    ],
)
def test_folding_leaves_hard_cases_to_xla(f: Callable[[], Any]) -> None:
    graph = trace(f)
    after = optimize(graph)
    assert bits(run(after)[0]) == bits(np.asarray(jax.jit(f)()))


# --- folding of scales -------------------------------------------------------------------------------------------


def conv2d(x: Any, w: Any, groups: int = 1, layout: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC")) -> Any:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups)


def constants(rng: np.random.Generator) -> dict[str, Any]:
    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    names = {"w": (3, 3, 4, 6), "wd": (3, 3, 1, 8), "wo": (6, 4, 3, 3), "m": (4, 6), "mt": (6, 4), "wb": (2, 4, 6)}
    table = {name: draw(*shape) for name, shape in names.items()}
    channels = {name: draw(6) for name in ("mean", "gamma", "beta", "bias")}
    return table | channels | {"var": rng.uniform(0.5, 2, 6).astype(np.float32), "in4": draw(4), "d8": draw(8)}


C = constants(np.random.default_rng(1))
IMAGE, ROWS = (2, 5, 5, 4), (7, 4)


def flax_batch_norm(y: Any) -> Any:
    shape = (1, 1, 1, 6)
    y = y - C["mean"].reshape(shape)
    return y * (lax.rsqrt(jnp.asarray(C["var"]).reshape(shape) + 1e-3) * C["gamma"]) + C["beta"].reshape(shape)


def keras_batch_norm(y: Any) -> Any:
    inverse = lax.rsqrt(jnp.asarray(C["var"]) + 1e-3).reshape(1, 1, 1, 6) * C["gamma"].reshape(1, 1, 1, 6)
    return y * inverse + (C["beta"].reshape(1, 1, 1, 6) - C["mean"].reshape(1, 1, 1, 6) * inverse)


def textbook_batch_norm(y: Any) -> Any:
    return C["gamma"] * ((y - C["mean"]) / jnp.sqrt(C["var"] + np.float32(1e-3))) + C["beta"]


# name -> (function, shape of its argument, operations that remain)
FOLDED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], list[str]]] = {
    "scale": (lambda x: conv2d(x, C["w"]) * C["gamma"], IMAGE, ["conv_general_dilated"]),
    "scale first": (lambda x: C["gamma"] * conv2d(x, C["w"]), IMAGE, ["conv_general_dilated"]),
    "scalar": (lambda x: conv2d(x, C["w"]) * 0.25, IMAGE, ["conv_general_dilated"]),
    "division": (lambda x: conv2d(x, C["w"]) / C["var"], IMAGE, ["conv_general_dilated"]),
    "scale of input": (lambda x: conv2d(x * C["in4"], C["w"]), IMAGE, ["conv_general_dilated"]),
    "bias then scale": (lambda x: (conv2d(x, C["w"]) + C["bias"]) * C["gamma"], IMAGE, ["conv_general_dilated", "add"]),
    "shifts": (lambda x: conv2d(x, C["w"]) - C["mean"] + C["beta"] - 1.0, IMAGE, ["conv_general_dilated", "add"]),
    "flax": (lambda x: flax_batch_norm(conv2d(x, C["w"])), IMAGE, ["conv_general_dilated", "add"]),
    "keras": (lambda x: keras_batch_norm(conv2d(x, C["w"])), IMAGE, ["conv_general_dilated", "add"]),
    "textbook": (lambda x: textbook_batch_norm(conv2d(x, C["w"])), IMAGE, ["conv_general_dilated", "add"]),
    "flax after bias": (
        lambda x: flax_batch_norm(conv2d(x, C["w"]) + C["bias"]),
        IMAGE,
        ["conv_general_dilated", "add"],
    ),
    "depthwise": (lambda x: conv2d(x, C["wd"], groups=4) * C["d8"], IMAGE, ["conv_general_dilated"]),
    "channels first": (
        lambda x: conv2d(x, C["wo"], layout=("NCHW", "OIHW", "NCHW")) * C["gamma"].reshape(6, 1, 1),
        (2, 4, 5, 5),
        ["conv_general_dilated"],
    ),
    "two convolutions": (
        lambda x: conv2d(jax.nn.relu(keras_batch_norm(conv2d(x, C["w"]))), C["w"].transpose(0, 1, 3, 2)) * C["in4"],
        IMAGE,
        ["conv_general_dilated", "add", "max", "conv_general_dilated"],
    ),
    "dot": (lambda x: (x @ C["m"]) * C["gamma"], ROWS, ["dot_general"]),
    "dot with bias": (lambda x: (x @ C["m"] + C["bias"]) / C["var"] - C["mean"], ROWS, ["dot_general", "add"]),
    "dot, weights left": (lambda x: (C["mt"] @ x.T) * C["gamma"][:, None], ROWS, ["dot_general"]),
    "dot, scale of rows": (lambda x: (x * C["in4"]) @ C["m"], ROWS, ["dot_general"]),
    "dot, affine input": (lambda x: (x * C["in4"] + C["in4"]) @ C["m"] + C["bias"], ROWS, ["dot_general", "add"]),
    "batched dot": (
        lambda x: jnp.einsum("bij,bjk->bik", x, C["wb"]) * C["gamma"] * np.float32([2, 3]).reshape(2, 1, 1),
        (2, 3, 4),
        ["dot_general"],
    ),
    "einsum": (lambda x: jnp.einsum("nhwc,cd->ndhw", x, C["m"]) * C["gamma"].reshape(6, 1, 1), IMAGE, []),
}


@pytest.mark.parametrize("name", FOLDED)
def test_scales_are_folded_into_weights(name: str, rng: np.random.Generator) -> None:
    f, shape, expected = FOLDED[name]
    x = rng.standard_normal(shape).astype(np.float32)
    graph = trace(f, x)
    after = optimize(graph)
    if expected:
        assert sorted(opcodes(after)) == sorted([*expected, *["transpose"] * opcodes(after).count("transpose")])
    else:
        assert "mul" in opcodes(after) or opcodes(after).count("dot_general") == 1
    within_contract(graph, after, x)


def within_contract(before: Graph, after: Graph, *arguments: Any) -> None:
    """The error against double precision is at most twice that of `jax.jit`, plus a few units in the last place."""
    for y, y_jit, y64 in zip(
        run(after, *arguments), run(before, *arguments), emit_float64(before)(*arguments), strict=True
    ):
        scale = np.max(np.abs(y64), initial=0)
        allowed = 2 * np.max(np.abs(y_jit - y64), initial=0) + 16 * np.finfo(np.float32).eps * scale
        assert np.max(np.abs(y - y64), initial=0) <= allowed


REFUSED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "product read twice": (lambda x: (lambda y: y * C["gamma"] + y)(conv2d(x, C["w"])), IMAGE),
    "scale varies in space": (lambda x: conv2d(x, C["w"]) * np.arange(5, dtype=np.float32).reshape(5, 1), IMAGE),
    "constant divided by product": (lambda x: C["gamma"] / conv2d(x, C["w"]), IMAGE),
    "division by zero": (lambda x: conv2d(x, C["w"]) / np.float32([1, 0, 1, 1, 1, 1]), IMAGE),
    "infinite scale": (lambda x: conv2d(x, C["w"]) * np.float32([1, np.inf, 1, 1, 1, 1]), IMAGE),
    "overflowing scale": (lambda x: conv2d(x, C["w"] * 1e30) * np.float32(1e30), IMAGE),
    "shift before padding": (lambda x: conv2d(x + C["in4"], C["w"]), IMAGE),
    "input scale of grouped": (lambda x: conv2d(x * C["in4"], C["wd"], groups=4), IMAGE),
    "weights are an argument": (lambda x: (x @ x.T) * np.arange(7, dtype=np.float32), ROWS),
    "integers": (lambda x: lax.dot(x.astype(jnp.int32), C["m"].astype(np.int32)) * np.arange(6, dtype=np.int32), ROWS),
    "mixed precision": (
        lambda x: (
            lax.dot(x.astype(jnp.bfloat16), C["m"].astype(jnp.bfloat16), preferred_element_type=jnp.float32)
            * C["gamma"]
        ),
        ROWS,
    ),
    "scale of rows of the result": (lambda x: (x @ C["m"]) * np.arange(7, dtype=np.float32)[:, None], ROWS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_scales_that_must_stay(name: str, rng: np.random.Generator) -> None:
    f, shape = REFUSED[name]
    graph = FoldConstants()(trace(f, np.zeros(shape, np.float32)))
    assert FoldScales()(Simplify()(graph)) is Simplify()(graph) or digest(FoldScales()(Simplify()(graph))) == digest(
        Simplify()(graph)
    )


def test_zero_padding_moves_into_the_convolution(rng: np.random.Generator) -> None:
    x = rng.standard_normal(IMAGE).astype(np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")

    def f(x: Any, value: float = 0.0, feature: int = 0) -> Any:
        padded = jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, feature)), constant_values=value)
        w = np.pad(C["w"], ((0, 0), (0, 0), (0, feature), (0, 0)))
        return lax.conv_general_dilated(padded, w, (2, 2), "VALID", dimension_numbers=numbers)

    before = trace(f, x)
    after = optimize(before)
    assert opcodes(after) == ["conv_general_dilated"]
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    for kept in (trace(lambda x: f(x, value=1.0), x), trace(lambda x: f(x, feature=1), x)):
        assert "pad" in opcodes(optimize(kept))


def test_golden_batch_norm(golden: Any) -> None:
    """The text of a small network before and after the passes."""
    w = np.ones((1, 1, 2, 3), np.float32)
    scale, shift = np.float32([1, 2, 4]), np.float32([0.5, 0, -1])

    def f(x: jax.Array) -> jax.Array:
        return jax.nn.relu(conv2d(x, w) * scale + shift).reshape(4, 3).reshape(2, 2, 3) + 0

    graph = trace(f, np.zeros((1, 2, 2, 2), np.float32))
    golden.check("batch_norm", f"// before\n{print_graph(graph)}// after\n{print_graph(optimize(graph))}")


# --- the machinery -----------------------------------------------------------------------------------------------


def test_rules_that_undo_each_other_are_reported() -> None:
    flip = RewriteRule("flip", frozenset({"neg"}), lambda op, r: r.add1("neg", op.operands[0]))
    b = GraphBuilder()
    graph = b.build([b.add1("neg", b.input(TensorType((2,), "float32")))])
    with pytest.raises(GraphError, match="did not settle in 5 rounds: flip"):
        apply_rules(graph, [flip], rounds=5)


def test_rule_that_changes_a_type_is_reported() -> None:
    wrong = RewriteRule("wrong", frozenset({"convert_element_type"}), lambda op, r: op.operands[0])
    graph = trace(lambda x: x.astype(jnp.int32), np.ones(2, np.float32))
    with pytest.raises(GraphError, match="rule wrong replaces"):
        apply_rules(graph, [wrong])


def test_pass_manager_names_the_pass_that_broke_the_graph() -> None:
    class Break:
        name = "break"

        def __call__(self, graph: Graph) -> Graph:
            return graph.with_ops([Op("neg", (99,), (100,), (TensorType((), "float32"),))])

    seen: list[str] = []
    graph = trace(lambda x: x + 1, SPECIAL)
    with pytest.raises(GraphError, match="pass break produced an invalid graph"):
        PassManager((*GRAPH_PASSES, Break()), after=lambda step, _: seen.append(step.name)).run(graph)
    assert seen == [step.name for step in GRAPH_PASSES]


# --- random programs ---------------------------------------------------------------------------------------------

UNARY: list[Callable[[Any], Any]] = [
    jnp.negative,
    jnp.abs,
    jnp.tanh,
    lambda x: x.T,
    lambda x: x.reshape(x.shape[::-1]),
    lambda x: x.reshape(1, -1).reshape(x.shape),
    lambda x: jnp.broadcast_to(x.sum(0), x.shape),
    lambda x: x[::-1],
    lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    lambda x: jnp.where(x > 0, x, 0.5),
    lambda x: jnp.pad(x, 1)[1:-1, 1:-1],
    lambda x: x @ np.linspace(-1, 1, x.shape[1] ** 2, dtype=np.float32).reshape(x.shape[1], -1),
    lambda x: x * np.linspace(1, 2, x.shape[1], dtype=np.float32),
    lambda x: x + np.linspace(-1, 2, x.shape[0], dtype=np.float32)[:, None],
    lambda x: (x - 1.0) * 1.0 / 2.0,
    lambda x: x + 0.0 - 0.0,
    lambda x: jnp.maximum(x, -jnp.inf) * jnp.full(x.shape, 2.0),
]
BINARY: list[Callable[[Any, Any], Any]] = [jnp.add, jnp.subtract, jnp.multiply, jnp.maximum]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(UNARY) - 1), st.integers(0, len(BINARY) - 1), st.booleans()), max_size=8))
def test_random_programs_keep_their_meaning(steps: list[tuple[int, int, bool]]) -> None:
    def f(x: Any) -> Any:
        first = x
        for unary, binary, join in steps:
            x = UNARY[unary](x)
            if join and x.shape == first.shape:
                x = BINARY[binary](x, first)
        return x, x.sum()

    x = np.random.default_rng(len(steps)).standard_normal((3, 3)).astype(np.float32)
    before = trace(f, x)
    after = optimize(before)
    table = {c.digest: c.value for c in after.constants.values()}
    assert print_graph(parse_graph(print_graph(after), table)) == print_graph(after)
    within_contract(before, after, x)
    within_contract(before, parse_graph(print_graph(after), table), x)
