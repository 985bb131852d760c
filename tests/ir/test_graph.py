"""The graph IR: text round trip, digests, one failing program for each verifier rule, editing helpers."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from tilewright.ir.graph import Constant, Graph, GraphBuilder, GraphError, Op, TensorType
from tilewright.ir.graph_edit import remove_dead, replace_region, replace_values, subgraph, toposort
from tilewright.ir.graph_text import canonical, digest, parse_graph, parse_type, print_graph, verify
from tilewright.ir.infer import infer

F = TensorType((2, 3), "float32")


def example() -> Graph:
    """(x * 2) @ w, its sum, and a two-result operation."""
    b = GraphBuilder()
    x = b.input(F)
    two = b.constant(np.asarray(2.0, np.float32), TensorType((), "float32", weak_type=True))
    weights = b.constant(np.arange(12, dtype=np.float32).reshape(3, 4))
    scaled = b.add1("mul", x, two)
    product = b.add1("dot_general", scaled, weights, dimension_numbers=(((1,), (0,)), ((), ())))
    total = b.add1("reduce_sum", product, axes=(0, 1))
    pair = [TensorType((2, 2), "float32"), TensorType((2, 2), "int32")]
    values, places = b.add("top_k", [product], {"k": 2, "axis": 1}, pair)
    return b.build([total, values, places, x, total])


def arrays(graph: Graph) -> dict[str, np.ndarray]:
    return {constant.digest: constant.value for constant in graph.constants.values()}


def test_text_round_trip_is_exact() -> None:
    graph = example()
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text, arrays(graph))
    assert print_graph(again) == text
    assert digest(again) == digest(graph)


@pytest.mark.parametrize(
    "array",
    [
        np.asarray(0.1, np.float32),
        np.asarray(-0.0, np.float32),
        np.asarray(np.inf, np.float64),
        np.asarray(np.nan, np.float32),
        np.asarray(-np.nan, np.float16),
        np.asarray(3.3895e38, ml_dtypes.bfloat16),
        np.asarray(2**63, np.uint64),
        np.asarray(-128, np.int8),
        np.asarray(True),
        np.asarray(1 + 2j, np.complex64),
        np.array([], np.float32),
        np.array([[1, 2], [3, 4]], np.int16).T,
    ],
    ids=str,
)
def test_small_constants_round_trip_bit_for_bit(array: np.ndarray) -> None:
    b = GraphBuilder()
    graph = b.build([b.constant(array)])
    text = print_graph(graph)
    (again,) = parse_graph(text).constants.values()
    assert again.value.dtype == array.dtype and again.value.shape == array.shape
    assert again.value.tobytes() == array.tobytes()
    assert print_graph(parse_graph(text)) == text


def test_all_parameter_forms_round_trip() -> None:
    params = {"a": (1, (2.5, -3), ()), "b": None, "c": True, "d": "text ) } : ,", "e": float("inf"), "f": 1.0, "g": 1}
    b = GraphBuilder()
    x = b.input(TensorType((), "key<fry>", varying=("i", "j")))
    graph = b.build(b.add("anything-else", [x], params, [TensorType((4, 0), "float32", True, ("i",))]))
    (op,) = parse_graph(print_graph(graph)).ops
    assert dict(op.params) == params and type(op.params["f"]) is float and type(op.params["g"]) is int
    assert op.types == graph.ops[0].types


def test_no_results_and_no_outputs() -> None:
    graph = Graph({}, {}, (), ())
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)


def test_digest_ignores_numbering_and_unused_constants_only() -> None:
    graph = example()
    moved = {value: value + 100 for value in graph.types}
    shifted = Graph(
        {moved[v]: t for v, t in graph.inputs.items()},
        {moved[v]: c for v, c in reversed(graph.constants.items())}
        | {7: Constant(np.ones(99), TensorType((99,), "float64"))},
        tuple(
            Op(
                op.opcode,
                tuple(map(moved.__getitem__, op.operands)),
                tuple(map(moved.__getitem__, op.results)),
                op.types,
                op.params,
            )
            for op in graph.ops
        ),
        tuple(map(moved.__getitem__, graph.outputs)),
    )
    assert digest(shifted) == digest(graph)
    assert print_graph(canonical(canonical(graph))) == print_graph(canonical(graph))
    other = {v: Constant(c.value + 1, c.type) for v, c in graph.constants.items()}
    assert digest(Graph(graph.inputs, other, graph.ops, graph.outputs)) != digest(graph)
    assert digest(graph.with_ops(graph.ops, graph.outputs[:-1])) != digest(graph)
    weak = {v: TensorType(t.shape, t.dtype, True) for v, t in graph.inputs.items()}
    assert digest(Graph(weak, graph.constants, graph.ops, graph.outputs)) != digest(graph)


def test_constants_are_shared_not_copied() -> None:
    big = np.zeros(1000)
    b = GraphBuilder()
    graph = b.build([b.constant(big)])
    assert next(iter(subgraph(replace_values(remove_dead(graph), {}), []).constants.values()), None) is None
    assert next(iter(canonical(graph).constants.values())).value is big


def test_opaque_graphs_print_but_have_no_digest() -> None:
    b = GraphBuilder()
    x = b.input(F)
    graph = b.build(b.add("scan", [x], {}, [F], ref=object(), effects=("io",)))
    verify(graph)
    assert "opaque effects[io] scan(%0)" in print_graph(graph)
    with pytest.raises(GraphError, match="scan"):
        digest(graph)
    with pytest.raises(GraphError, match="opaque"):
        parse_graph(print_graph(graph))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tilewright.graph 9\nreturn\n", "starts with"),
        ("tilewright.graph 1\n", "return"),
        ("tilewright.graph 1\n%0 = input float32[2\nreturn %0\n", "line 2"),
        ("tilewright.graph 1\n%0 = input float32[2]\n%1 = neg %0\nreturn %1\n", "line 3"),
        ("tilewright.graph 1\n%0 = constant float32[99] blake2b:00\nreturn %0\n", "digest 00"),
        ("tilewright.graph 1\n%0 = constant what[] 3\nreturn %0\n", "what"),
        ("tilewright.graph 1\n%0 = input float32[2]\nreturn %1\n", "%1"),
        ("tilewright.graph 1\nreturn\nreturn\n", "after the return"),
        ("tilewright.graph 1\nnonsense\nreturn\n", "line 2"),
        ("tilewright.graph 1\n%0, %1 = input float32[]\nreturn\n", "one value"),
    ],
)
def test_malformed_text_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_graph(text)


def test_swapped_constant_is_refused() -> None:
    graph = example()
    wrong = {key: value + 1 for key, value in arrays(graph).items()}
    with pytest.raises(GraphError, match="other content"):
        parse_graph(print_graph(graph), wrong)


def chain(*ops: Op, outputs: tuple[int, ...] = (1,)) -> Graph:
    return Graph({0: F}, {}, ops, outputs)


BROKEN: dict[str, tuple[Callable[[], Graph], str]] = {
    "read before defined": (lambda: chain(Op("neg", (5,), (1,), (F,))), "%5 is read before"),
    "defined twice": (lambda: chain(Op("neg", (0,), (0,), (F,)), outputs=()), "%0 is defined twice"),
    "undefined output": (lambda: chain(outputs=(3,)), "output %3"),
    "results and types": (lambda: chain(Op("neg", (0,), (1, 2), (F,))), "2 results but 1 types"),
    "negative size": (lambda: chain(Op("f", (0,), (1,), (TensorType((-1,), "int8"),))), "not a whole number"),
    "parameter": (lambda: chain(Op("f", (0,), (1,), (F,), {"p": [1]})), "p is not plain data"),
    "parameter type": (lambda: chain(Op("f", (0,), (1,), (F,), {"p": np.int64(1)})), "p is not plain data"),
    "opaque parameters": (lambda: chain(Op("f", (0,), (1,), (F,), {"p": 1}, ref=object())), "in its reference"),
    "wrong type": (lambda: chain(Op("neg", (0,), (1,), (TensorType((3, 2), "float32"),))), "is declared"),
    "wrong dtype": (lambda: chain(Op("eq", (0, 0), (1,), (F,))), r"gives bool\[2,3\]"),
    "bad operands": (lambda: chain(Op("add", (0,), (1,), (F,))), "expected 2 operands, found 1"),
    "missing parameter": (lambda: chain(Op("transpose", (0,), (1,), (F,))), "does not accept"),
    "constant's type": (
        lambda: Graph({}, {0: Constant(np.zeros(3, np.float32), F)}, (), (0,)),
        r"declared float32\[2,3\], its array is float32\[3\]",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_verifier_refuses(name: str) -> None:
    make, message = BROKEN[name]
    with pytest.raises(GraphError, match=message):
        verify(make())


def test_verifier_shows_the_neighbourhood() -> None:
    ops = [Op("neg", (i,), (i + 1,), (F,)) for i in range(20)]
    ops[10] = Op("neg", (99,), (11,), (F,))
    with pytest.raises(GraphError) as error:
        verify(chain(*ops))
    lines = str(error.value).splitlines()
    assert len(lines) == 10 and lines[5] == "  > 10: %11 = neg(%99) : float32[2,3]"


def test_parse_type() -> None:
    for text in ("float32[]", "bool*[2,3]", "key<fry>[0]", "int8@a@b[1]", "bfloat16*@i[7]"):
        assert str(parse_type(text)) == text


def test_lookups() -> None:
    graph = example()
    x, scaled, product = next(iter(graph.inputs)), graph.ops[0].result, graph.ops[1].result
    assert graph.users[scaled] == (1,) and graph.users[product] == (2, 3) and graph.users[x] == (0,)
    found = graph.producer(product)
    assert found is graph.ops[1] and graph.producer(x) is None
    assert [str(t) for t in graph.output_types][:2] == ["float32[]", "float32[2,2]"]
    assert graph.fresh() not in graph.types
    with pytest.raises(GraphError, match="2 results"):
        _ = graph.ops[3].result


def test_subgraph_and_replace_region() -> None:
    graph = example()
    region = subgraph(graph, [0, 1])
    verify(region)
    assert list(region.inputs) == list(graph.inputs) and len(region.constants) == 2
    assert region.outputs == (graph.ops[1].result,)
    call = Op("tilewright_plan", tuple(graph.inputs), region.outputs, region.output_types, {}, ref=object())
    replaced = replace_region(graph, [0, 1], [call])
    verify(replaced)
    assert [op.opcode for op in replaced.ops] == ["tilewright_plan", "reduce_sum", "top_k"]
    with pytest.raises(GraphError, match="don't define"):
        replace_region(graph, [0, 1], [])


def test_replacing_a_region_that_is_not_convex_is_refused() -> None:
    b = GraphBuilder()
    x = b.input(F)
    y = b.add1("neg", x)
    z = b.add1("exp", y)
    graph = b.build([b.add1("add", y, z)])
    both = Op("tilewright_plan", (x, z), (y, graph.outputs[0]), (F, F), {}, ref=object())
    with pytest.raises(GraphError, match="convex"):
        replace_region(graph, [0, 2], [both])


def test_effects_stay_and_keep_their_order() -> None:
    ref = object()
    ops = [
        Op("first", (0,), (), (), {}, ref, ("io",)),
        Op("second", (3,), (), (), {}, ref, ("io",)),
        Op("neg", (0,), (3,), (F,)),
        Op("unused", (0,), (4,), (F,)),
    ]
    ordered = toposort(ops)
    assert [op.opcode for op in ordered] == ["first", "neg", "second", "unused"]
    live = remove_dead(Graph({0: F}, {}, ordered, ()))
    assert [op.opcode for op in live.ops] == ["first", "neg", "second"]
    with pytest.raises(GraphError, match="effects"):
        replace_region(live, [0], [])


def test_cycle_is_refused() -> None:
    with pytest.raises(GraphError, match="cycle"):
        toposort([Op("neg", (2,), (1,), (F,)), Op("neg", (1,), (2,), (F,))])


def conv(**changes: object) -> dict[str, object]:
    return {
        "window_strides": (2, 1),
        "padding": ((1, 0), (0, 2)),
        "lhs_dilation": (1, 2),
        "rhs_dilation": (2, 1),
        "dimension_numbers": ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
        "feature_group_count": 2,
        "batch_group_count": 1,
        **changes,
    }


def test_infer_convolution() -> None:
    lhs, rhs = TensorType((2, 9, 5, 4), "float32"), TensorType((3, 2, 2, 6), "float32")
    assert infer("conv_general_dilated", [lhs, rhs], conv()) == (TensorType((2, 3, 10, 6), "float32"),)
    with pytest.raises(GraphError, match="input features"):
        infer("conv_general_dilated", [lhs, rhs], conv(feature_group_count=1))


def test_infer_joins_weak_types_and_mesh_axes() -> None:
    a, b = TensorType((3, 1), "float32", True, ("i",)), TensorType((1, 4), "float32", False, ("j",))
    assert infer("add", [a, b], {}) == (TensorType((3, 4), "float32", False, ("i", "j")),)
    assert infer("no such opcode", [a], {}) is None


def test_reinterpretation_keeps_the_size() -> None:
    x = TensorType((3, 4), "float32", True)
    assert infer("bitcast_convert_type", [x], {"new_dtype": "int32"}) == (TensorType((3, 4), "int32"),)
    for new in ("int16", "float64", "bool", "int4"):
        with pytest.raises(GraphError, match=f"expected numbers of one size, found float32 and {new}"):
            infer("bitcast_convert_type", [x], {"new_dtype": new})


def test_random_words_are_of_one_key() -> None:
    key, counter = TensorType((), "uint32"), TensorType((3, 4), "uint32")
    assert infer("threefry", [key, key, counter], {}) == (counter,)
    with pytest.raises(GraphError, match="does not fit"):
        infer("threefry", [key, TensorType((3,), "uint32"), counter], {})
    with pytest.raises(GraphError, match="does not fit"):
        infer("threefry", [key, key, TensorType((3,), "int32")], {})
