"""Convolutions and pooling of networks as ONNX operators."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.graph import Op
from .base import NotExpressed
from .stored import Stored, ordered

if TYPE_CHECKING:
    from .onnx_network import NetworkExporter


def convolution(network: NetworkExporter, op: Op) -> Stored:
    """A convolution; weights that are known are laid out here."""
    b, params = network.b, op.params
    image_axes, kernel_axes, result_axes = (tuple(axes) for axes in params["dimension_numbers"])
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
        raise NotExpressed("no form of batch groups and dilated images for ONNX")
    image = ordered(b, network.stored(op.operands[0]), image_axes)
    weights = network.constant(op.operands[1])
    if weights is None:
        kernel = ordered(b, network.stored(op.operands[1]), kernel_axes).name
    else:
        kernel = b.constant(np.ascontiguousarray(weights.transpose(kernel_axes)))
    shape = network.graph.types[op.operands[1]].shape
    name = b.node(
        "Conv",
        image.name,
        kernel,
        group=params["feature_group_count"],
        pads=_pads(params["padding"]),
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        kernel_shape=[shape[axis] for axis in kernel_axes[2:]],
    )
    return Stored(name, op.type.shape, result_axes)


def pooling(network: NetworkExporter, op: Op) -> Stored:
    """Maximum, or sum as a mean times the size of the window."""
    mean = op.opcode == "reduce_window_sum"
    name, axes = _pooled(network, op, "AveragePool" if mean else "MaxPool")
    if mean:
        name = network.b.node("Mul", name, network.b.scalar(float(np.prod(op.params["window_dimensions"]))))
    return Stored(name, op.type.shape, axes)


def window_mean(network: NetworkExporter, op: Op) -> Stored | None:
    """A sum of windows divided by their size, as the mean that it is."""
    inner = network.graph.producer(op.operands[0]) if op.opcode == "div" else None
    if inner is None or inner.opcode != "reduce_window_sum":
        return None
    by = network.constant(op.operands[1])
    if by is None or by.size != 1 or by.reshape(-1)[0] != np.prod(inner.params["window_dimensions"]):
        return None
    name, axes = _pooled(network, inner, "AveragePool")
    return Stored(name, op.type.shape, axes)


def _pooled(network: NetworkExporter, op: Op, operator: str) -> tuple[str, tuple[int, ...]]:
    source, padding = _without_padding(network, op)
    params: dict[str, Any] = dict(op.params)
    window, dilations = params["window_dimensions"], (*params["window_dilation"], *params["base_dilation"])
    spatial = [axis for axis in range(1, len(window) - 1)]
    outer = window[0] == window[-1] == params["window_strides"][0] == params["window_strides"][-1] == 1
    if len(window) < 3 or not outer or set(dilations) != {1} or padding[0] != (0, 0) or padding[-1] != (0, 0):
        raise NotExpressed("no form of these windows for ONNX")
    axes = (0, len(window) - 1, *spatial)
    value = ordered(network.b, network.stored(source), axes)
    options: dict[str, Any] = {
        "kernel_shape": [window[axis] for axis in spatial],
        "strides": [params["window_strides"][axis] for axis in spatial],
        "pads": _pads([padding[axis] for axis in spatial]),
    }
    if operator == "AveragePool":
        options["count_include_pad"] = 1
    return network.b.node(operator, value.name, **options), axes


def _without_padding(network: NetworkExporter, op: Op) -> tuple[int, list[tuple[int, int]]]:
    """What is pooled, and the padding, that of a pad in front included where it changes no maximum.

    Zeros in front of a maximum change nothing after a ReLU, as long as every window sees an element.
    """
    own = [tuple(pair) for pair in op.params["padding"]]
    source = op.operands[0]
    pad = network.graph.producer(source)
    if op.opcode != "reduce_window_max" or pad is None or pad.opcode != "pad":
        return source, own
    relu, filler = network.graph.producer(pad.operands[0]), network.constant(pad.operands[1])
    config = pad.params["padding_config"]
    narrow = all(
        (0 <= low < size and 0 <= high < size) or low == high == 0
        for (low, high, _), size in zip(config, op.params["window_dimensions"], strict=True)
    )
    positive = relu is not None and relu.opcode == "max" and any(_is_zero(network, v) for v in relu.operands)
    if filler is None or filler != 0 or not narrow or not positive or any(inner for _, _, inner in config):
        return source, own
    joined = [(low + a, high + c) for (low, high, _), (a, c) in zip(config, own, strict=True)]
    return pad.operands[0], joined


def _is_zero(network: NetworkExporter, value: int) -> bool:
    known = network.constant(value)
    return known is not None and known.size == 1 and not known.any()


def _pads(padding: Sequence[Sequence[int]]) -> list[int]:
    return [low for low, _ in padding] + [high for _, high in padding]
