"""TVM on the CPU: Relax from ONNX, schedules by MetaSchedule."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from ..problem import Problem
from .base import Values
from .onnx_functions import OnnxRow, onnx_row

_TRIALS = 64  # candidates per row, shared by its operators
_RECORDS = "database_tuning_record.json"  # MetaSchedule's own name for it


class _TvmProgram:
    def __init__(self, row: OnnxRow, machine: Any) -> None:
        self._row = row
        self._call = machine["main"]

    def load(self, args: Sequence[Values]) -> list[Any]:
        return [tvm.runtime.tensor(value) for value in self._row.arguments(args)]

    def run(self, loaded: list[Any]) -> Any:
        return self._call(*loaded)

    def results(self, raw: Any) -> list[Values]:
        found = [raw] if isinstance(raw, tvm.runtime.Tensor) else list(raw)
        return self._row.results([value.numpy() for value in found])


def build(problem: Problem, calls: int, threads: int, option: str, folder: str) -> _TvmProgram:
    """Compile a row; see `torch_peer.build`.

    The first process of a row tunes; the later ones find its records in the folder.

    Raises:
        NotExpressed: There is no form of the row.
    """
    row = onnx_row(problem, calls)
    module = from_onnx(onnx.load_from_string(row.model), keep_params_in_input=False)
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": threads})
    trials = 0 if (Path(folder) / _RECORDS).exists() else _TRIALS
    with target:
        tune = relax.get_pipeline("static_shape_tuning", target=target, total_trials=trials, work_dir=folder)
        tuned = tune(module)
    return _TvmProgram(row, relax.VirtualMachine(tvm.compile(tuned, target), tvm.cpu()))
