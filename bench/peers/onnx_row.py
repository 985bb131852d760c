"""A row as an ONNX model, and its arguments and results as the model has them."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..problem import Problem
from .base import NotExpressed, Values, to_channels_first, to_channels_last
from .onnx_builder import Builder
from .onnx_functions import IMAGES, ONNX_FUNCTIONS


@dataclass(frozen=True, slots=True)
class OnnxRow:
    """A row as an ONNX model.

    Attributes:
        model: The serialised model; its inputs are `x0`, `x1`, ...
        images: Whether arguments and results are images, to be given with their channels first.
    """

    model: bytes
    images: bool

    def arguments(self, args: Sequence[Values]) -> list[Values]:
        """Arguments as the model takes them, in memory of their own."""
        return [np.array(to_channels_first(value) if self.images else value, order="C") for value in args]

    def results(self, found: Sequence[Values]) -> list[Values]:
        """Results as the workload has them."""
        return [to_channels_last(value) for value in found] if self.images else list(found)


def onnx_row(problem: Problem, calls: int, attention: bool = False) -> OnnxRow:
    """Write a row as a model in which that many calls follow each other; for `attention` see `Builder`.

    Raises:
        NotExpressed: There is no form of the row.
    """
    if problem.expression not in ONNX_FUNCTIONS:
        raise NotExpressed(f"no form of {problem.expression} for ONNX")
    images = problem.expression in IMAGES
    args = OnnxRow(b"", images).arguments(problem.inputs[0])
    names = [f"x{index}" for index in range(len(args))]
    builder = Builder({name: _weight(value) for name, value in problem.weights.items()}, attention)
    function = ONNX_FUNCTIONS[problem.expression]
    found: list[str] = names[:1]
    for _ in range(calls):
        results = function(builder, found[0], *names[1:], shapes=[a.shape for a in args], **problem.parameters)
        found = [results] if isinstance(results, str) else results
    return OnnxRow(builder.model(problem.expression, dict(zip(names, args, strict=True)), found), images)


def _weight(value: Values) -> Values:
    """A constant as ONNX has it: kernels of convolutions begin with results and inputs."""
    return value if value.ndim < 3 else np.ascontiguousarray(np.moveaxis(value, (-1, -2), (0, 1)))
