"""The rows of the kernel suite."""

from __future__ import annotations

from dataclasses import replace

from .base import Workload
from .contractions import encoder_layer, linear, matmul, mlp_block
from .convolutions import bottleneck, conv, conv_transposed, convnext_block, depthwise, inverted_residual, pool
from .movements import concatenate, dispatch, elementwise, gelu, jacobi, transpose
from .others import cumsum, fft_convolution, sort, top_k
from .reductions import (
    argmax,
    attention,
    batch_norm,
    cross_entropy,
    grouped_attention,
    layer_norm,
    log_sum_exp,
    rms_norm,
    softmax,
)

# Rows of less than about 0.1 ms a call are timed as this many calls in one program.
_CHAINED = 20

_ROWS = (
    matmul("matmul-512", 512, 512, 512),
    matmul("matmul-1024", 1024, 1024, 1024),
    matmul("matmul-2048", 2048, 2048, 2048),
    matmul("matmul-1024-tt", 1024, 1024, 1024, transposed=True),
    matmul("matmul-batched", 128, 128, 128, batch=(64,)),
    linear("gemv", 1, 4096, 4096),
    linear("skinny", 8, 4096, 4096),
    mlp_block("mlp-block", 512, 1024, 4096),
    encoder_layer("encoder-layer", 512, 512, 8, 2048),
    conv("conv-3x3", (56, 56), 64, 64, 3),
    conv("conv-1x1", (56, 56), 64, 256, 1),
    conv("conv-3x3-strided", (56, 56), 128, 128, 3, stride=2),
    conv("conv-5x5-grouped", (28, 28), 128, 128, 5, groups=4),
    conv_transposed("conv-transposed", 28, 128, 64, 4, 2),
    conv("conv-1d", (4096,), 256, 256, 5),
    conv("conv-3d", (16, 28, 28), 64, 64, 3),
    replace(depthwise("depthwise-3x3", 56, 64, 3), calls=_CHAINED),
    replace(depthwise("depthwise-7x7", 56, 96, 7), calls=_CHAINED),
    replace(inverted_residual("mobilenetv2-block", 56, 24, 144), calls=_CHAINED),
    convnext_block("convnext-block", 56, 96),
    bottleneck("resnet-bottleneck", 56, 256, 64),
    pool("max-pool", 112, 64, 3, 2, "max"),
    pool("average-pool", 112, 64, 3, 2, "average"),
    softmax("softmax", 4096, 4096),
    layer_norm("layernorm", 4096, 1024),
    rms_norm("rmsnorm", 4096, 1024),
    batch_norm("batchnorm-training", 32, 28, 128),
    log_sum_exp("logsumexp", 4096, 4096),
    argmax("argmax", 4096, 4096),
    cross_entropy("cross-entropy", 512, 512, 32000),
    attention("attention", 8, 2048, 2048, 64),
    attention("attention-causal", 8, 2048, 2048, 64, causal=True),
    attention("attention-masked", 8, 2048, 2048, 64, masked=True),
    grouped_attention("attention-grouped", 8, 2, 2048, 2048, 64),
    attention("attention-decode", 8, 1, 8192, 64),
    gelu("gelu", 4096, 4096),
    elementwise("elementwise-12", 4096, 4096),
    transpose("transpose", 4096, 4096),
    concatenate("concatenate", 4096, 1024, 4),
    jacobi("jacobi", 1000, 100),
    dispatch("tiny-arrays", 8),
    replace(matmul("matmul-1024-bf16", 1024, 1024, 1024, "bfloat16"), family="other"),
    replace(matmul("matmul-1024-int8", 1024, 1024, 1024, "int8"), family="other"),
    fft_convolution("fft-convolution", 8, 64, 8192),
    cumsum("cumsum", 4096, 4096),
    top_k("top-10", 4096, 4096, 10),
    sort("sort", 4096, 4096),
)

KERNELS: dict[str, Workload] = {row.name: row for row in _ROWS}
"""Every row by name, in the order of the report: family by family."""
