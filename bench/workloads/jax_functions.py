"""The workloads as plain JAX functions: `function(weights, *arguments, **parameters)`, images as NHWC.

Nothing here knows about Tilewright: each is written as one would write it for `jax.jit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Weights = Mapping[str, Any]


def matmul(weights: Weights, a: jax.Array, b: jax.Array, result: str, transposed: bool) -> jax.Array:
    """A product of matrices with results of the named element type."""
    if transposed:
        a, b = a.T, b.T
    return jnp.matmul(a, b, preferred_element_type=jnp.dtype(result))


def linear(weights: Weights, x: jax.Array) -> jax.Array:
    """A product with a constant matrix."""
    return x @ weights["kernel"]


def softmax(weights: Weights, x: jax.Array) -> jax.Array:
    """Softmax of rows."""
    return jax.nn.softmax(x, axis=-1)


def layer_norm(weights: Weights, x: jax.Array) -> jax.Array:
    """Layer norm of rows."""
    return _normalise(x, weights["scale"], weights["shift"])


def _normalise(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-6) * scale + shift


def rms_norm(weights: Weights, x: jax.Array) -> jax.Array:
    """RMS norm of rows."""
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * weights["scale"]


def batch_norm(weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch norm in training, with the batch's mean and variance of each channel."""
    mean = jnp.mean(x, axis=(0, 1, 2))
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2))
    return (x - mean) * lax.rsqrt(variance + 1e-6) * weights["scale"] + weights["shift"], mean, variance


def log_sum_exp(weights: Weights, x: jax.Array) -> jax.Array:
    """Logarithm of the sum of exponentials of rows."""
    return jax.nn.logsumexp(x, axis=-1)


def argmax(weights: Weights, x: jax.Array) -> jax.Array:
    """Where the largest value of each row stands."""
    return jnp.argmax(x, axis=-1)


def gelu(weights: Weights, x: jax.Array) -> jax.Array:
    """GELU, tanh form."""
    return jax.nn.gelu(x, approximate=True)


def mlp_block(weights: Weights, x: jax.Array) -> jax.Array:
    """Layer norm, product, GELU, product, residual."""
    y = _normalise(x, weights["scale"], weights["shift"])
    y = jax.nn.gelu(y @ weights["kernel_in"] + weights["bias_in"], approximate=True)
    return x + y @ weights["kernel_out"] + weights["bias_out"]


def attention(
    weights: Weights,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    *,
    causal: bool,
) -> jax.Array:
    """Attention of (batch, heads, sequence, features)."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5
    if causal:
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, axis=-1), value)


def grouped_attention(weights: Weights, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention in which several heads share keys and values."""
    batch, heads, sequence, features = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], sequence, features)
    scores = jnp.einsum("bhgqd,bhkd->bhgqk", grouped, key) * features**-0.5
    return jnp.einsum("bhgqk,bhkd->bhgqd", jax.nn.softmax(scores, axis=-1), value).reshape(query.shape)


def _convolve(x: jax.Array, kernel: jax.Array, groups: int = 1, stride: int = 1) -> jax.Array:
    rank, half = x.ndim - 2, kernel.shape[0] // 2
    space = "DHW"[-rank:]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * rank,
        [(half, half)] * rank,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=groups,
    )


def conv(weights: Weights, x: jax.Array, stride: int, groups: int) -> jax.Array:
    """A convolution padded by half a window."""
    return _convolve(x, weights["kernel"], groups, stride)


def conv_transposed(weights: Weights, x: jax.Array, stride: int) -> jax.Array:
    """A transposed convolution that makes the image `stride` times as large."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_transpose(
        x, weights["kernel"], (stride, stride), "SAME", dimension_numbers=dimensions, transpose_kernel=True
    )


def pool(weights: Weights, x: jax.Array, window: int, stride: int, kind: str) -> jax.Array:
    """Maximum or mean of windows, padded by half a window."""
    half = window // 2
    shape, strides = (1, window, window, 1), (1, stride, stride, 1)
    padding = ((0, 0), (half, half), (half, half), (0, 0))
    if kind == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, shape, strides, padding)
    return lax.reduce_window(x, 0.0, lax.add, shape, strides, padding) / window**2


def inverted_residual(weights: Weights, x: jax.Array) -> jax.Array:
    """MobileNetV2's block, batch norms folded."""
    y = jax.nn.relu6(_convolve(x, weights["expand"]) + weights["expand_bias"])
    y = jax.nn.relu6(_convolve(y, weights["depthwise"], y.shape[-1]) + weights["depthwise_bias"])
    return x + _convolve(y, weights["project"]) + weights["project_bias"]


