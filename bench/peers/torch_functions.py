"""The workloads in PyTorch, as one writes them there: `function(weights, *arguments, **parameters)`.

Images come and go with their channels last, unless listed below: torch's channels-last format, seen through a
permutation that costs nothing.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]


def matmul(weights: Weights, a: Tensor, b: Tensor, result: str, transposed: bool) -> Tensor:
    """A product of matrices."""
    if transposed:
        a, b = a.t(), b.t()
    return torch._int_mm(a, b) if result == "int32" else a @ b


def linear(weights: Weights, x: Tensor) -> Tensor:
    """A product with a constant matrix."""
    return x @ weights["kernel"]


def softmax(weights: Weights, x: Tensor) -> Tensor:
    """Softmax of rows."""
    return torch.softmax(x, dim=-1)


def layer_norm(weights: Weights, x: Tensor) -> Tensor:
    """Layer norm of rows."""
    return _normalise(x, weights["scale"], weights["shift"])


def _normalise(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return functional.layer_norm(x, scale.shape, scale, shift, eps=1e-6)


def rms_norm(weights: Weights, x: Tensor) -> Tensor:
    """RMS norm of rows."""
    return functional.rms_norm(x, weights["scale"].shape, weights["scale"], eps=1e-6)


def batch_norm(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in training, with the batch's mean and variance of each channel."""
    found, mean, inverse = torch.native_batch_norm(x, weights["scale"], weights["shift"], None, None, True, 0.0, 1e-6)
    return found, mean, inverse**-2 - 1e-6


