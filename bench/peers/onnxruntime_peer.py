"""ONNX Runtime on the CPU."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence

import onnxruntime

from ..problem import Problem
from .base import Values
from .onnx_row import OnnxRow, onnx_row


class _OnnxProgram:
    def __init__(self, row: OnnxRow, session: onnxruntime.InferenceSession) -> None:
        self._row = row
        self._session = session

    def load(self, args: Sequence[Values]) -> dict[str, Values]:
        return {f"x{index}": value for index, value in enumerate(self._row.arguments(args))}

    def run(self, loaded: dict[str, Values]) -> list[Values]:
        return self._session.run(None, loaded)  # pyright: ignore[reportReturnType]

    def results(self, raw: list[Values]) -> list[Values]:
        return self._row.results(raw)


def build(problem: Problem, calls: int, threads: int, option: str, folder: str) -> _OnnxProgram:
    """Compile a row; see `torch_peer.build`.

    Raises:
        NotExpressed: There is no form of the row.
    """
    row = onnx_row(problem, calls, attention=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    return _OnnxProgram(row, onnxruntime.InferenceSession(row.model, options, providers=["CPUExecutionProvider"]))