def bottleneck(weights: Weights, x: jax.Array) -> jax.Array:
    """ResNet's block, batch norms folded."""
    y = jax.nn.relu(_convolve(x, weights["reduce"]) + weights["reduce_bias"])
    y = jax.nn.relu(_convolve(y, weights["middle"]) + weights["middle_bias"])
    return jax.nn.relu(x + _convolve(y, weights["expand"]) + weights["expand_bias"])


def convnext_block(weights: Weights, x: jax.Array) -> jax.Array:
    """ConvNeXt's block."""
    y = _convolve(x, weights["depthwise"], x.shape[-1]) + weights["depthwise_bias"]
    y = _normalise(y, weights["scale"], weights["shift"])
    y = jax.nn.gelu(y @ weights["kernel_in"] + weights["bias_in"], approximate=False)
    return x + (y @ weights["kernel_out"] + weights["bias_out"]) * weights["layer_scale"]


def encoder_layer(weights: Weights, x: jax.Array, heads: int) -> jax.Array:
    """A transformer layer with the norms in front; (batch, sequence, features)."""
    batch, sequence, features = x.shape
    y = _normalise(x, weights["attention_scale"], weights["attention_shift"])

    def project(part: str) -> jax.Array:
        found = y @ weights[f"{part}_kernel"] + weights[f"{part}_bias"]
        return found.reshape(batch, sequence, heads, features // heads).transpose(0, 2, 1, 3)

    mixed = attention(weights, project("query"), project("key"), project("value"), causal=False)
    mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
    return mlp_block(weights, x + mixed @ weights["out_kernel"] + weights["out_bias"])


def cross_entropy(weights: Weights, x: jax.Array, vocabulary: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the labels."""
    logits = x @ vocabulary
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def elementwise(weights: Weights, x: jax.Array) -> jax.Array:
    """Twelve operations on each element."""
    y = jnp.abs(jnp.tanh(x * 0.75 + 0.5) * 3.0 - x)
    return jnp.minimum(jax.nn.sigmoid(lax.rsqrt(y + 1.0) * x) - 0.5, 0.25)


def transpose(weights: Weights, x: jax.Array) -> jax.Array:
    """A matrix turned round."""
    return x.T


def concatenate(weights: Weights, *parts: jax.Array) -> jax.Array:
    """Matrices side by side."""
    return jnp.concatenate(parts, axis=-1)


def dispatch(weights: Weights, x: jax.Array, y: jax.Array, shift: jax.Array) -> jax.Array:
    """A tiny layer."""
    return jnp.tanh(x @ y + shift)


def jacobi(weights: Weights, grid: jax.Array, steps: int) -> jax.Array:
    """Relaxation with a fixed border."""

    def step(_: Any, u: jax.Array) -> jax.Array:
        inner = 0.25 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])
        return u.at[1:-1, 1:-1].set(inner)

    return lax.fori_loop(0, steps, step, grid)


def fft_convolution(weights: Weights, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Causal convolution by Fourier transforms."""
    length = x.shape[-1]
    spectrum = jnp.fft.rfft(x, 2 * length) * jnp.fft.rfft(kernel, 2 * length)
    return jnp.fft.irfft(spectrum, 2 * length)[..., :length]


def cumsum(weights: Weights, x: jax.Array) -> jax.Array:
    """Running sums of rows."""
    return jnp.cumsum(x, axis=-1)


def top_k(weights: Weights, x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The largest values of rows and their positions."""
    return tuple(lax.top_k(x, k))  # pyright: ignore[reportReturnType]


def sort(weights: Weights, x: jax.Array) -> jax.Array:
    """Rows in ascending order."""
    return jnp.sort(x, axis=-1)


JAX_FUNCTIONS: dict[str, Callable[..., Any]] = {
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
        fft_convolution,
        cumsum,
        top_k,
        sort,
    )
}
"""By the name that `Workload.expression` has."""
