"""Loops in the graph IR: text, digest, and one failing program for each rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright.ir.graph import Graph, GraphBuilder, GraphError, TensorType
from tilewright.ir.graph_text import canonical, digest, parse_graph, print_graph, verify
from tilewright.ir.scan import scan_of

V = TensorType((3,), "float32")
XS = TensorType((5, 3), "float32")
PARAMS = {"length": 5, "reverse": False, "num_consts": 1, "num_carry": 1, "unroll": 1}


def body() -> Graph:
    """Next carry: ``w * c + x``; stacked: the carry."""
    b = GraphBuilder()
    w, c, x = b.input(V), b.input(V), b.input(V)
    return b.build([b.add1("add", b.add1("mul", w, c), x), c])


def example(inner: Graph | None = None) -> Graph:
    b = GraphBuilder()
    w, xs = b.input(V), b.input(XS)
    start = b.constant(np.zeros(3, np.float32))
    last, stacked = b.add("scan", [w, start, xs], PARAMS, [V, XS], body=inner or body())
    return b.build([last, stacked])


def changed(**parts: object) -> Graph:
    graph = example()
    return graph.with_ops([replace(graph.ops[0], **parts)])


def test_text_round_trip_is_exact() -> None:
    graph = example()
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    assert digest(again) == digest(graph) == digest(canonical(graph))
    nested = example(example_body_with_a_loop())
    text = print_graph(nested)
    assert print_graph(parse_graph(text)) == text and digest(nested) != digest(graph)


def example_body_with_a_loop() -> Graph:
    b = GraphBuilder()
    w, c, x = b.input(V), b.input(V), b.input(V)
    inner = GraphBuilder()
    value = inner.input(V)
    params = {"length": 2, "reverse": True, "num_consts": 0, "num_carry": 1, "unroll": 1}
    (twice,) = b.add("scan", [c], params, [V], body=inner.build([inner.add1("neg", value)]))
    return b.build([b.add1("add", b.add1("mul", w, twice), x), c])


def test_the_body_is_part_of_the_identity() -> None:
    graph = example()
    b = GraphBuilder()
    w, c, x = b.input(V), b.input(V), b.input(V)
    other = b.build([b.add1("sub", b.add1("mul", w, c), x), c])
    assert digest(example(other)) != digest(graph)


def test_parts() -> None:
    graph = example()
    loop = scan_of(graph.ops[0])
    assert loop is not None
    assert (loop.invariants, loop.initial, loop.xs) == ((0,), (2,), (1,))
    assert (loop.body_invariants, loop.body_carries, loop.body_xs) == ((0,), (1,), (2,))
    assert (loop.final, loop.ys) == ((3,), (4,))
    assert scan_of(loop.body.ops[0]) is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"opcode": "while"}, "expected a body in no operation but scan"),
        ({"params": {**PARAMS, "length": 4}}, "expected a leading axis of 4 iterations"),
        ({"params": {**PARAMS, "num_carry": 3}}, "expected a length and counts of operands"),
        ({"params": {**PARAMS, "length": -1}}, "expected a length and counts of operands"),
        ({"params": {"length": 5}}, "expected the parameters"),
        ({"operands": (0, 2)}, "slices: expected"),
        ({"types": (V, V)}, "results: expected"),
        ({"operands": (1, 2, 1)}, "operands: expected"),
    ],
)
def test_a_loop_that_does_not_fit_its_body_is_refused(parts: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        verify(changed(**parts))


def test_faults_inside_a_body_are_found() -> None:
    inner = body()
    with pytest.raises(GraphError, match="read before it is defined"):
        verify(example(inner.with_ops(inner.ops[::-1])))
    b = GraphBuilder()
    w, c, x = b.input(V), b.input(V), b.input(V)
    wrong = b.build([b.add1("reduce_sum", b.add1("add", w, x), axes=(0,)), c])
    with pytest.raises(GraphError, match="next carries: expected"):
        verify(example(wrong))


def test_damaged_texts_are_refused() -> None:
    text = print_graph(example())
    with pytest.raises(GraphError, match="expected `}` after the return of a body"):
        parse_graph(text.replace("\n}\n", "\n"))
    with pytest.raises(GraphError, match="expected a last line"):
        parse_graph("\n".join(text.splitlines()[:-3]))
    with pytest.raises(GraphError, match=r"line \d+: "):
        parse_graph(text.replace("  %3 = mul(", "  %3 = mul"))
    deep = "tilewright.graph 1\n" + "\n".join("  " * n + "%1 = scan() : float32[] {" for n in range(100))
    with pytest.raises(GraphError, match="at most 32 loops inside each other"):
        parse_graph(deep)