def log_sum_exp(weights: Weights, x: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials of rows."""
    return torch.logsumexp(x, dim=-1)


def argmax(weights: Weights, x: Tensor) -> Tensor:
    """Where the largest value of each row stands."""
    return torch.argmax(x, dim=-1)


def gelu(weights: Weights, x: Tensor) -> Tensor:
    """GELU, tanh form."""
    return functional.gelu(x, approximate="tanh")


def mlp_block(weights: Weights, x: Tensor) -> Tensor:
    """Layer norm, product, GELU, product, residual."""
    y = _normalise(x, weights["scale"], weights["shift"])
    y = functional.gelu(_affine(y, weights["kernel_in"], weights["bias_in"]), approximate="tanh")
    return x + _affine(y, weights["kernel_out"], weights["bias_out"])


def _affine(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(x, kernel.t(), bias)


def attention(
    weights: Weights, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool
) -> Tensor:
    """Attention of (batch, heads, sequence, features)."""
    return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)


def grouped_attention(weights: Weights, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention in which several heads share keys and values."""
    return functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def conv(weights: Weights, x: Tensor, stride: int, groups: int) -> Tensor:
    """A convolution padded by half a window."""
    return _rows_last(_convolve(_channels_first(x), weights["kernel"], None, groups, stride))


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int = 1, stride: int = 1) -> Tensor:
    window = kernel.shape[-1]
    if x.ndim == 3:  # as an image of one row: conv1d knows no channels-last format and takes twice as long
        strides, padding = (1, stride), (0, window // 2)
        return functional.conv2d(x[:, :, None], kernel, bias, strides, padding, groups=groups)[:, :, 0]
    function = functional.conv2d if x.ndim == 4 else functional.conv3d
    return function(x, kernel, bias, stride, window // 2, groups=groups)


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def _rows_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


def conv_transposed(weights: Weights, x: Tensor, stride: int) -> Tensor:
    """A transposed convolution that makes the image `stride` times as large."""
    kernel = weights["kernel"]
    padding = (kernel.shape[-1] - stride) // 2
    return _rows_last(functional.conv_transpose2d(_channels_first(x), kernel, stride=stride, padding=padding))


def pool(weights: Weights, x: Tensor, window: int, stride: int, kind: str) -> Tensor:
    """Maximum or mean of windows, padded by half a window."""
    function = functional.max_pool2d if kind == "max" else functional.avg_pool2d
    return _rows_last(function(_channels_first(x), window, stride, window // 2))


def inverted_residual(weights: Weights, x: Tensor) -> Tensor:
    """MobileNetV2's block, batch norms folded."""
    image = _channels_first(x)
    y = functional.relu6(_convolve(image, weights["expand"], weights["expand_bias"]))
    y = functional.relu6(_convolve(y, weights["depthwise"], weights["depthwise_bias"], y.shape[1]))
    return _rows_last(image + _convolve(y, weights["project"], weights["project_bias"]))


def bottleneck(weights: Weights, x: Tensor) -> Tensor:
    """ResNet's block, batch norms folded."""
    image = _channels_first(x)
    y = functional.relu(_convolve(image, weights["reduce"], weights["reduce_bias"]))
    y = functional.relu(_convolve(y, weights["middle"], weights["middle_bias"]))
    return _rows_last(functional.relu(image + _convolve(y, weights["expand"], weights["expand_bias"])))


def convnext_block(weights: Weights, x: Tensor) -> Tensor:
    """ConvNeXt's block."""
    y = _rows_last(_convolve(_channels_first(x), weights["depthwise"], weights["depthwise_bias"], x.shape[-1]))
    y = _normalise(y, weights["scale"], weights["shift"])
    y = functional.gelu(_affine(y, weights["kernel_in"], weights["bias_in"]))
    return x + _affine(y, weights["kernel_out"], weights["bias_out"]) * weights["layer_scale"]


def encoder_layer(weights: Weights, x: Tensor, heads: int) -> Tensor:
    """A transformer layer with the norms in front; (batch, sequence, features)."""
    batch, sequence, features = x.shape
    y = _normalise(x, weights["attention_scale"], weights["attention_shift"])

    def project(part: str) -> Tensor:
        found = _affine(y, weights[f"{part}_kernel"], weights[f"{part}_bias"])
        return found.view(batch, sequence, heads, features // heads).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(project("query"), project("key"), project("value"))
    mixed = mixed.transpose(1, 2).reshape(x.shape)
    return mlp_block(weights, x + _affine(mixed, weights["out_kernel"], weights["out_bias"]))


def cross_entropy(weights: Weights, x: Tensor, vocabulary: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels."""
    return functional.cross_entropy(x @ vocabulary, labels.long())


def elementwise(weights: Weights, x: Tensor) -> Tensor:
    """Twelve operations on each element."""
    y = torch.abs(torch.tanh(x * 0.75 + 0.5) * 3.0 - x)
    return torch.clamp_max(torch.sigmoid(torch.rsqrt(y + 1.0) * x) - 0.5, 0.25)


def transpose(weights: Weights, x: Tensor) -> Tensor:
    """A matrix turned round in memory: its transposed view would cost nothing and move nothing."""
    return x.t().contiguous()


def concatenate(weights: Weights, *parts: Tensor) -> Tensor:
    """Matrices side by side."""
    return torch.cat(parts, dim=-1)


def dispatch(weights: Weights, x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """A tiny layer."""
    return torch.tanh(torch.addmm(shift, x, y))


def jacobi(weights: Weights, grid: Tensor, steps: int) -> Tensor:
    """Relaxation with a fixed border."""
    grid = grid.clone()
    for _ in range(steps):
        grid[1:-1, 1:-1] = 0.25 * (grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:])
    return grid


def fft_convolution(weights: Weights, x: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution by Fourier transforms."""
    length = x.shape[-1]
    spectrum = torch.fft.rfft(x, 2 * length) * torch.fft.rfft(kernel, 2 * length)
    return torch.fft.irfft(spectrum, 2 * length)[..., :length]


def cumsum(weights: Weights, x: Tensor) -> Tensor:
    """Running sums of rows."""
    return torch.cumsum(x, dim=-1)


def top_k(weights: Weights, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest values of rows and their positions."""
    values, positions = torch.topk(x, k, dim=-1)
    return values, positions


def sort(weights: Weights, x: Tensor) -> Tensor:
    """Rows in ascending order."""
    return torch.sort(x, dim=-1).values


TORCH_FUNCTIONS: dict[str, Callable[..., Any]] = {
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

CHANNELS_FIRST = frozenset({"batch_norm"})
"""Expressions whose images come and go with their channels first: faster there, and more accurate."""
