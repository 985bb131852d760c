"""The workloads as ONNX graphs, as exporters write them: images as NCHW, norms and GELU as one operator each."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..problem import Problem
from .base import NotExpressed

_OPSET = 20  # the first with Gelu; every runtime of interest knows it
_IR_VERSION = 9
_EPSILON = 1e-6
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int8": TensorProto.INT8}


class Builder:
    """Collects the nodes of a graph; values are names.

    Args:
        weights: Constants, by name.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = dict(weights)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one result."""
        return self.several(operator, inputs, 1, **attributes)[0]

    def several(self, operator: str, inputs: Sequence[str], results: int, **attributes: Any) -> list[str]:
        """Add an operator with several results."""
        names = [f"v{len(self.nodes)}_{index}" for index in range(results)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def constant(self, value: NDArray[np.generic] | np.generic) -> str:
        """Add a constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def scalar(self, value: float) -> str:
        """Add a float32 number."""
        return self.constant(np.float32(value))

    def shape(self, *extents: int) -> str:
        """Add integers."""
        return self.constant(np.array(extents, np.int64))


def matmul(b: Builder, a: str, c: str, shapes: Sequence[tuple[int, ...]], result: str) -> str:
    """A matrix product."""
    if result == "bfloat16":
        raise NotExpressed("bfloat16 products: the CPU providers of the runtimes have none")
    return b.node("MatMulInteger" if result == "int32" else "MatMul", a, c)


