"""Rows of matrix products, and of blocks that are mostly such."""

from __future__ import annotations

import math

from . import counting as count
from .base import Array, Workload, bias, kernel, scale


def matmul(
    name: str,
    m: int,
    n: int,
    k: int,
    dtype: str = "float32",
    batch: tuple[int, ...] = (),
    transposed: bool = False,
) -> Workload:
    """Two arguments multiplied; int8 gives int32. If `transposed`, both lie in memory the other way round."""
    result = "int32" if dtype == "int8" else dtype
    draw = {"distribution": "integers", "low": -127, "high": 128} if dtype == "int8" else {}
    first, second = ((k, m), (n, k)) if transposed else ((m, k), (k, n))
    inputs = Array((*batch, *first), dtype, **draw), Array((*batch, *second), dtype, **draw)
    outputs = (Array((*batch, m, n), result),)
    flops = math.prod(batch) * count.matmul(m, n, k)
    parameters = {"result": result, "transposed": transposed}
    return Workload(name, "contraction", "matmul", inputs, outputs, flops, parameters=parameters)


def linear(name: str, rows: int, features: int, outputs: int) -> Workload:
    """A few rows times a constant matrix."""
    return Workload(
        name,
        "contraction",
        "linear",
        (Array((rows, features)),),
        (Array((rows, outputs)),),
        count.matmul(rows, outputs, features),
        {"kernel": kernel(features, outputs)},
    )


def mlp_block(name: str, rows: int, features: int, hidden: int) -> Workload:
    """Layer norm, two products with a GELU in between, residual."""
    array = Array((rows, features))
    weights = {
        "scale": scale(features),
        "shift": bias(features),
        "kernel_in": kernel(features, hidden),
        "bias_in": bias(hidden),
        "kernel_out": kernel(hidden, features),
        "bias_out": bias(features),
    }
    products = 2 * count.matmul(rows, hidden, features)
    rest = (count.LAYER_NORM + 2) * array.size + (count.GELU_TANH + 1) * rows * hidden
    return Workload(name, "contraction", "mlp_block", (array,), (array,), products + rest, weights)


def encoder_layer(name: str, sequence: int, features: int, heads: int, hidden: int) -> Workload:
    """A transformer layer with the norms in front, batch 1."""
    array = Array((1, sequence, features))
    weights: dict[str, Array] = {}
    for part in ("query", "key", "value", "out"):
        weights |= {f"{part}_kernel": kernel(features, features), f"{part}_bias": bias(features)}
    block = mlp_block(name, sequence, features, hidden)
    weights |= {"attention_scale": scale(features), "attention_shift": bias(features), **block.weights}
    flops = (
        4 * count.matmul(sequence, features, features)
        + count.attention(heads * sequence * sequence, features // heads)
        + (count.LAYER_NORM + 5) * array.size  # four biases and the residual
        + block.flops
    )
    return Workload(name, "contraction", "encoder_layer", (array,), (array,), flops, weights, {"heads": heads})
