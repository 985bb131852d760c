"""Plans as XLA custom calls, through `jax.ffi`. The only part of this backend that imports JAX."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...ir import dtypes
from ...ir.plan import ExecPlan, verify_plan
from .kernel import Kernel
from .link import digest, load
from .observer import MOMENTS, RECORDED_PHASES, RECORDED_THREADS, RECORDING
from .plan_table import PlanTable, aligned_empty, kernels_digest, verify_kernels
from .toolchain import object_code
from .xla_abi import XlaAbi, read_abi
from .xla_handler import ENTRY_IR, handler_ir, xla_dtype

if TYPE_CHECKING:
    from ...ir.graph import TensorType

_lock = threading.Lock()
# Target name -> what its code reads. Never shrinks: compiled programs and late helper tasks may refer to it for ever.
_registered: dict[str, _Registration] = {}


def bind_plan(
    plan: ExecPlan, kernels: Mapping[str, Kernel], code: RuntimeCode | None = None
) -> Callable[..., tuple[jax.Array, ...]]:
    """Make a plan callable from JAX; under `jax.jit` it becomes one custom call.

    The call's target is named after the content of the plan and its kernels, and registered before this returns.

    Args:
        plan: the plan.
        kernels: every kernel that the plan names, by symbol.
        code: what runs it; None for `runtime_code`.

    Returns:
        A function of one array per input (exactly of its shape and element type) that returns one array per output. It
        raises ValueError for any other arguments.

    Raises:
        PlanError: the plan is inconsistent, or does not fit its kernels.
        LinkError: a kernel's object code can't be loaded.
        XlaAbiError: the interface of the installed jaxlib is not understood.
    """
    target = register_plan(plan, kernels, code)
    results = tuple(jax.ShapeDtypeStruct(tuple(t.shape), dtypes.to_numpy(t.dtype)) for t in plan.outputs)
    call = jax.ffi.ffi_call(target, results)
    inputs = plan.inputs

    def run(*arrays: Any) -> tuple[jax.Array, ...]:
        _check_arguments(inputs, arrays)
        if not results:
            return ()
        return tuple(call(*arrays))

    return run


def register_plan(plan: ExecPlan, kernels: Mapping[str, Kernel], code: RuntimeCode | None = None) -> str:
    """Register a plan as a custom call target, once per content; see `bind_plan`.

    Args:
        plan: the plan.
        kernels: every kernel that the plan names, by symbol.
        code: what `runtime_code` gave in a process with the same jaxlib; None to generate it here.

    Returns:
        The target's name: the same in every process for the same plan, kernels and runtime.

    Raises:
        PlanError: the plan is inconsistent, or does not fit its kernels.
        LinkError: a kernel's object code can't be loaded.
        XlaAbiError: the interface of the installed jaxlib is not understood.
    """
    verify_plan(plan)
    verify_kernels(plan, kernels)
    code = code or runtime_code()
    name = plan_target(plan, kernels, code)
    with _lock:
        if name not in _registered:
            registration = _Registration(name, plan, kernels, code)
            jax.ffi.register_ffi_target(name, registration.capsule, platform="cpu")
            _registered[name] = registration
    return name


def plan_target(plan: ExecPlan, kernels: Mapping[str, Kernel], code: RuntimeCode) -> str:
    """The name under which a plan is registered."""
    return f"tilewright_{kernels_digest(plan, kernels)}_{digest(code.handler)[:8]}"


@dataclass(frozen=True, slots=True)
class RuntimeCode:
    """Object code that all plans share.

    Args:
        handler: defines ``tilewright_handle`` for the interface of one jaxlib.
        entry: defines ``tilewright_entry``, which is linked anew for every plan.
    """

    handler: bytes
    entry: bytes


@functools.cache
def runtime_code() -> RuntimeCode:
    """The code for the installed jaxlib, generated once per process."""
    return RuntimeCode(object_code(handler_ir(_abi()), features=""), object_code(ENTRY_IR, features=""))


@functools.cache
def recording_code() -> RuntimeCode:
    """As `runtime_code`, and it records when each thread was where; see `recorded_moments`."""
    return RuntimeCode(object_code(handler_ir(_abi(), RECORDING), features=""), runtime_code().entry)


def recorded_moments() -> np.ndarray:
    """What `recording_code` has recorded: int64[threads, phases, moments], nanoseconds; 0 where nothing was.

    The array is the recorder's own memory: fill it with 0 before a call, and copy it after it.
    """
    address = load(recording_code().handler).address("tilewright_moments")
    shape = (RECORDED_THREADS, RECORDED_PHASES, len(MOMENTS))
    return np.ctypeslib.as_array((ctypes.c_int64 * math.prod(shape)).from_address(address)).reshape(shape)


@functools.cache
def _abi() -> XlaAbi:
    return read_abi(Path(jax.ffi.include_dir()))


class _Registration:
    """A plan's table, entry point and capsule."""

    def __init__(self, name: str, plan: ExecPlan, kernels: Mapping[str, Kernel], code: RuntimeCode) -> None:
        self._specs = [
            _SpecTable(_abi(), name, "argument", plan.inputs),
            _SpecTable(_abi(), name, "result", plan.outputs),
        ]
        signature = {
            "inputs": len(plan.inputs),
            "input_table": self._specs[0].address,
            "outputs": len(plan.outputs),
            "output_table": self._specs[1].address,
        }
        self._table = PlanTable(plan, kernels, _usable_threads(), signature)
        imports = {
            "tilewright_handle": load(code.handler).address("tilewright_handle"),
            "tilewright_plan": self._table.address,
        }
        address = load(code.entry, imports).address("tilewright_entry")
        self.capsule = jax.ffi.pycapsule(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address))


class _SpecTable:
    """What the arrays of a call must be, in the form `xla_handler` reads."""

    def __init__(self, abi: XlaAbi, target: str, what: str, types: tuple[TensorType, ...]) -> None:
        self._memory: list[np.ndarray | ctypes.Array[ctypes.c_char]] = []
        rows = [self._row(abi, target, f"{what} {number}", tensor) for number, tensor in enumerate(types)]
        self.address = self._integers([value for row in rows for value in row])

    def _row(self, abi: XlaAbi, target: str, what: str, tensor: TensorType) -> tuple[int, ...]:
        expected = f"{tensor.dtype}[{','.join(map(str, tensor.shape))}]"
        text = f"{what} of {target} must be {expected}; the call has another element type or shape there"
        message = ctypes.create_string_buffer(text.encode())
        self._memory.append(message)
        dims = self._integers(list(tensor.shape))
        return xla_dtype(abi, tensor.dtype), len(tensor.shape), dims, ctypes.addressof(message), tensor.nbytes

    def _integers(self, values: list[int]) -> int:
        array = aligned_empty((len(values),), np.dtype(np.int64))
        array[:] = values
        self._memory.append(array)
        return array.ctypes.data


def _check_arguments(inputs: tuple[TensorType, ...], arrays: tuple[Any, ...]) -> None:
    if len(arrays) != len(inputs):
        raise ValueError(f"expected {len(inputs)} arrays, found {len(arrays)}")
    for number, (tensor, array) in enumerate(zip(inputs, arrays, strict=True)):
        shape, dtype = jnp.shape(array), jnp.result_type(array)
        if shape != tuple(tensor.shape) or dtype != dtypes.to_numpy(tensor.dtype):
            expected = f"{tensor.dtype}{list(tensor.shape)}"
            raise ValueError(f"argument {number}: expected {expected}, found {dtype.name}{list(shape)}")


def _usable_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
