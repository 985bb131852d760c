"""The rows of the kernel suite, and how to make such a row with other sizes."""

from __future__ import annotations

from dataclasses import replace

from . import counting as count
from .base import Array, Workload

# Rows of less than about 0.1 ms a call are timed as this many calls in one program.
_CHAINED = 20


def _kernel(*shape: int) -> Array:
    """A weight that keeps the variance of what it multiplies; the last axis are the results."""
    fan_in = 1
    for extent in shape[:-1]:
        fan_in *= extent
    return Array(shape, high=fan_in**-0.5)


def _bias(size: int) -> Array:
    return Array((size,), high=0.1)


def _scale(size: int) -> Array:
    return Array((size,), distribution="uniform", low=0.5, high=1.5)


def matmul(name: str, m: int, n: int, k: int, dtype: str = "float32") -> Workload:
    """Two arguments multiplied; int8 gives int32."""
    result = "int32" if dtype == "int8" else dtype
    draw = {"distribution": "integers", "low": -127, "high": 128} if dtype == "int8" else {}
    inputs = Array((m, k), dtype, **draw), Array((k, n), dtype, **draw)
    outputs = (Array((m, n), result),)
    flops = count.matmul(m, n, k)
    return Workload(name, "contraction", "matmul", inputs, outputs, flops, parameters={"result": result})


def linear(name: str, rows: int, features: int, outputs: int) -> Workload:
    """A few rows times a constant matrix."""
    return Workload(
        name,
        "contraction",
        "linear",
        (Array((rows, features)),),
        (Array((rows, outputs)),),
        count.matmul(rows, outputs, features),
        {"kernel": _kernel(features, outputs)},
    )


def softmax(name: str, rows: int, columns: int) -> Workload:
    """Along the last axis."""
    array = Array((rows, columns), high=3.0)
    return Workload(name, "reduction", "softmax", (array,), (array,), count.SOFTMAX * array.size)


def layer_norm(name: str, rows: int, features: int) -> Workload:
    """Along the last axis, with scale and shift."""
    array = Array((rows, features))
    weights = {"scale": _scale(features), "shift": _bias(features)}
    return Workload(name, "reduction", "layer_norm", (array,), (array,), count.LAYER_NORM * array.size, weights)


def gelu(name: str, rows: int, columns: int) -> Workload:
    """The tanh form."""
    array = Array((rows, columns))
    return Workload(name, "memory", "gelu", (array,), (array,), count.GELU_TANH * array.size)


def mlp_block(name: str, rows: int, features: int, hidden: int) -> Workload:
    """Layer norm, two products with a GELU in between, residual."""
    array = Array((rows, features))
    weights = {
        "scale": _scale(features),
        "shift": _bias(features),
        "kernel_in": _kernel(features, hidden),
        "bias_in": _bias(hidden),
        "kernel_out": _kernel(hidden, features),
        "bias_out": _bias(features),
    }
    products = 2 * count.matmul(rows, hidden, features)
    rest = (count.LAYER_NORM + 2) * array.size + (count.GELU_TANH + 1) * rows * hidden
    return Workload(name, "contraction", "mlp_block", (array,), (array,), products + rest, weights)


def attention(name: str, heads: int, queries: int, keys: int, features: int, causal: bool = False) -> Workload:
    """Scaled dot-product attention, batch 1."""
    query, key = Array((1, heads, queries, features)), Array((1, heads, keys, features))
    pairs = heads * (count.causal_pairs(queries) if causal else queries * keys)
    flops = count.attention(pairs, features)
    parameters = {"causal": causal}
    return Workload(name, "reduction", "attention", (query, key, key), (query,), flops, parameters=parameters)


def conv(name: str, size: int, channels: int, window: int) -> Workload:
    """A convolution that keeps the shape."""
    array = Array((1, size, size, channels))
    weights = {"kernel": _kernel(window, window, channels, channels)}
    flops = count.convolution(size, size, channels, window, channels)
    return Workload(name, "convolution", "conv", (array,), (array,), flops, weights, {"groups": 1})


def depthwise(name: str, size: int, channels: int, window: int) -> Workload:
    """A convolution of each channel with a window of its own."""
    array = Array((1, size, size, channels))
    weights = {"kernel": _kernel(window, window, 1, channels)}
    flops = count.convolution(size, size, channels, window, 1)
    return Workload(name, "convolution", "conv", (array,), (array,), flops, weights, {"groups": channels})


def inverted_residual(name: str, size: int, channels: int, hidden: int) -> Workload:
    """MobileNetV2's block: widen, depthwise 3x3, narrow, add."""
    array = Array((1, size, size, channels))
    weights = {
        "expand": _kernel(1, 1, channels, hidden),
        "expand_bias": _bias(hidden),
        "depthwise": _kernel(3, 3, 1, hidden),
        "depthwise_bias": _bias(hidden),
        "project": _kernel(1, 1, hidden, channels),
        "project_bias": _bias(channels),
    }
    wide = size * size * hidden
    flops = (
        count.convolution(size, size, hidden, 1, channels)
        + count.convolution(size, size, hidden, 3, 1)
        + count.convolution(size, size, channels, 1, hidden)
        + 2 * 3 * wide  # bias and two bounds, twice
        + 2 * array.size  # bias and residual
    )
    return Workload(name, "convolution", "inverted_residual", (array,), (array,), flops, weights)


