"""Graph traces: any legal one leaves convex regions of one result each, which together compute what JAX does."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_graphs import SUPPORTED, check_regions, random_function, run_regions

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph_text import canonical, verify
from tilewright.passes.formulations import FORMULATIONS
from tilewright.passes.fusion import greedy
from tilewright.passes.graph_choices import graph_candidates, graph_choices
from tilewright.passes.graph_trace import (
    Grouping,
    apply_graph_step,
    graph_primitives,
    replay_graph,
    value_name,
)
from tilewright.passes.schedule import ReplayError, ScheduleError, Step, Trace, trace_from_json, trace_to_json
from tilewright.passes.sink_views import sink_views


def grouped(fn, *shapes) -> Grouping:
    graph = to_graph(jax.make_jaxpr(fn)(*(jnp.zeros(s, jnp.float32) for s in shapes)))
    graph = canonical(sink_views(graph))
    return Grouping(graph, greedy(graph, SUPPORTED))


def opcodes(grouping: Grouping) -> list[set[str]]:
    return [{grouping.graph.ops[m].opcode for m in r.members} for r in grouping.regions]


def made_by(grouping: Grouping, opcode: str, number: int = 0) -> str:
    return value_name([op.result for op in grouping.graph.ops if op.opcode == opcode][number])


def random_trace(rng: np.random.Generator, start: Grouping, steps: int) -> tuple[Trace, Grouping]:
    """A random legal trace, and where it leads."""
    trace: list[Step] = []
    now = start
    for _ in range(steps):
        name = str(rng.choice(sorted(graph_primitives())))
        offered = list(graph_candidates(now, name))
        rng.shuffle(offered)
        for step in offered[:6]:
            try:
                now = apply_graph_step(now, step)
            except ScheduleError:
                continue
            trace.append(step)
            break
    return tuple(trace), now


@pytest.mark.parametrize("seed", range(40))
def test_any_legal_trace_computes_what_jax_does(seed):
    rng = np.random.default_rng(seed)
    fn = random_function(rng, 14, 0.1)
    args = [rng.standard_normal((6, 8)).astype(np.float32) for _ in range(2)]
    start = grouped(fn, (6, 8), (6, 8))
    trace, end = random_trace(rng, start, 6)
    verify(end.graph)
    check_regions(end.graph, end.regions)
    again = replay_graph(start, trace_from_json(trace_to_json(trace)))
    assert again.regions == end.regions
    found = run_regions(end.graph, end.regions, args)
    for value, want in zip(end.graph.outputs, jax.tree.leaves(jax.jit(fn)(*args)), strict=True):
        np.testing.assert_allclose(found[value], want, rtol=1e-4, atol=1e-4)


def test_random_traces_use_every_primitive():
    applied: Counter[str] = Counter()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        trace, _ = random_trace(rng, grouped(random_function(rng, 14, 0.1), (6, 8), (6, 8)), 6)
        applied.update(step.primitive for step in trace)
    assert applied.keys() == graph_primitives().keys() - {"formulate", "set_layout"}, "which are for convolutions"
    assert min(applied.values()) >= 8


# ---- what steps do


def softmax(x):
    y = jnp.tanh(x) * 2
    return jnp.exp(y - y.max(-1, keepdims=True))


def test_a_cut_value_is_stored_and_what_both_parts_need_is_computed_twice():
    start = grouped(softmax, (6, 8))
    assert len(start.regions) == 1
    end = apply_graph_step(start, Step("cut", made_by(start, "reduce_max")))
    assert opcodes(end)[0] >= {"tanh", "mul", "reduce_max"} and opcodes(end)[1] >= {"tanh", "mul", "sub", "exp"}
    end = apply_graph_step(start, Step("cut", made_by(start, "mul")))
    assert ["tanh" in ops for ops in opcodes(end)] == [True, False], "what is stored is not computed again"


def test_several_values_are_stored_at_once():
    start = grouped(lambda x: jnp.tanh(jnp.exp(x) * 2) - x, (6, 8))
    end = apply_graph_step(start, Step("cut", made_by(start, "exp"), (made_by(start, "tanh"),)))
    assert [ops & {"exp", "tanh", "sub"} for ops in opcodes(end)] == [{"exp"}, {"tanh"}, {"sub"}]


def test_what_was_cut_can_be_grouped_again():
    start = grouped(lambda x, w, b: jnp.tanh(x @ w + b), (4, 5), (5, 6), (6,))
    product, whole = made_by(start, "dot_general"), made_by(start, "tanh")
    apart = apply_graph_step(start, Step("cut", product))
    assert [r.kind for r in apart.regions] == ["contraction", "elementwise"]
    again = apply_graph_step(apart, Step("group", whole, (product,)))
    assert [r.members for r in again.regions] == [r.members for r in start.regions]


def test_a_value_with_several_readers_is_computed_by_each():
    start = grouped(lambda x: (lambda y: (y.sum(1), jnp.exp(y) @ x.T))(jnp.tanh(x)), (6, 8))
    shared, total = made_by(start, "tanh"), made_by(start, "reduce_sum")
    end = apply_graph_step(start, Step("group", total, (shared,)))
    assert sum(op.opcode == "tanh" for op in end.graph.ops) == 2
    assert {"tanh", "reduce_sum"} in opcodes(end)


def spread(x):
    """A value that three regions read."""
    y = jnp.tanh(x) * 2
    return y.sum(1), y.max(0), y.T[1:] + 1


def test_a_value_is_computed_again_by_all_its_readers():
    start = grouped(spread, (6, 8))
    shared = made_by(start, "mul")
    (step,) = (s for s in graph_candidates(start, "rematerialize") if s.target == shared)
    assert len(step.args) == 3
    end = apply_graph_step(start, step)
    check_regions(end.graph, end.regions)
    assert sum(op.opcode == "tanh" for op in end.graph.ops) == 3
    assert len(end.regions) == len(start.regions) - 1 and all("tanh" in ops for ops in opcodes(end))
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    found = run_regions(end.graph, end.regions, [x])
    for value, want in zip(end.graph.outputs, spread(x), strict=True):
        np.testing.assert_allclose(found[value], want, rtol=1e-5, atol=1e-5)


def test_what_products_windows_or_callers_read_is_not_offered_to_be_computed_again():
    def operand(x):
        y = jnp.tanh(x)
        return y.sum(1), y @ x.T

    def transposed(x):
        y = jnp.tanh(x)
        return y.sum(1), y.T @ x

    def window(x):
        y = jnp.tanh(x)
        return y.sum(1), jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (2, 2), (1, 1), "VALID")

    def epilogue(x):
        y = jnp.tanh(x)
        return y.sum(1), x @ x.T @ x + y

    for fn, count in ((operand, 0), (transposed, 0), (window, 0), (epilogue, 1)):
        assert len(list(graph_candidates(grouped(fn, (6, 8)), "rematerialize"))) == count, fn.__name__
    returned = grouped(lambda x: (lambda y: (y, y.sum(1), y.max(0)))(jnp.tanh(x)), (6, 8))
    assert not list(graph_candidates(returned, "rematerialize"))


# ---- refusals


def test_a_value_that_others_read_is_stored_all_the_same():
    start = grouped(spread, (6, 8))
    shared, total, most = made_by(start, "mul"), made_by(start, "reduce_sum"), made_by(start, "reduce_max")
    refused(start, Step("rematerialize", shared, (total, most)), "expected all that reads")
    refused(start, Step("rematerialize", shared), "expected all that reads %[0-9]+, found none")
    refused(start, Step("rematerialize", total, (most,)), "read by what is grouped")


def refused(start: Grouping, step: Step, why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        apply_graph_step(start, step)
    with pytest.raises(ReplayError, match=why):
        replay_graph(start, (step,))


def test_a_product_is_not_computed_twice():
    start = grouped(lambda x, w: (lambda y: (jnp.tanh(y).sum(0), y.max(1)))(x @ w), (4, 5), (5, 6))
    product = made_by(start, "dot_general")
    refused(start, Step("group", made_by(start, "reduce_max"), (product,)), "computed twice")


def test_no_path_leaves_a_region_and_comes_back():
    start = grouped(lambda x, w: (lambda y: y + jnp.sin(y))(x @ w), (5, 5), (5, 5))
    product, total = made_by(start, "dot_general"), made_by(start, "add")
    refused(start, Step("group", total, (product,)), "computed twice")
    start = grouped(lambda x: (lambda y: (y @ x + jnp.sin(y)) * y)(jnp.tanh(x)), (5, 5))
    end = apply_graph_step(start, Step("group", made_by(start, "mul"), (made_by(start, "tanh"),)))
    check_regions(end.graph, end.regions)
    assert sum(op.opcode == "tanh" for op in end.graph.ops) == 2


def test_only_what_feeds_a_region_joins_it():
    start = grouped(lambda x, w: (x @ w, jnp.tanh(x)), (5, 5), (5, 5))
    refused(start, Step("group", made_by(start, "tanh"), (made_by(start, "dot_general"),)), "to be read by")
    refused(start, Step("group", made_by(start, "tanh"), (made_by(start, "tanh"),)), "other regions")
    refused(start, Step("group", made_by(start, "tanh")), "other regions")


def test_steps_name_values_of_regions():
    start = grouped(lambda x, w: jnp.sin(x) @ w, (5, 5), (5, 5))
    refused(start, Step("cut", made_by(start, "dot_general")), "inside one region")
    refused(start, Step("cut", made_by(start, "sin")), "a region computes")
    refused(start, Step("cut", "%999"), "a region computes")
    refused(start, Step("cut", "dot"), "name of a value")
    refused(start, Step("cut", "%1", (2,)), "names as arguments")
    refused(start, Step("join", "%1"), "one of the graph primitives")


def test_values_to_cut_at_are_inside_one_region():
    start = grouped(lambda x, w: jnp.tanh(jnp.exp(x) * 2) @ w, (5, 5), (5, 5))
    inside, other = made_by(start, "exp"), made_by(start, "dot_general")
    refused(start, Step("cut", inside, (other,)), "inside one region")


def test_a_formulation_belongs_to_a_region():
    numbers = ("NHWC", "HWIO", "NHWC")
    weights = np.ones((3, 3, 32, 32), np.float32)
    start = grouped(
        lambda x: jnp.tanh(jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=numbers)),
        (1, 8, 8, 32),
    )
    whole, product = made_by(start, "tanh"), made_by(start, "conv_general_dilated")
    assert len(list(graph_choices(start, "formulate"))) == sum(name.startswith("winograd") for name in FORMULATIONS)
    end = apply_graph_step(start, Step("formulate", whole, ("winograd2",)))
    assert [r.formulation for r in end.regions] == ["winograd2"]
    end = apply_graph_step(end, Step("cut", product))
    assert [r.formulation for r in end.regions] == ["", ""], "it was one of the whole"
    refused(start, Step("formulate", whole, ("other",)), "one of the formulations")
    refused(end, Step("formulate", whole, ("winograd2",)), "applies to")


def test_offered_steps_apply():
    start = grouped(softmax, (6, 8))
    for name in graph_primitives():
        for step in graph_choices(start, name):
            apply_graph_step(start, step)
    with pytest.raises(ScheduleError, match="graph primitives"):
        graph_candidates(start, "join")
