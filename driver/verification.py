"""Checking kernels of tasks in the measuring worker, before any of them runs in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..backends.llvm.kernel import Kernel
from ..ir import dtypes
from ..ir.measure import MeasureData, MeasureRequest
from ..passes.packing import pack_array, unpacked_shape
from .planning import Task
from .references import Reference, references


def task_references(tasks: Sequence[Task], seed: int) -> dict[str, MeasureData]:
    """Random arguments and reference results of tasks, by key."""
    found = references([t.region for t in tasks], seed)
    return {t.key: _measure_data(t, r) for t, r in zip(tasks, found, strict=True)}


def _measure_data(task: Task, reference: Reference) -> MeasureData:
    workload = task.workload
    params = workload.func.params
    values = (*workload.inputs, *workload.constants)
    inputs = [
        np.ascontiguousarray(reference.arguments[v]).reshape(unpacked_shape(b))
        for v, b in zip(values, params, strict=False)
    ]
    with np.errstate(over="ignore"):  # what is too large is infinite
        outputs = [
            reference.outputs[v].astype(dtypes.to_numpy(b.dtype)).reshape(b.shape)
            for v, b in zip(workload.outputs, params[len(values) :], strict=True)
        ]
    tolerances = tuple(reference.tolerances[v] for v in workload.outputs)
    constants = frozenset(range(len(workload.inputs), len(values)))
    return MeasureData(tuple(inputs), tuple(outputs), tolerances, constants)


def measure_request(kernel: Kernel, data: MeasureData, chunks: int = 0) -> MeasureRequest:
    """A kernel as a candidate, with its constants laid out as its schedule wants them."""
    packed: Mapping[int, np.ndarray] = {
        n: pack_array(data.inputs[n], kernel.params[n]) for n in data.constants if kernel.params[n].packing
    }
    return MeasureRequest(kernel, chunks, packed)
