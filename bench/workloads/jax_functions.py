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


def matmul(weights: Weights, a: jax.Array, b: jax.Array, result: str) -> jax.Array:
    """A matrix product with results of the named element type."""
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


def gelu(weights: Weights, x: jax.Array) -> jax.Array:
    """GELU, tanh form."""
    return jax.nn.gelu(x, approximate=True)


def mlp_block(weights: Weights, x: jax.Array) -> jax.Array:
    """Layer norm, product, GELU, product, residual."""
    y = _normalise(x, weights["scale"], weights["shift"])
    y = jax.nn.gelu(y @ weights["kernel_in"] + weights["bias_in"], approximate=True)
    return x + y @ weights["kernel_out"] + weights["bias_out"]


def attention(weights: Weights, query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
    """Attention of (batch, heads, sequence, features)."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(seen, scores, -jnp.inf)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, axis=-1), value)


def _convolve(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=groups)


def conv(weights: Weights, x: jax.Array, groups: int) -> jax.Array:
    """A convolution with stride 1 that keeps the size."""
    return _convolve(x, weights["kernel"], groups)


def inverted_residual(weights: Weights, x: jax.Array) -> jax.Array:
    """MobileNetV2's block, batch norms folded."""
    y = jax.nn.relu6(_convolve(x, weights["expand"]) + weights["expand_bias"])
    y = jax.nn.relu6(_convolve(y, weights["depthwise"], y.shape[-1]) + weights["depthwise_bias"])
    return x + _convolve(y, weights["project"]) + weights["project_bias"]


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
        gelu,
        mlp_block,
        attention,
        conv,
        inverted_residual,
        convnext_block,
        encoder_layer,
        cross_entropy,
        jacobi,
        fft_convolution,
        cumsum,
        top_k,
        sort,
    )
}
"""By the name that `Workload.expression` has."""
