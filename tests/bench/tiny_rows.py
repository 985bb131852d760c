"""Every row of the kernel suite with sizes at which nothing takes long."""

from __future__ import annotations

import dataclasses

from tilewright.bench.workloads import kernels
from tilewright.bench.workloads.base import Workload

_CHAINED_TINY = {
    "depthwise-3x3": dataclasses.replace(kernels.depthwise("depthwise-3x3", 6, 5, 3), calls=3),
    "depthwise-7x7": dataclasses.replace(kernels.depthwise("depthwise-7x7", 9, 3, 7), calls=2),
    "mobilenetv2-block": dataclasses.replace(kernels.inverted_residual("mobilenetv2-block", 5, 3, 8), calls=2),
}
TINY: dict[str, Workload] = {
    "matmul-512": kernels.matmul("matmul-512", 9, 17, 12),
    "matmul-1024": kernels.matmul("matmul-1024", 16, 32, 8),
    "matmul-2048": kernels.matmul("matmul-2048", 1, 5, 40),
    "matmul-1024-bf16": kernels.matmul("matmul-1024-bf16", 6, 7, 8, "bfloat16"),
    "matmul-1024-int8": kernels.matmul("matmul-1024-int8", 6, 7, 8, "int8"),
    "gemv": kernels.linear("gemv", 1, 33, 20),
    "skinny": kernels.linear("skinny", 3, 20, 33),
    "softmax": kernels.softmax("softmax", 5, 37),
    "layernorm": kernels.layer_norm("layernorm", 5, 24),
    "gelu": kernels.gelu("gelu", 5, 19),
    "mlp-block": kernels.mlp_block("mlp-block", 4, 8, 24),
    "attention": kernels.attention("attention", 2, 9, 9, 8),
    "attention-causal": kernels.attention("attention-causal", 2, 9, 9, 8, causal=True),
    "attention-decode": kernels.attention("attention-decode", 2, 1, 21, 8),
    "conv-3x3": kernels.conv("conv-3x3", 6, 5, 3),
    **_CHAINED_TINY,
    "convnext-block": kernels.convnext_block("convnext-block", 8, 4),
    "encoder-layer": kernels.encoder_layer("encoder-layer", 6, 8, 2, 12),
    "cross-entropy": kernels.cross_entropy("cross-entropy", 5, 8, 30),
    "jacobi": kernels.jacobi("jacobi", 9, 4),
    "fft-convolution": kernels.fft_convolution("fft-convolution", 2, 3, 16),
    "cumsum": kernels.cumsum("cumsum", 4, 21),
    "top-10": kernels.top_k("top-10", 4, 40, 10),
    "sort": kernels.sort("sort", 4, 21),
}
