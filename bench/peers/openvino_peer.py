"""OpenVINO on the CPU."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino

from ..problem import Problem
from .base import Values
from .onnx_row import OnnxRow, onnx_row


class _OpenVinoProgram:
    def __init__(self, row: OnnxRow, request: Any) -> None:
        self._row = row
        self._request = request

    def load(self, args: Sequence[Values]) -> list[Any]:
        return [openvino.Tensor(value, shared_memory=True) for value in self._row.arguments(args)]

    def run(self, loaded: list[Any]) -> list[Any]:
        for index, tensor in enumerate(loaded):
            self._request.set_input_tensor(index, tensor)
        self._request.infer()
        return [self._request.get_output_tensor(index) for index in range(len(self._request.model_outputs))]

    def results(self, raw: list[Any]) -> list[Values]:
        return self._row.results([np.array(tensor.data) for tensor in raw])


def build(problem: Problem, calls: int, threads: int, option: str, folder: str) -> _OpenVinoProgram:
    """Compile a row; see `torch_peer.build`.

    Raises:
        NotExpressed: There is no form of the row.
    """
    row = onnx_row(problem, calls)
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # it would compute float32 models in bfloat16 where that is faster
    }
    compiled = core.compile_model(core.read_model(row.model), "CPU", settings)
    return _OpenVinoProgram(row, compiled.create_infer_request())
