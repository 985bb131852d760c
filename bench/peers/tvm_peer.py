"""TVM on the CPU: Relax from ONNX, every operator tuned by MetaSchedule."""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from ..problem import Problem
from .base import NotExpressed, Values
from .onnx_row import OnnxRow, onnx_row

# TVM would tie its threads to the machine's first processors, even where this process may use only others.
os.environ["TVM_BIND_THREADS"] = "0"


@contextmanager
def _no_torch() -> Iterator[None]:
    """TVM imports torch where it is installed, to exchange tensors with it: seconds of start for nothing here."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]


with _no_torch():
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx
    from tvm.s_tir import meta_schedule
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

_TRIALS = 64  # candidates per row, shared by its operators
_LEAST_TRIALS = 8  # of each operator
_BATCH = 32  # candidates between two looks at the cost model
_LONGEST_S = 10.0  # of compiling or running a candidate: LLVM takes minutes for some of them
_TUNED = "tuned"  # a file that is there once the records are complete


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
        NotExpressed: There is no form of the row, or TVM can't read it.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)  # read when the first program runs, here and where candidates do
    row = onnx_row(problem, calls)
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": threads})
    with target:
        module = _operators(row)
        records = Path(folder) / "tvm"
        if not (records / _TUNED).exists():
            _tune(module, target, threads, records)
        module = relax.transform.MetaScheduleApplyDatabase(str(records))(module)
    return _TvmProgram(row, relax.VirtualMachine(tvm.compile(module, target), tvm.cpu()))


def _operators(row: OnnxRow) -> Any:
    """The row as operators that are fused as far as TVM does it, which are what is tuned."""
    try:
        module = from_onnx(onnx.load_from_string(row.model), keep_params_in_input=False)
    except Exception as error:  # of many types, for operators and forms of them that its reader does not know
        said = (str(error).strip().splitlines() or [""])[0]
        raise NotExpressed(f"TVM can't read the ONNX form: {type(error).__name__}: {said}") from error
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        relax.get_pipeline("zero"),
    ]
    return tvm.transform.Sequential(passes)(module)


def _compile(module: Any, target: Any, _: Any) -> Any:
    """Compile a candidate, in a process of its own.

    TVM's own function for this first loads the instructions of every accelerator, which alone takes longer than a
    candidate may.
    """
    return tvm.driver.build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


def _tune(module: Any, target: Any, threads: int, records: Path) -> None:
    records.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(records)  # what candidates leave there goes with the row's folder
    operators = meta_schedule.relax_integration.extract_tasks(module, target)
    tasks, weights = meta_schedule.relax_integration.extracted_tasks_to_tune_contexts(
        operators, str(records), num_threads=threads, seed=0
    )
    if tasks:
        # A batch goes to one operator: batches must be small enough for each to get one.
        batch = min(max(_TRIALS // len(tasks), _LEAST_TRIALS), _BATCH)
        meta_schedule.tune.tune_tasks(
            tasks=tasks,
            task_weights=weights,
            work_dir=str(records),
            max_trials_global=max(_TRIALS, batch * len(tasks)),
            num_trials_per_iter=batch,
            builder=meta_schedule.builder.LocalBuilder(max_workers=threads, timeout_sec=_LONGEST_S, f_build=_compile),
            # Of slow candidates one run is enough; the fast ones are run for a tenth of a second anyway.
            runner=meta_schedule.runner.LocalRunner(
                timeout_sec=_LONGEST_S, evaluator_config=meta_schedule.runner.EvaluatorConfig(number=1)
            ),
        )
    (records / _TUNED).touch()
