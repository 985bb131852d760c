"""Networks for peers: what is recognised in them, their files, and the ONNX form against float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tilewright.bench.cases import Case
from tilewright.bench.child import Child
from tilewright.bench.decoder import Decoder
from tilewright.bench.messages import Done, Export, Prepare, Prepared
from tilewright.bench.models import ModelCase, load_decoder
from tilewright.bench.peers.base import PEERS
from tilewright.bench.peers.child import PeerChild
from tilewright.bench.peers.evaluate import evaluate, has_form
from tilewright.bench.peers.idioms import find_idioms
from tilewright.bench.problem import read_problem
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

RNG = np.random.default_rng(5)
SCALE, SHIFT = RNG.uniform(0.5, 1.5, 16).astype(np.float32), RNG.standard_normal(16).astype(np.float32)


def drawn(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * np.prod(shape[:-1], dtype=float) ** -0.5).astype(np.float32)


def graph_of(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    program = jax.make_jaxpr(fn)(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    return PassManager(GRAPH_PASSES).run(to_graph(program))


def kinds(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    return [idiom.kind for idiom in find_idioms(graph_of(fn, *shapes)).values()]


def centred_norm(x: Any) -> Any:
    y = x - x.mean(-1, keepdims=True)
    return y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-3) * SCALE + SHIFT


def moments_norm(x: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum(0.0, (x * x).mean(-1, keepdims=True) - mean * mean)
    factor = lax.rsqrt(variance + 1e-5) * SCALE
    return x * factor + (SHIFT - mean * factor)


def rms_norm(x: Any) -> Any:
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * SCALE


def hard_swish(x: Any) -> Any:
    return x * jnp.minimum(jnp.maximum(x + 3.0, 0.0), 6.0) / 6.0


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (centred_norm, "layer_norm"),
        (moments_norm, "layer_norm"),
        (rms_norm, "rms_norm"),
        (lambda x: jax.nn.gelu(x, approximate=True), "gelu_tanh"),
        (lambda x: jax.nn.gelu(x, approximate=False), "gelu"),
        (lambda x: x * 0.5 * (1.0 + lax.erf(x / np.sqrt(2.0))), "gelu"),
        (jax.nn.silu, "silu"),
        (lambda x: x / (1.0 + jnp.exp(-x)), "silu"),
        (hard_swish, "hard_swish"),
        (jax.nn.softmax, "softmax"),
        (lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), "softmax"),
    ],
)
def test_idioms_are_found_however_they_are_spelled(fn: Callable[..., Any], kind: str) -> None:
    graph = graph_of(lambda x: jnp.cos(fn(jnp.sin(x))), (3, 16))
    ((value, idiom),) = find_idioms(graph).items()
    assert idiom.kind == kind and graph.types[value].shape == (3, 16)
    assert graph.producer(idiom.operand) is graph.ops[0]  # of sin(x), neither more nor less


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * jax.nn.sigmoid(1.702 * x),
        lambda x: x * jnp.minimum(jnp.maximum(x + 3.0, 0.0), 6.0) / 5.0,
        lambda x: jax.nn.softmax(x, axis=0),
        lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-6),
        lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3),
        lambda x: x - x.max(-1, keepdims=True),
        jnp.tanh,
    ],
)
def test_what_only_looks_like_an_idiom_is_none(fn: Callable[..., Any]) -> None:
    assert kinds(fn, (3, 16)) == []


def test_a_norm_has_its_numbers() -> None:
    (idiom,) = find_idioms(graph_of(moments_norm, (1, 16))).values()
    assert idiom.epsilon == pytest.approx(1e-5)
    np.testing.assert_allclose(idiom.scale, SCALE, rtol=1e-5)
    np.testing.assert_allclose(idiom.shift, SHIFT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keepdims", [True, False])
def test_means_over_images_are_found_with_their_factor(keepdims: bool) -> None:
    graph = graph_of(lambda x: x.sum((1, 2), keepdims=keepdims) / 7.0, (2, 3, 5, 4))
    (idiom,) = find_idioms(graph).values()
    assert idiom.kind == "spatial_mean" and idiom.scale[0] == pytest.approx(15 / 7)


def test_operations_in_numpy_agree_with_jax() -> None:
    def everything(x: Any, y: Any) -> Any:
        z = jnp.where(x > y, jnp.abs(x) + 1.0, jnp.exp(-y)) ** 3
        z = lax.rsqrt(jnp.square(z) + 1.0) + lax.erf(x) * lax.erfc(y) - jnp.log1p(jnp.abs(x))
        z = jnp.concatenate([z, jnp.tanh(x) / (2.0 + jnp.cos(y))], axis=1)[:, 1:7:2].T
        return jnp.maximum(z.max(0), jnp.sin(z.sum(0)))[:, None] + jnp.arange(3.0) * jax.nn.sigmoid(z.min())

    graph = graph_of(everything, (4, 5), (4, 5))
    x, y = (RNG.standard_normal((4, 5)).astype(np.float32) for _ in range(2))
    values: dict[int, Any] = dict(zip(graph.inputs, (x, y), strict=True))
    values |= {number: constant.value for number, constant in graph.constants.items()}
    for op in graph.ops:
        assert has_form(op), op.opcode
        values[op.result] = evaluate(op, [values[operand] for operand in op.operands])
    np.testing.assert_allclose(values[graph.outputs[0]], everything(x, y), rtol=2e-5)


def conv(x: Any, kernel: np.ndarray, stride: int = 1, groups: int = 1, padding: Any = "SAME") -> Any:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=dimensions, feature_group_count=groups
    )


STEM, POINT, WIDE = drawn(3, 3, 3, 8), drawn(1, 1, 8, 8), drawn(3, 3, 1, 8)
LAST, SQUEEZE, EXCITE = drawn(8, 5), drawn(1, 1, 8, 3), drawn(1, 1, 3, 8)


def image_network(x: Any) -> Any:
    """Strided stem, pooling behind a pad, a block with squeeze and excitation, a concatenation, a head."""
    y = jnp.maximum(conv(x / 127.5 - 1.0, STEM, stride=2) + SHIFT[:8], 0.0)
    y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    z = jax.nn.relu6(conv(y, WIDE, groups=8) * SCALE[:8] + SHIFT[:8])
    gate = jax.nn.silu(conv(z.mean((1, 2), keepdims=True), SQUEEZE))
    z = y + hard_swish(conv(z * jax.nn.sigmoid(conv(gate, EXCITE)), POINT))
    z = lax.reduce_window(z, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0
    z = jnp.concatenate([z, jnp.tanh(z)], axis=-1)[..., 4:12]
    return z.mean((1, 2)) @ LAST + 0.5, z


NORM = (SCALE[:8], SHIFT[:8])
UP, DOWN = drawn(8, 32), drawn(32, 8)


def mixed_network(x: Any) -> Any:
    """Convolutions with norms and products of features between, as in ConvNeXt."""
    y = conv(x, STEM, stride=2)
    z = conv(y, WIDE, groups=8)
    z = (z - z.mean(-1, keepdims=True)) * lax.rsqrt(z.var(-1, keepdims=True) + 1e-6) * NORM[0] + NORM[1]
    z = y + jax.nn.gelu(z @ UP, approximate=False) @ DOWN * NORM[0]
    return conv(z, POINT)


QUERY, KEY, VALUE, MIX = drawn(16, 4, 4), drawn(16, 4, 4), drawn(16, 4, 4), drawn(4, 4, 16)
SQUARE = drawn(16, 16)


def attention_network(x: Any) -> Any:
    """Products over several axes, in the order in which Flax writes them."""
    y = moments_norm(x)
    query, key, value = (jnp.einsum("bsf,fhd->bshd", y, part) + SHIFT.reshape(4, 4) for part in (QUERY, KEY, VALUE))
    shares = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query * 0.5, key))
    y = x + jnp.einsum("bqhd,hdf->bqf", jnp.einsum("bhqk,bkhd->bqhd", shares, value), MIX)
    turned = jnp.einsum("bsf,btf->bts", y, rms_norm(y))  # a product that is stored the other way round
    return y, turned, jnp.einsum("ca,bsa->cbs", SQUARE, y)


def case_of(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> Case:
    def make_input(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return tuple(
            rng.uniform(0.0, 255.0, shape).astype(np.float32) if len(shape) == 4 else drawn(*shape) * 4
            for shape in shapes
        )

    return Case(ModelCase("network", fn, make_input, lambda weights, *args: fn(*args), {}))


TINY_DECODER = Decoder(layers=2, features=16, heads=2, hidden=24, cached=10)
NETWORKS: dict[str, Callable[[], Case]] = {
    "images": lambda: case_of(image_network, (2, 18, 14, 3)),
    "mixed": lambda: case_of(mixed_network, (1, 12, 10, 3)),
    "attention": lambda: case_of(attention_network, (2, 7, 16)),
    "decoder": lambda: Case(load_decoder("decoder", TINY_DECODER, np.random.default_rng(0))),
}


def exported(name: str, folder: Path) -> Any:
    child = Child(NETWORKS[name](), seed=0, pool=2)
    child.answer(Prepare(side="jit"))
    assert child.answer(Export(folder=str(folder), accuracy_inputs=1)) == Done()
    return read_problem(str(folder))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_survives_the_files(name: str, tmp_path: Path) -> None:
    problem = exported(name, tmp_path)
    assert problem.graph is not None and problem.calls == 1 and not problem.weights
    assert [type_.shape for type_ in problem.graph.inputs.values()] == [value.shape for value in problem.inputs[0]]
    assert [type_.shape for type_ in problem.graph.output_types] == [value.shape for value in problem.references[0]]


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_installed_peer_computes_networks(peer: str, name: str, tmp_path: Path) -> None:
    for package in PEERS[peer].packages:
        pytest.importorskip(package)
    found = PeerChild(PEERS[peer], exported(name, tmp_path), str(tmp_path)).answer(
        Prepare(side=peer, accuracy_inputs=1)
    )
    assert isinstance(found, Prepared), found
    assert found.errors and all(error.holds for error in found.errors), found.errors


def operators(name: str, folder: Path, attention: bool = False) -> list[str]:
    onnx = pytest.importorskip("onnx")
    from tilewright.bench.peers.onnx_row import onnx_row

    model = onnx.load_from_string(onnx_row(exported(name, folder), 1, attention).model)
    return [node.op_type for node in model.graph.node]


def absent(found: Sequence[str], *names: str) -> bool:
    return not set(found) & set(names)


def test_images_are_stored_with_their_channels_first_throughout(tmp_path: Path) -> None:
    found = operators("images", tmp_path)
    assert absent(found, "Transpose", "Pad", "ReduceSum") and found.count("GlobalAveragePool") == 2
    assert found.count("MaxPool") == found.count("AveragePool") == found.count("Clip") == 1
    assert found.count("HardSwish") == 1


def test_mixed_networks_turn_only_around_what_needs_it(tmp_path: Path) -> None:
    found = operators("mixed", tmp_path)
    assert found.count("Transpose") == 2 and found.count("LayerNormalization") == found.count("Gelu") == 1


def test_attention_is_one_operator_where_the_runtime_has_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert operators("attention", tmp_path / "a", attention=True).count("Attention") == 1
    parts = operators("attention", tmp_path / "b")
    assert parts.count("Softmax") == 1 and absent(parts, "Attention", "Exp", "ReduceMax")


def test_networks_may_be_long() -> None:
    pytest.importorskip("onnx")
    from tilewright.bench.peers.onnx_builder import Builder
    from tilewright.bench.peers.onnx_network import export_network

    def long(x: Any) -> Any:
        for _ in range(700):
            x = jnp.tanh(x) * SCALE
        return x

    builder = Builder({})
    inputs, outputs = export_network(graph_of(long, (3, 16)), builder)
    assert [node.op_type for node in builder.nodes] == ["Tanh", "Mul"] * 700
    assert inputs[0].name == "x0" and outputs[0].name == builder.nodes[-1].output[0]


def test_networks_that_only_jax_knows_are_refused(tmp_path: Path) -> None:
    child = Child(case_of(lambda x: lax.cumsum(x) + jax.pure_callback(np.sin, x, x), (1, 3, 4)), 0, 1)
    child.answer(Prepare(side="jit"))
    with pytest.raises(ValueError, match=r"plain operations, found .*pure_callback.*only JAX knows"):
        child.answer(Export(folder=str(tmp_path), accuracy_inputs=0))


def test_decoder_looks_at_what_is_in_front_of_its_position_alone() -> None:
    case = load_decoder("decoder", TINY_DECODER, np.random.default_rng(0))
    x, position, *cache = case.make_input(np.random.default_rng(1))
    first = case.fn(x, position, *cache)
    behind = [np.concatenate([part[:, :, :position], part[:, :, position:] + 9], axis=2) for part in cache]
    before = [np.concatenate([part[:, :, :1] + 9, part[:, :, 1:]], axis=2) for part in cache]
    for ours, theirs in zip(first, case.fn(x, position, *behind), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.allclose(first[0], case.fn(x, position, *before)[0])
    assert not np.allclose(first[0], case.fn(x, position - 1, *cache)[0])
