"""Run a plan without XLA: the same object code, with Python threads as helpers."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import dtypes
from ...ir.plan import ExecPlan
from .kernel import Kernel
from .link import load
from .plan_table import FIRST_ARRAY_BASE, PlanTable, aligned_empty
from .runtime import runtime_ir
from .toolchain import object_code

if TYPE_CHECKING:
    from ...ir.graph import TensorType

_KERNEL_ALIGNMENT = 16


def run_plan_native(
    plan: ExecPlan, kernels: Mapping[str, Kernel], arrays: Sequence[np.ndarray], threads: int = 1
) -> tuple[np.ndarray, ...]:
    """Execute a plan once.

    Args:
        plan: the plan.
        kernels: every kernel that the plan names, by symbol.
        arrays: one array per input, of exactly its shape and element type.
        threads: how many threads to use, at most.

    Returns:
        One array per output.

    Raises:
        PlanError: the plan is inconsistent, or does not fit its kernels.
        ValueError: an argument does not have the type the plan was made for.
        MemoryError: there is no memory for the intermediates.
    """
    inputs = _checked_inputs(plan, arrays)
    outputs = tuple(aligned_empty(tuple(t.shape), dtypes.to_numpy(t.dtype)) for t in plan.outputs)
    table = PlanTable(plan, kernels, threads)
    _run(table, [*inputs, *outputs])
    return outputs


def _run(table: PlanTable, arrays: Sequence[np.ndarray]) -> None:
    driver = _driver()
    block = driver.begin(table.address)
    if not block:
        raise MemoryError("there is no memory for the plan's intermediates")
    first = block + table.bases_offset + 8 * FIRST_ARRAY_BASE
    bases = (ctypes.c_void_p * len(arrays)).from_address(first)
    bases[:] = [array.ctypes.data for array in arrays]
    driver.open(block, table.participants)
    helpers = [_started_helper(driver, block) for _ in range(table.participants - 1)]
    driver.lead(block)
    for helper in helpers:
        if helper is not None:
            helper.join()
    driver.drain(table.address)


def _started_helper(driver: _Driver, block: int) -> threading.Thread | None:
    """A thread that takes part; None, without its reference to the block, where the system allows no more threads."""
    helper = threading.Thread(target=driver.help, args=(block,))
    try:
        helper.start()
    except RuntimeError:
        driver.drop(block)
        return None
    return helper


def _checked_inputs(plan: ExecPlan, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    if len(arrays) != len(plan.inputs):
        raise ValueError(f"expected {len(plan.inputs)} arrays, found {len(arrays)}")
    pairs = enumerate(zip(plan.inputs, arrays, strict=True))
    return [_checked_input(number, tensor, array) for number, (tensor, array) in pairs]


def _checked_input(number: int, tensor: TensorType, array: np.ndarray) -> np.ndarray:
    if array.shape != tuple(tensor.shape) or array.dtype != dtypes.to_numpy(tensor.dtype):
        expected = f"{tensor.dtype}{list(tensor.shape)}"
        raise ValueError(f"argument {number}: expected {expected}, found {array.dtype.name}{list(array.shape)}")
    if array.flags.c_contiguous and array.ctypes.data % _KERNEL_ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


@dataclass(frozen=True, slots=True)
class _Driver:
    """The driver's entry points (`runtime` defines them); calling one releases the interpreter lock."""

    begin: Any
    open: Any
    lead: Any
    help: Any
    drop: Any
    drain: Any


@functools.cache
def _driver() -> _Driver:
    library = load(object_code(runtime_ir(), features=""))
    pointer = ctypes.c_void_p

    def entry(name: str, result: Any, *parameters: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *parameters)(library.address(f"tilewright_{name}"))

    return _Driver(
        begin=entry("begin", pointer, pointer),
        open=entry("open", None, pointer, ctypes.c_int64),
        lead=entry("lead", None, pointer),
        help=entry("help", None, pointer),
        drop=entry("drop", None, pointer),
        drain=entry("drain", None, pointer),
    )
