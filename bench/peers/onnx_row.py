"""A row as an ONNX model, and its arguments and results as the model has them."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Graph
from ..problem import Problem
from .base import NotExpressed, Values
from .onnx_builder import Builder
from .onnx_functions import IMAGES, ONNX_FUNCTIONS
from .onnx_network import export_network

_Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OnnxRow:
    """A row as an ONNX model.

    Attributes:
        model: The serialised model; its inputs are `x0`, `x1`, ...
        argument_axes: Axis `i` of what the model takes is axis `axes[i]` of the argument.
        result_axes: The same of its results.
    """

    model: bytes
    argument_axes: tuple[_Axes, ...]
    result_axes: tuple[_Axes, ...]

    def arguments(self, args: Sequence[Values]) -> list[Values]:
        """Arguments as the model takes them, in memory of their own."""
        pairs = zip(args, self.argument_axes, strict=True)
        return [np.array(value.transpose(axes), order="C") for value, axes in pairs]

    def results(self, found: Sequence[Values]) -> list[Values]:
        """Results as the workload has them."""
        pairs = zip(found, self.result_axes, strict=True)
        return [value.transpose(np.argsort(axes)) if axes else value for value, axes in pairs]


def onnx_row(problem: Problem, calls: int, attention: bool = False) -> OnnxRow:
    """Write a row as a model in which that many calls follow each other; for `attention` see `Builder`.

    Raises:
        NotExpressed: There is no form of the row.
    """
    if problem.graph is not None:
        return _network(problem.graph, problem.inputs[0], attention)
    if problem.expression not in ONNX_FUNCTIONS:
        raise NotExpressed(f"no form of {problem.expression} for ONNX")
    images = problem.expression in IMAGES
    argument_axes = tuple(_axes(value.ndim, images) for value in problem.inputs[0])
    args = OnnxRow(b"", argument_axes, ()).arguments(problem.inputs[0])
    names = [f"x{index}" for index in range(len(args))]
    builder = Builder({name: _weight(value) for name, value in problem.weights.items()}, attention)
    function = ONNX_FUNCTIONS[problem.expression]
    found: list[str] = names[:1]
    for _ in range(calls):
        results = function(builder, found[0], *names[1:], shapes=[a.shape for a in args], **problem.parameters)
        found = [results] if isinstance(results, str) else results
    model = builder.model(problem.expression, dict(zip(names, args, strict=True)), found)
    ranks = [len(output.type.tensor_type.shape.dim) for output in model.graph.output]
    return OnnxRow(model.SerializeToString(), argument_axes, tuple(_axes(rank, images) for rank in ranks))


def _network(graph: Graph, args: Sequence[Values], attention: bool) -> OnnxRow:
    builder = Builder({}, attention)
    inputs, outputs = export_network(graph, builder)
    row = OnnxRow(b"", tuple(value.axes for value in inputs), tuple(value.axes for value in outputs))
    stored = dict(zip([value.name for value in inputs], row.arguments(args), strict=True))
    model = builder.model("network", stored, [value.name for value in outputs])
    return OnnxRow(model.SerializeToString(), row.argument_axes, row.result_axes)


def _axes(rank: int, images: bool) -> _Axes:
    """Images, signals and volumes have their channels first."""
    return (0, rank - 1, *range(1, rank - 1)) if images and rank >= 3 else tuple(range(rank))


def _weight(value: Values) -> Values:
    """A constant as ONNX has it: kernels of convolutions begin with results and inputs."""
    return value if value.ndim < 3 else np.ascontiguousarray(np.moveaxis(value, (-1, -2), (0, 1)))
