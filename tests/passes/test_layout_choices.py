"""Which layouts are worth a look: with the features of convolutions last, whatever the network is made of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from layout_programs import conv, greedily, grouped, whole

from tilewright.ir.graph_edit import subgraph
from tilewright.ir.text import digest
from tilewright.passes.graph_trace import Grouping, apply_graph_step, value_name
from tilewright.passes.layout_choices import features_last
from tilewright.passes.lower import lower
from tilewright.passes.schedule import Step


class Layers:
    """Layers with the same weights in either layout; ``first`` is whether features come before places."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.axis = 1 if first else -1
        self.places = (2, 3) if first else (1, 2)

    def conv(self, x: Any, features: int, taps: int = 3, **options: Any) -> Any:
        groups = options.get("feature_group_count", 1)
        w = whole(features, x.shape[self.axis] // groups, taps, taps)
        if self.first:
            return conv(x, w, **options)
        if groups == 1:
            return conv(x, w, ("NHWC", "OIHW", "NHWC"), **options)
        return conv(x, w.transpose(2, 3, 1, 0), ("NHWC", "HWIO", "NHWC"), **options)

    def each(self, values: np.ndarray) -> np.ndarray:
        return values[:, None, None] if self.first else values

    def pool(self, x: Any) -> Any:
        window = [2 if axis in self.places else 1 for axis in range(4)]
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

    def twice(self, x: Any) -> Any:
        return jnp.repeat(jnp.repeat(x, 2, axis=self.places[0]), 2, axis=self.places[1])


def inverted_residual(net: Layers, x: Any) -> Any:
    y = jnp.clip(net.conv(x, 16, 1) + net.each(whole(16)), 0, 6)
    y = net.conv(y, 16, feature_group_count=16, window_strides=(1, 1))
    gate = jax.nn.sigmoid(y.mean(net.places, keepdims=True))
    return (net.conv(y * gate, 3, 1) + x).sum(net.places)


def dense_block(net: Layers, x: Any) -> Any:
    y = jnp.concatenate([x, net.conv(x, 5)], net.axis)
    y = net.pool(jnp.concatenate([y, net.conv(y, 4, 1)], net.axis))
    return net.conv(y, 8, window_strides=(2, 2)).max(net.places)


def hourglass(net: Layers, x: Any) -> Any:
    y = jnp.maximum(net.conv(x, 8), 0)
    z = net.twice(net.conv(net.pool(y), 8))
    return jnp.tanh(net.conv(jnp.concatenate([y, z], net.axis), 2)).sum(net.places)


def softmax_head(net: Layers, x: Any) -> Any:
    return jax.nn.softmax(net.conv(x, 8), axis=net.axis).sum(net.places)


NETWORKS = (inverted_residual, dense_block, hourglass, softmax_head)
IMAGE = whole(2, 3, 8, 8)


def workloads(grouping: Grouping) -> Counter[str]:
    regions = [subgraph(grouping.graph, r.members) for r in grouping.regions if r.kind != "alias"]
    return Counter(digest(lower(region).func) for region in regions)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_becomes_what_it_is_with_features_last(network):
    images = IMAGE.transpose(0, 2, 3, 1)
    wanted = grouped(lambda x: network(Layers(False), x), images)
    assert list(features_last(wanted.graph)) == []
    start = grouped(lambda x: network(Layers(True), x.transpose(0, 3, 1, 2)), images)
    ((step, *_),) = features_last(start.graph)
    found = apply_graph_step(start, step)
    assert workloads(found) == workloads(wanted)
    assert not {op.opcode for op in found.graph.ops} - {op.opcode for op in wanted.graph.ops}


def values(step: Step) -> set[str]:
    return {item for item in (step.target, *map(str, step.args)) if item.startswith("%")}


def orders(step: Step) -> list[str]:
    return [item for item in map(str, step.args) if not item.startswith("%")]


def test_what_is_tied_to_arguments_and_results_may_stay():
    start = grouped(lambda x: jnp.exp(conv(jnp.tanh(conv(jnp.sin(x), whole(4, 3, 3, 3))), whole(5, 4, 1, 1))), IMAGE)
    ((everything, inside),) = features_last(start.graph)
    names = {op.opcode: value_name(op.result) for op in start.graph.ops}
    assert {names["tanh"], names["sin"], names["exp"]} <= values(everything)
    assert names["tanh"] in values(inside) and not {names["sin"], names["exp"]} & values(inside)
    assert orders(inside) == ["0,2,3,1"], "kernels pack known weights"
    assert "transpose" not in {op.opcode for op in apply_graph_step(start, inside).graph.ops}


def test_weights_follow_where_they_are_not_packed():
    def fn(x, w):
        return conv(jnp.tanh(conv(conv(x, whole(4, 3, 3, 3)), whole(4, 1, 3, 3), feature_group_count=4)), w).sum((2, 3))

    start = grouped(fn, IMAGE, whole(5, 4, 1, 1))
    ((step, *_),) = features_last(start.graph)
    convolutions = [op for op in start.graph.ops if op.opcode == "conv_general_dilated"]
    weights = [value_name(op.operands[1]) for op in convolutions]
    assert set(weights) & values(step) == set(weights[1:]) and orders(step) == ["0,2,3,1", "2,3,1,0"]


def test_unconnected_networks_are_decided_apart():
    def two(x):
        return [conv(jnp.tanh(conv(x, whole(4, 3, 3, 3, seed=n))), whole(2, 4, 1, 1)).sum((2, 3)) for n in (0, 1)]

    assert len(list(features_last(grouped(two, IMAGE).graph))) == 2


@pytest.mark.parametrize(("shape", "order"), [((2, 3, 9), "0,2,1"), ((2, 3, 4, 5, 6), "0,2,3,4,1")])
def test_any_number_of_places(shape, order):
    letters = "DHW"[-(len(shape) - 2) :]
    numbers = ("NC" + letters, "OI" + letters, "NC" + letters)
    weights = whole(4, 3, *(2 for _ in letters))
    start = grouped(lambda x: jnp.tanh(conv(x, weights, numbers)).sum(range(2, len(shape))), whole(*shape))
    ((step, *_),) = features_last(start.graph)
    assert orders(step)[0] == order


def test_nothing_to_gain_where_no_element_would_move():
    start = grouped(lambda x: conv(jnp.tanh(conv(x, whole(4, 3, 1, 1))), whole(5, 4, 1, 1)), whole(2, 3, 1, 1))
    assert list(features_last(start.graph)) == []
    assert list(features_last(grouped(lambda x: jnp.tanh(x @ x), whole(4, 4)).graph)) == []


def test_reshapes_carry_layouts_on():
    def norm(x):
        y = conv(x, whole(4, 3, 3, 3)).reshape(2, 2, 2, 8, 8)
        y = y - jnp.tanh(y.mean((2, 3, 4), keepdims=True))
        return conv(y.reshape(2, 4, 8, 8), whole(5, 4, 1, 1)).max((2, 3))

    graph = grouped(norm, IMAGE).graph
    ((step, *_),) = features_last(graph)
    end = apply_graph_step(greedily(graph), step)
    assert not any(op.opcode == "transpose" and op.type.rank > 3 for op in end.graph.ops[1:])
