"""Layouts: values stored with their axes in another order, chosen at random or for convolutions."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun
from layout_programs import IMAGE, PROGRAMS, conv, grouped, whole
from random_graphs import check_regions, run_regions

from tilewright.backends.xla import emit
from tilewright.ir.graph import Graph
from tilewright.ir.graph_text import verify
from tilewright.passes.graph_trace import Grouping, apply_graph_step, replay_graph, value_name
from tilewright.passes.layout_choices import features_last
from tilewright.passes.schedule import ReplayError, ScheduleError, Step, Trace, trace_from_json, trace_to_json

SEEDS = 1


def movable(graph: Graph) -> list[int]:
    """Values that may be stored otherwise."""
    made = [op.result for op in graph.ops if len(op.results) == 1]
    return [
        v for v in (*made, *(c for c in graph.constants if graph.constant(c) is not None)) if graph.types[v].rank > 1
    ]


def random_layouts(start: Grouping, rng: np.random.Generator) -> tuple[Trace, Grouping]:
    """Some values in random orders, by several steps."""
    now, trace = start, list[Step]()
    for _ in range(2):
        args: list[str] = []
        for rank in sorted({now.graph.types[v].rank for v in movable(now.graph)}):
            chosen = [v for v in movable(now.graph) if now.graph.types[v].rank == rank and rng.random() < 0.6]
            order = rng.permutation(rank).tolist()
            if chosen and order != sorted(order):
                args += [",".join(map(str, order)), *map(value_name, chosen)]
        if args:
            order, target, *more = args
            trace.append(Step("set_layout", target, (order, *more)))
            now = apply_graph_step(now, trace[-1])
    return tuple(trace), now


def results(graph: Graph, args: Any) -> list[np.ndarray]:
    return [np.asarray(v) for v in jaxpr_as_fun(emit(graph))(*args)]


def same(found: Any, want: Any) -> None:
    for got, expected in zip(found, want, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=0)  # functions round as XLA fuses them


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", PROGRAMS)
def test_any_layout_computes_the_same(name, seed):
    fn, args = PROGRAMS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    start = grouped(fn, *args)
    trace, end = random_layouts(start, rng)
    verify(end.graph)
    check_regions(end.graph, end.regions)
    assert end.graph.output_types == start.graph.output_types
    same(results(end.graph, args), results(start.graph, args))
    again = replay_graph(start, trace_from_json(trace_to_json(trace)))
    assert again.regions == end.regions


INTERPRETED = (
    "residual",
    "strided",
    "transposed",
    "dense block",
    "channel softmax",
    "pools",
    "group norm",
    "upsampled",
)


@pytest.mark.parametrize("name", INTERPRETED)
def test_workloads_of_any_layout_compute_the_same(name):
    fn, args = PROGRAMS[name]
    _, end = random_layouts(grouped(fn, *args), np.random.default_rng([*name.encode()]))
    found = run_regions(end.graph, end.regions, [np.asarray(a) for a in args])
    for value, want in zip(end.graph.outputs, jax.tree.leaves(jax.jit(fn)(*args)), strict=True):
        np.testing.assert_allclose(found[value], want, rtol=1e-5, atol=1e-5)


# ---- what changes


def opcodes(grouping: Grouping) -> list[str]:
    return [op.opcode for op in grouping.graph.ops]


def made_by(grouping: Grouping, opcode: str, number: int = 0) -> int:
    return [op.result for op in grouping.graph.ops if op.opcode == opcode][number]


def test_values_keep_their_numbers_and_convolutions_take_any_layout():
    start = grouped(lambda x: conv(conv(x, whole(4, 3, 3, 3)), whole(5, 4, 3, 3)), IMAGE)
    middle = made_by(start, "conv_general_dilated")
    end = apply_graph_step(start, Step("set_layout", value_name(middle), ("0,2,3,1",)))
    assert opcodes(end) == ["conv_general_dilated"] * 2, "nothing is transposed"
    assert end.graph.types[middle].shape == (2, 6, 5, 4)
    back = apply_graph_step(end, Step("set_layout", value_name(middle), ("0,3,1,2",)))
    assert [op.params for op in back.graph.ops] == [op.params for op in start.graph.ops]


def test_what_does_not_go_along_stands_between_transpositions():
    start = grouped(lambda x: jax.lax.sort(conv(x, whole(4, 3, 3, 3)), dimension=1) * 2, IMAGE)
    values = [value_name(op.result) for op in start.graph.ops]
    end = apply_graph_step(start, Step("set_layout", values[0], ("0,2,3,1", *values[1:])))
    assert opcodes(end) == ["conv_general_dilated", "transpose", "sort", "transpose", "mul", "transpose"]


def test_transpositions_that_a_layout_makes_unnecessary_are_gone():
    def fn(x):
        y = conv(x, whole(4, 3, 3, 3)).transpose(0, 2, 3, 1)
        return conv((y / y.max(-1, keepdims=True)).transpose(0, 3, 1, 2), whole(2, 4, 1, 1))

    start = grouped(fn, IMAGE)
    assert "transpose" in opcodes(start)
    ((step, *_),) = features_last(start.graph)
    assert "transpose" not in opcodes(apply_graph_step(start, step))[1:-1]


def test_axes_of_size_one_move_without_a_transposition():
    start = grouped(lambda x: jax.lax.sort(jax.numpy.tanh(x * 2), dimension=1), whole(1, 8, 1, 1))
    end = apply_graph_step(start, Step("set_layout", value_name(made_by(start, "tanh")), ("0,2,3,1",)))
    assert "transpose" not in opcodes(end) and "reshape" in opcodes(end)


# ---- refusals


def refused(start: Grouping, step: Step, why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        apply_graph_step(start, step)
    with pytest.raises(ReplayError, match=why):
        replay_graph(start, (step,))


def test_steps_name_orders_of_values():
    start = grouped(lambda x: jax.lax.top_k(conv(x, whole(4, 3, 3, 3)) + 1, 2), IMAGE)
    value = value_name(made_by(start, "add"))
    several = value_name(start.graph.ops[-1].results[0])
    refused(start, Step("set_layout", value), "wrong arguments")
    refused(start, Step("set_layout", value, (1,)), "names as arguments")
    for order in ("", "0,2,3,x", "0,-1,2,3", "0,²,3,1", "0,2,3,1000"):
        refused(start, Step("set_layout", value, (order,)), "an order of axes")
    for order in ("1,0", "0,2,2,1", "1,3,2,4", "0,2,3,1," * 99 + "0"):
        refused(start, Step("set_layout", value, (order,)), "an order of the axes of")
    refused(start, Step("set_layout", value, ("0,1,2,3",)), "another order")
    for name in (several, "%999"):
        refused(start, Step("set_layout", name, ("0,2,3,1",)), "the only result")
    refused(start, Step("set_layout", value, ("0,2,3,1", "conv")), "an order of axes")
    refused(start, Step("set_layout", value, ("0,2,3,1", "%conv")), "name of a value")
    refused(start, Step("set_layout", value, ("0,2,3,1", "1,0", value)), "an order of the axes of")


def test_layouts_come_before_steps_on_regions():
    start = grouped(lambda x: jax.numpy.tanh(conv(x, whole(4, 3, 3, 3))), IMAGE)
    step = Step("set_layout", value_name(made_by(start, "tanh")), ("0,2,3,1",))
    apart = apply_graph_step(start, Step("cut", value_name(made_by(start, "conv_general_dilated"))))
    refused(apart, step, "greedy regions")
    refused(Grouping(start.graph, start.regions), step, "greedy regions")