def convnext_block(name: str, size: int, channels: int) -> Workload:
    """Depthwise 7x7, layer norm, two products with a GELU in between, layer scale, residual."""
    array, hidden = Array((1, size, size, channels)), 4 * channels
    weights = {
        "depthwise": _kernel(7, 7, 1, channels),
        "depthwise_bias": _bias(channels),
        "scale": _scale(channels),
        "shift": _bias(channels),
        "kernel_in": _kernel(channels, hidden),
        "bias_in": _bias(hidden),
        "kernel_out": _kernel(hidden, channels),
        "bias_out": _bias(channels),
        "layer_scale": Array((channels,), distribution="uniform", low=0.1, high=1.0),
    }
    pixels = size * size
    flops = (
        count.convolution(size, size, channels, 7, 1)
        + 2 * count.matmul(pixels, hidden, channels)
        + (count.LAYER_NORM + 4) * array.size  # two biases, layer scale, residual
        + (count.GELU_ERF + 1) * pixels * hidden
    )
    return Workload(name, "convolution", "convnext_block", (array,), (array,), flops, weights)


def encoder_layer(name: str, sequence: int, features: int, heads: int, hidden: int) -> Workload:
    """A transformer layer with the norms in front, batch 1."""
    array = Array((1, sequence, features))
    weights: dict[str, Array] = {}
    for part in ("query", "key", "value", "out"):
        weights |= {f"{part}_kernel": _kernel(features, features), f"{part}_bias": _bias(features)}
    block = mlp_block(name, sequence, features, hidden)
    weights |= {"attention_scale": _scale(features), "attention_shift": _bias(features), **block.weights}
    flops = (
        4 * count.matmul(sequence, features, features)
        + count.attention(heads * sequence * sequence, features // heads)
        + (count.LAYER_NORM + 5) * array.size  # four biases and the residual
        + block.flops
    )
    return Workload(name, "contraction", "encoder_layer", (array,), (array,), flops, weights, {"heads": heads})


def cross_entropy(name: str, tokens: int, features: int, vocabulary: int) -> Workload:
    """Mean loss of hidden states under a vocabulary matrix, which is an argument since training changes it."""
    inputs = (
        Array((tokens, features)),
        _kernel(features, vocabulary),
        Array((tokens,), "int32", "integers", 0, vocabulary),
    )
    logits = tokens * vocabulary
    # Per logit: maximum, difference, exponential, sum.
    flops = count.matmul(tokens, vocabulary, features) + 4 * logits + 3 * tokens
    return Workload(name, "reduction", "cross_entropy", inputs, (Array(()),), flops)


def jacobi(name: str, size: int, steps: int) -> Workload:
    """Relaxation of a square grid with a fixed border: each point becomes the mean of its four neighbours."""
    array = Array((size, size))
    flops = 4 * steps * (size - 2) ** 2
    return Workload(name, "stencil", "jacobi", (array,), (array,), flops, parameters={"steps": steps})


def fft_convolution(name: str, batch: int, channels: int, length: int) -> Workload:
    """Causal convolution with filters as long as the signal, by Fourier transforms of twice the length."""
    signal, kernel = Array((batch, channels, length)), Array((channels, length), high=length**-0.5)
    transforms = 2 * batch * channels + channels
    products = 6 * batch * channels * (length + 1)
    flops = transforms * count.real_fft(2 * length) + products
    return Workload(name, "convolution", "fft_convolution", (signal, kernel), (signal,), flops)


def cumsum(name: str, rows: int, columns: int) -> Workload:
    """Running sums along the last axis."""
    array = Array((rows, columns))
    return Workload(name, "ordering", "cumsum", (array,), (array,), array.size)


def top_k(name: str, rows: int, columns: int, k: int) -> Workload:
    """The largest values of each row and where they stand."""
    array = Array((rows, columns))
    outputs = Array((rows, k)), Array((rows, k), "int32")
    return Workload(name, "ordering", "top_k", (array,), outputs, array.size, parameters={"k": k})


def sort(name: str, rows: int, columns: int) -> Workload:
    """Each row ascending."""
    array = Array((rows, columns))
    return Workload(name, "ordering", "sort", (array,), (array,), rows * count.sort(columns))


_ROWS = (
    matmul("matmul-512", 512, 512, 512),
    matmul("matmul-1024", 1024, 1024, 1024),
    matmul("matmul-2048", 2048, 2048, 2048),
    matmul("matmul-1024-bf16", 1024, 1024, 1024, "bfloat16"),
    matmul("matmul-1024-int8", 1024, 1024, 1024, "int8"),
    linear("gemv", 1, 4096, 4096),
    linear("skinny", 8, 4096, 4096),
    softmax("softmax", 4096, 4096),
    layer_norm("layernorm", 4096, 1024),
    gelu("gelu", 4096, 4096),
    mlp_block("mlp-block", 512, 1024, 4096),
    attention("attention", 8, 2048, 2048, 64),
    attention("attention-causal", 8, 2048, 2048, 64, causal=True),
    attention("attention-decode", 8, 1, 8192, 64),
    conv("conv-3x3", 56, 64, 3),
    replace(depthwise("depthwise-3x3", 56, 64, 3), calls=_CHAINED),
    replace(depthwise("depthwise-7x7", 56, 96, 7), calls=_CHAINED),
    replace(inverted_residual("mobilenetv2-block", 56, 24, 144), calls=_CHAINED),
    convnext_block("convnext-block", 56, 96),
    encoder_layer("encoder-layer", 512, 512, 8, 2048),
    cross_entropy("cross-entropy", 512, 512, 32000),
    jacobi("jacobi", 1000, 100),
    fft_convolution("fft-convolution", 8, 64, 8192),
    cumsum("cumsum", 4096, 4096),
    top_k("top-10", 4096, 4096, 10),
    sort("sort", 4096, 4096),
)

KERNELS: dict[str, Workload] = {row.name: row for row in _ROWS}
"""Every row by name, in the order of the report."""
