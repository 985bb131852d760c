"""The workloads in PyTorch, as one writes them there: `function(weights, *arguments, **parameters)`.

Images come and go as NHWC, which is torch's channels-last format seen through a permutation that costs nothing.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]


def matmul(weights: Weights, a: Tensor, b: Tensor, result: str) -> Tensor:
    """A matrix product."""
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


def attention(weights: Weights, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attention of (batch, heads, sequence, features)."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=causal)


def conv(weights: Weights, x: Tensor, groups: int) -> Tensor:
    """A convolution with stride 1 that keeps the size."""
    return _rows_last(_convolve(_channels_first(x), weights["kernel"], None, groups))


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    return functional.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2, groups=groups)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _rows_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def inverted_residual(weights: Weights, x: Tensor) -> Tensor:
    """MobileNetV2's block, batch norms folded."""
    image = _channels_first(x)
    y = functional.relu6(_convolve(image, weights["expand"], weights["expand_bias"]))
    y = functional.relu6(_convolve(y, weights["depthwise"], weights["depthwise_bias"], y.shape[1]))
    return _rows_last(image + _convolve(y, weights["project"], weights["project_bias"]))


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
