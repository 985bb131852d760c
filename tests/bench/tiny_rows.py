"""Every row of the kernel suite with sizes at which nothing takes long."""

from __future__ import annotations

from dataclasses import replace

from tilewright.bench.workloads import contractions, convolutions, movements, others, reductions
from tilewright.bench.workloads.base import Workload

_ROWS = (
    contractions.matmul("matmul-512", 9, 17, 12),
    contractions.matmul("matmul-1024", 16, 32, 8),
    contractions.matmul("matmul-2048", 1, 5, 40),
    contractions.matmul("matmul-1024-tt", 7, 11, 13, transposed=True),
    contractions.matmul("matmul-batched", 5, 9, 6, batch=(3,)),
    contractions.linear("gemv", 1, 33, 20),
    contractions.linear("skinny", 3, 20, 33),
    contractions.mlp_block("mlp-block", 4, 8, 24),
    contractions.encoder_layer("encoder-layer", 6, 8, 2, 12),
    convolutions.conv("conv-3x3", (6, 6), 5, 5, 3),
    convolutions.conv("conv-1x1", (5, 6), 3, 7, 1),
    convolutions.conv("conv-3x3-strided", (9, 8), 5, 4, 3, stride=2),
    convolutions.conv("conv-5x5-grouped", (7, 7), 6, 4, 5, groups=2),
    convolutions.conv_transposed("conv-transposed", 5, 3, 4, 4, 2),
    convolutions.conv("conv-1d", (19,), 5, 6, 5),
    convolutions.conv("conv-3d", (4, 5, 6), 3, 4, 3),
    replace(convolutions.depthwise("depthwise-3x3", 6, 5, 3), calls=3),
    replace(convolutions.depthwise("depthwise-7x7", 9, 3, 7), calls=2),
    replace(convolutions.inverted_residual("mobilenetv2-block", 5, 3, 8), calls=2),
    convolutions.convnext_block("convnext-block", 8, 4),
    convolutions.bottleneck("resnet-bottleneck", 6, 8, 3),
    convolutions.pool("max-pool", 9, 5, 3, 2, "max"),
    convolutions.pool("average-pool", 8, 5, 3, 2, "average"),
    reductions.softmax("softmax", 5, 37),
    reductions.layer_norm("layernorm", 5, 24),
    reductions.rms_norm("rmsnorm", 5, 24),
    reductions.batch_norm("batchnorm-training", 3, 4, 5),
    reductions.log_sum_exp("logsumexp", 5, 37),
    reductions.argmax("argmax", 5, 37),
    reductions.cross_entropy("cross-entropy", 5, 8, 30),
    reductions.attention("attention", 2, 9, 9, 8),
    reductions.attention("attention-causal", 2, 9, 9, 8, causal=True),
    reductions.attention("attention-masked", 2, 9, 11, 8, masked=True),
    reductions.grouped_attention("attention-grouped", 6, 2, 5, 9, 8),
    reductions.attention("attention-decode", 2, 1, 21, 8),
    movements.gelu("gelu", 5, 19),
    movements.elementwise("elementwise-12", 5, 19),
    movements.transpose("transpose", 5, 19),
    movements.concatenate("concatenate", 5, 7, 4),
    movements.jacobi("jacobi", 9, 4),
    movements.dispatch("tiny-arrays", 3),
    replace(contractions.matmul("matmul-1024-bf16", 6, 7, 8, "bfloat16"), family="other"),
    replace(contractions.matmul("matmul-1024-int8", 6, 7, 8, "int8"), family="other"),
    others.fft_convolution("fft-convolution", 2, 3, 16),
    others.cumsum("cumsum", 4, 21),
    others.top_k("top-10", 4, 40, 10),
    others.sort("sort", 4, 21),
)
TINY: dict[str, Workload] = {row.name: row for row in _ROWS}
