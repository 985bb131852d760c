"""Writes ONNX graphs node by node."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET = 20  # the first with Gelu; every runtime of interest knows it
_ATTENTION_OPSET = 23  # the first with Attention
_IR_VERSION = 10
_TYPES = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


class Builder:
    """Collects the nodes of a graph; values are names.

    Args:
        weights: Constants, by name.
        attention: Whether attention is written as one operator; some runtimes find it in its parts, others do not.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], attention: bool = False) -> None:
        self.attention = attention
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = dict(weights)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one result."""
        return self.several(operator, inputs, 1, **attributes)[0]

    def several(self, operator: str, inputs: Sequence[str], results: int, **attributes: Any) -> list[str]:
        """Add an operator with several results."""
        names = [f"v{len(self.nodes)}_{index}" for index in range(results)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def constant(self, value: NDArray[np.generic] | np.generic) -> str:
        """Add a constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def model(self, name: str, inputs: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]) -> onnx.ModelProto:
        """The model, with the shapes of its results.

        Args:
            name: Of the graph.
            inputs: Values like its arguments, by name.
            outputs: Its results.
        """
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(n, _TYPES[value.dtype.name], value.shape) for n, value in inputs.items()],
            [onnx.ValueInfoProto(name=output) for output in outputs],
            [numpy_helper.from_array(np.asarray(value), n) for n, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", _ATTENTION_OPSET if self.attention else _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def cast(self, name: str, dtype: str) -> str:
        """Convert to an element type."""
        return self.node("Cast", name, to=_TYPES[dtype])

    def scalar(self, value: float) -> str:
        """Add a float32 number."""
        return self.constant(np.float32(value))

    def shape(self, *extents: int) -> str:
        """Add integers."""
        return self.constant(np.array(extents, np.int64))
