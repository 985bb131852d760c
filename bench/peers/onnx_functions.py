"""The workloads as ONNX graphs, as exporters write them: images as NCHW, norms and GELU as one operator each."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .base import NotExpressed
from .onnx_builder import Builder

_EPSILON = 1e-6


def matmul(b: Builder, a: str, c: str, shapes: Sequence[tuple[int, ...]], result: str, transposed: bool) -> str:
    """A product of matrices."""
    if result == "bfloat16":
        raise NotExpressed("bfloat16 products: the CPU providers of the runtimes have none")
    if transposed:
        a, c = (b.node("Transpose", value, perm=[1, 0]) for value in (a, c))
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


def rms_norm(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """RMS norm of rows, in the form that runtimes fuse."""
    mean = b.node("ReduceMean", b.node("Pow", x, b.scalar(2.0)), b.shape(-1))
    root = b.node("Sqrt", b.node("Add", mean, b.scalar(_EPSILON)))
    return b.node("Mul", b.node("Div", x, root), "scale")


def batch_norm(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """Batch norm in training, with the batch's mean and variance of each channel: the momentum of earlier ones is 0."""
    earlier = b.constant(np.zeros_like(b.constants["scale"]))
    inputs = [x, "scale", "shift", earlier, earlier]
    return b.several("BatchNormalization", inputs, 3, training_mode=1, momentum=0.0, epsilon=_EPSILON)


