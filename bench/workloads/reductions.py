"""Rows that reduce: softmax, norms, attention, losses."""

from __future__ import annotations

from . import counting as count
from .base import Array, Workload, bias, kernel, scale


def softmax(name: str, rows: int, columns: int) -> Workload:
    """Along the last axis."""
    array = Array((rows, columns), high=3.0)
    return Workload(name, "reduction", "softmax", (array,), (array,), count.SOFTMAX * array.size)


def layer_norm(name: str, rows: int, features: int) -> Workload:
    """Along the last axis, with scale and shift."""
    array = Array((rows, features))
    weights = {"scale": scale(features), "shift": bias(features)}
    return Workload(name, "reduction", "layer_norm", (array,), (array,), count.LAYER_NORM * array.size, weights)


def rms_norm(name: str, rows: int, features: int) -> Workload:
    """Along the last axis, with scale."""
    array = Array((rows, features))
    weights = {"scale": scale(features)}
    return Workload(name, "reduction", "rms_norm", (array,), (array,), count.RMS_NORM * array.size, weights)


def batch_norm(name: str, batch: int, size: int, channels: int) -> Workload:
    """As in training: values normalised over all pixels of the batch, and the mean and variance of each channel."""
    array, statistics = Array((batch, size, size, channels)), Array((channels,))
    weights = {"scale": scale(channels), "shift": bias(channels)}
    outputs = (array, statistics, statistics)
    return Workload(name, "reduction", "batch_norm", (array,), outputs, count.LAYER_NORM * array.size, weights)


def log_sum_exp(name: str, rows: int, columns: int) -> Workload:
    """Along the last axis."""
    array = Array((rows, columns), high=3.0)
    return Workload(name, "reduction", "log_sum_exp", (array,), (Array((rows,)),), count.LOG_SUM_EXP * array.size)


def argmax(name: str, rows: int, columns: int) -> Workload:
    """Where the largest value of each row stands."""
    array = Array((rows, columns))
    return Workload(name, "reduction", "argmax", (array,), (Array((rows,), "int32"),), array.size)


def attention(
    name: str,
    heads: int,
    queries: int,
    keys: int,
    features: int,
    causal: bool = False,
    masked: bool = False,
) -> Workload:
    """Scaled dot-product attention, batch 1; a mask is an argument that says which keys each query sees."""
    query, key = Array((1, heads, queries, features)), Array((1, heads, keys, features))
    # Three of four keys: no query is left without any.
    mask = (Array((queries, keys), "bool", "integers", 0, 4),) if masked else ()
    pairs = heads * (count.causal_pairs(queries) if causal else queries * keys)
    flops = count.attention(pairs, features)
    parameters = {"causal": causal}
    return Workload(name, "reduction", "attention", (query, key, key, *mask), (query,), flops, parameters=parameters)


def grouped_attention(name: str, heads: int, key_heads: int, queries: int, keys: int, features: int) -> Workload:
    """Attention in which `heads / key_heads` heads share their keys and values, batch 1."""
    query, key = Array((1, heads, queries, features)), Array((1, key_heads, keys, features))
    flops = count.attention(heads * queries * keys, features)
    return Workload(name, "reduction", "grouped_attention", (query, key, key), (query,), flops)


def cross_entropy(name: str, tokens: int, features: int, vocabulary: int) -> Workload:
    """Mean loss of hidden states under a vocabulary matrix, which is an argument since training changes it."""
    inputs = (
        Array((tokens, features)),
        kernel(features, vocabulary),
        Array((tokens,), "int32", "integers", 0, vocabulary),
    )
    flops = count.matmul(tokens, vocabulary, features) + count.LOG_SUM_EXP * tokens * vocabulary + 3 * tokens
    return Workload(name, "reduction", "cross_entropy", inputs, (Array(()),), flops)