def linear(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """A product with a constant matrix."""
    return b.node("MatMul", x, "kernel")


def softmax(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Softmax of rows."""
    return b.node("Softmax", x, axis=-1)


def layer_norm(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Layer norm of rows."""
    return _normalise(b, x, "scale", "shift")


def _normalise(b: Builder, x: str, scale: str, shift: str) -> str:
    return b.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=_EPSILON)


def gelu(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """GELU, tanh form."""
    return b.node("Gelu", x, approximate="tanh")


def mlp_block(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Layer norm, product, GELU, product, residual."""
    y = gelu(b, _affine(b, _normalise(b, x, "scale", "shift"), "kernel_in", "bias_in"), shapes)
    return b.node("Add", x, _affine(b, y, "kernel_out", "bias_out"))


def _affine(b: Builder, x: str, kernel: str, bias: str) -> str:
    return b.node("Add", b.node("MatMul", x, kernel), bias)


def attention(b: Builder, q: str, k: str, v: str, shapes: Sequence[tuple[int, ...]], causal: bool) -> str:
    """Attention of (batch, heads, sequence, features)."""
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.node("Mul", scores, b.scalar(shapes[0][-1] ** -0.5))
    if causal:
        length = shapes[0][-2]
        hidden = np.triu(np.full((length, length), -np.inf, np.float32), 1)
        scores = b.node("Add", scores, b.constant(hidden))
    return b.node("MatMul", b.node("Softmax", scores, axis=-1), v)


def conv(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], groups: int) -> str:
    """A convolution with stride 1 that keeps the size."""
    return _convolve(b, x, "kernel", None, groups)


def _convolve(b: Builder, x: str, kernel: str, bias: str | None, groups: int = 1) -> str:
    window = b.constants[kernel].shape[-1]
    inputs = (x, kernel) if bias is None else (x, kernel, bias)
    return b.node("Conv", *inputs, group=groups, pads=[window // 2] * 4, kernel_shape=[window] * 2)


def inverted_residual(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """MobileNetV2's block, batch norms folded."""
    hidden = b.constants["expand"].shape[0]
    y = _relu6(b, _convolve(b, x, "expand", "expand_bias"))
    y = _relu6(b, _convolve(b, y, "depthwise", "depthwise_bias", hidden))
    return b.node("Add", x, _convolve(b, y, "project", "project_bias"))


def _relu6(b: Builder, x: str) -> str:
    return b.node("Clip", x, b.scalar(0.0), b.scalar(6.0))


def convnext_block(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """ConvNeXt's block."""
    y = _convolve(b, x, "depthwise", "depthwise_bias", b.constants["depthwise"].shape[0])
    y = _normalise(b, b.node("Transpose", y, perm=[0, 2, 3, 1]), "scale", "shift")
    y = b.node("Gelu", _affine(b, y, "kernel_in", "bias_in"))
    y = b.node("Mul", _affine(b, y, "kernel_out", "bias_out"), "layer_scale")
    return b.node("Add", x, b.node("Transpose", y, perm=[0, 3, 1, 2]))


def encoder_layer(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], heads: int) -> str:
    """A transformer layer with the norms in front; (batch, sequence, features)."""
    batch, sequence, features = shapes[0]
    split = b.shape(batch, sequence, heads, features // heads)
    y = _normalise(b, x, "attention_scale", "attention_shift")

    def project(part: str) -> str:
        found = b.node("Reshape", _affine(b, y, f"{part}_kernel", f"{part}_bias"), split)
        return b.node("Transpose", found, perm=[0, 2, 1, 3])

    size = [(batch, heads, sequence, features // heads)]
    mixed = attention(b, project("query"), project("key"), project("value"), size, causal=False)
    mixed = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.shape(batch, sequence, features))
    return mlp_block(b, b.node("Add", x, _affine(b, mixed, "out_kernel", "out_bias")), shapes)


def cross_entropy(b: Builder, x: str, vocabulary: str, labels: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Mean negative log-likelihood of the labels."""
    logits = b.node("MatMul", x, vocabulary)
    position = b.node("Unsqueeze", labels, b.shape(1))
    chosen = b.node("Squeeze", b.node("GatherElements", logits, position, axis=1), b.shape(1))
    total = b.node("ReduceLogSumExp", logits, b.shape(1), keepdims=0)
    return b.node("ReduceMean", b.node("Sub", total, chosen), keepdims=0)


def cumsum(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Running sums of rows."""
    return b.node("CumSum", x, b.constant(np.int64(1)))


def top_k(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], k: int) -> list[str]:
    """The largest values of rows and their positions."""
    return b.several("TopK", [x, b.shape(k)], 2, axis=-1, largest=1, sorted=1)


def sort(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Rows in ascending order."""
    return b.several("TopK", [x, b.shape(shapes[0][-1])], 2, axis=-1, largest=0, sorted=1)[0]


ONNX_FUNCTIONS: dict[str, Callable[..., str | list[str]]] = {
    function.__name__: function
    for function in (
        matmul,
        linear,
        softmax,
        layer_norm,
        gelu,
        mlp_block,
        attention,
        conv,
        inverted_residual,
        convnext_block,
        encoder_layer,
        cross_entropy,
        cumsum,
        top_k,
        sort,
    )
}
"""By the name that `Workload.expression` has."""

# Expressions whose first argument and result are images, which the graphs take as NCHW.
_IMAGES = frozenset({"conv", "inverted_residual", "convnext_block"})


@dataclass(frozen=True, slots=True)
class OnnxRow:
    """A row as an ONNX model.

    Attributes:
        model: The serialised model; its inputs are `x0`, `x1`, ...
        images: Whether arguments and results are images, to be given as NCHW.
    """

    model: bytes
    images: bool

    def arguments(self, args: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Arguments as the model takes them, in memory of their own."""
        return [np.array(value.transpose(0, 3, 1, 2) if self.images else value, order="C") for value in args]

    def results(self, found: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Results as the workload has them."""
        return [value.transpose(0, 2, 3, 1) if self.images else value for value in found]


def onnx_row(problem: Problem, calls: int) -> OnnxRow:
    """Write a row as a model in which that many calls follow each other.

    Raises:
        NotExpressed: There is no form of the row.
    """
    if problem.expression not in ONNX_FUNCTIONS:
        raise NotExpressed(f"no form of {problem.expression} for ONNX")
    images = problem.expression in _IMAGES
    # Kernels of convolutions are results, inputs, height, width.
    weights = {
        name: np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value
        for name, value in problem.weights.items()
    }
    args = OnnxRow(b"", images).arguments(problem.inputs[0])
    names = [f"x{index}" for index in range(len(args))]
    builder = Builder(weights)
    found: str | list[str] = names[0]
    for _ in range(calls):
        first = found if isinstance(found, str) else found[0]
        function = ONNX_FUNCTIONS[problem.expression]
        found = function(builder, first, *names[1:], shapes=[a.shape for a in args], **problem.parameters)
    graph = helper.make_graph(
        builder.nodes,
        problem.expression,
        [
            helper.make_tensor_value_info(name, _TYPES[value.dtype.name], value.shape)
            for name, value in zip(names, args, strict=True)
        ],
        [onnx.ValueInfoProto(name=name) for name in ([found] if isinstance(found, str) else found)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in builder.constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return OnnxRow(onnx.shape_inference.infer_shapes(model, strict_mode=True).SerializeToString(), images)