def log_sum_exp(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Logarithm of the sum of exponentials of rows, in its parts: runtimes have no fast form of the operator."""
    axis = b.shape(-1)
    largest = b.node("ReduceMax", x, axis, keepdims=1)
    total = b.node("ReduceSum", b.node("Exp", b.node("Sub", x, largest)), axis, keepdims=1)
    return b.node("Squeeze", b.node("Add", b.node("Log", total), largest), axis)


def argmax(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Where the largest value of each row stands."""
    return b.node("ArgMax", x, axis=-1, keepdims=0)


def gelu(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """GELU, tanh form."""
    return b.node("Gelu", x, approximate="tanh")


def mlp_block(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Layer norm, product, GELU, product, residual."""
    y = gelu(b, _affine(b, _normalise(b, x, "scale", "shift"), "kernel_in", "bias_in"), shapes)
    return b.node("Add", x, _affine(b, y, "kernel_out", "bias_out"))


def _affine(b: Builder, x: str, kernel: str, bias: str) -> str:
    return b.node("Add", b.node("MatMul", x, kernel), bias)


def attention(
    b: Builder, q: str, k: str, v: str, mask: str = "", *, shapes: Sequence[tuple[int, ...]], causal: bool
) -> str:
    """Attention of (batch, heads, sequence, features)."""
    if mask:
        mask = b.node("Where", mask, b.scalar(0.0), b.scalar(-np.inf))
    if b.attention:
        return b.node("Attention", q, k, v, *([mask] if mask else []), is_causal=int(causal))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.node("Mul", scores, b.scalar(shapes[0][-1] ** -0.5))
    if causal:
        length = shapes[0][-2]
        mask = b.constant(np.triu(np.full((length, length), -np.inf, np.float32), 1))
    if mask:
        scores = b.node("Add", scores, mask)
    return b.node("MatMul", b.node("Softmax", scores, axis=-1), v)


def grouped_attention(b: Builder, q: str, k: str, v: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Attention in which several heads share keys and values: their queries are rows of one matrix."""
    if b.attention:
        return b.node("Attention", q, k, v)
    (batch, heads, queries, features), (_, key_heads, keys, _), _ = shapes
    rows = (batch, key_heads, heads // key_heads * queries, features)
    merged = b.node("Reshape", q, b.shape(*rows))
    found = attention(b, merged, k, v, shapes=[rows, (batch, key_heads, keys, features)], causal=False)
    return b.node("Reshape", found, b.shape(batch, heads, queries, features))


def conv(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], stride: int, groups: int) -> str:
    """A convolution padded by half a window."""
    return _convolve(b, x, "kernel", None, groups, stride)


def _convolve(b: Builder, x: str, kernel: str, bias: str | None, groups: int = 1, stride: int = 1) -> str:
    window = b.constants[kernel].shape[2:]
    inputs = (x, kernel) if bias is None else (x, kernel, bias)
    pads, strides = [size // 2 for size in window] * 2, [stride] * len(window)
    return b.node("Conv", *inputs, group=groups, pads=pads, strides=strides, kernel_shape=window)


def conv_transposed(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], stride: int) -> str:
    """A transposed convolution that makes the image `stride` times as large."""
    window = b.constants["kernel"].shape[-1]
    pads, strides = [(window - stride) // 2] * 4, [stride] * 2
    return b.node("ConvTranspose", x, "kernel", pads=pads, strides=strides, kernel_shape=[window] * 2)


def pool(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], window: int, stride: int, kind: str) -> str:
    """Maximum or mean of windows, padded by half a window."""
    options = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [window // 2] * 4}
    if kind == "max":
        return b.node("MaxPool", x, **options)
    return b.node("AveragePool", x, count_include_pad=1, **options)


def inverted_residual(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """MobileNetV2's block, batch norms folded."""
    hidden = b.constants["expand"].shape[0]
    y = _relu6(b, _convolve(b, x, "expand", "expand_bias"))
    y = _relu6(b, _convolve(b, y, "depthwise", "depthwise_bias", hidden))
    return b.node("Add", x, _convolve(b, y, "project", "project_bias"))


def _relu6(b: Builder, x: str) -> str:
    return b.node("Clip", x, b.scalar(0.0), b.scalar(6.0))


def bottleneck(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """ResNet's block, batch norms folded."""
    y = b.node("Relu", _convolve(b, x, "reduce", "reduce_bias"))
    y = b.node("Relu", _convolve(b, y, "middle", "middle_bias"))
    return b.node("Relu", b.node("Add", x, _convolve(b, y, "expand", "expand_bias")))


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
    mixed = attention(b, project("query"), project("key"), project("value"), shapes=size, causal=False)
    mixed = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.shape(batch, sequence, features))
    return mlp_block(b, b.node("Add", x, _affine(b, mixed, "out_kernel", "out_bias")), shapes)


def cross_entropy(b: Builder, x: str, vocabulary: str, labels: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Mean negative log-likelihood of the labels."""
    logits = b.node("MatMul", x, vocabulary)
    position = b.node("Unsqueeze", labels, b.shape(1))
    chosen = b.node("Squeeze", b.node("GatherElements", logits, position, axis=1), b.shape(1))
    return b.node("ReduceMean", b.node("Sub", log_sum_exp(b, logits, shapes), chosen), keepdims=0)


def elementwise(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Twelve operations on each element."""
    y = b.node("Tanh", b.node("Add", b.node("Mul", x, b.scalar(0.75)), b.scalar(0.5)))
    y = b.node("Abs", b.node("Sub", b.node("Mul", y, b.scalar(3.0)), x))
    root = b.node("Sqrt", b.node("Add", y, b.scalar(1.0)))
    y = b.node("Sub", b.node("Sigmoid", b.node("Div", x, root)), b.scalar(0.5))
    return b.node("Min", y, b.scalar(0.25))


def transpose(b: Builder, x: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """A matrix turned round."""
    return b.node("Transpose", x, perm=[1, 0])


def concatenate(b: Builder, *parts: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Matrices side by side."""
    return b.node("Concat", *parts, axis=-1)


def jacobi(b: Builder, x: str, shapes: Sequence[tuple[int, ...]], steps: int) -> str:
    """Relaxation with a fixed border: the inner part is cut out, relaxed, and the border put round it again."""
    (rows, columns) = shapes[0]

    def part(y: str, top: int, bottom: int, left: int, right: int) -> str:
        return b.node("Slice", y, b.shape(top, left), b.shape(bottom, right), b.shape(0, 1))

    top, bottom = part(x, 0, 1, 0, columns), part(x, rows - 1, rows, 0, columns)
    left, right = part(x, 1, rows - 1, 0, 1), part(x, 1, rows - 1, columns - 1, columns)
    for _ in range(steps):
        vertical = b.node("Add", part(x, 0, rows - 2, 1, columns - 1), part(x, 2, rows, 1, columns - 1))
        horizontal = b.node("Add", part(x, 1, rows - 1, 0, columns - 2), part(x, 1, rows - 1, 2, columns))
        inner = b.node("Mul", b.node("Add", vertical, horizontal), b.scalar(0.25))
        x = b.node("Concat", top, b.node("Concat", left, inner, right, axis=1), bottom, axis=0)
    return x


def dispatch(b: Builder, x: str, y: str, shift: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """A tiny layer."""
    return b.node("Tanh", b.node("Gemm", x, y, shift))


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
        rms_norm,
        batch_norm,
        log_sum_exp,
        argmax,
        gelu,
        mlp_block,
        attention,
        grouped_attention,
        conv,
        conv_transposed,
        pool,
        inverted_residual,
        bottleneck,
        convnext_block,
        encoder_layer,
        cross_entropy,
        elementwise,
        transpose,
        concatenate,
        jacobi,
        dispatch,
        cumsum,
        top_k,
        sort,
    )
}
"""By the name that `Workload.expression` has."""

IMAGES = frozenset(
    {"conv", "conv_transposed", "pool", "batch_norm", "inverted_residual", "bottleneck", "convnext_block"}
)
"""Expressions whose arguments and results are images, which the graphs take with their channels first."""
