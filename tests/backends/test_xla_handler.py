"""The custom call's handler against a made-up XLA, for what the real one does not do on demand."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import jaxlib
import numpy as np
import pytest
from handwritten import chain, rotate, rotated

from tilewright.backends.llvm.link import load
from tilewright.backends.llvm.plan_table import PlanTable
from tilewright.backends.llvm.runtime import PLAN_FIELDS, POOL_SLOTS
from tilewright.backends.llvm.toolchain import object_code
from tilewright.backends.llvm.xla_abi import XlaAbi, read_abi
from tilewright.backends.llvm.xla_handler import handler_ir

N = 64
ERROR = 0xE0  # stands for a pointer to an error
Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class MadeUpXla:
    """A call frame for one input and one output, with an XLA_FFI_Api whose functions are Python's."""

    def __init__(self, abi: XlaAbi, threads: int, schedule: Callable[[Callable[[], None]], bool]) -> None:
        self.abi = abi
        self.threads = threads
        self.schedule = schedule
        self.messages: list[str] = []
        self.destroyed = 0
        self._memory: list[object] = []
        names = {
            "Error_Create": self._error_create,
            "Error_Destroy": self._error_destroy,
            "ThreadPool_NumThreads": self._num_threads,
            "ThreadPool_Schedule": self._schedule,
        }
        functions = {name: Function(function) for name, function in names.items()}
        self._memory.extend(functions.values())
        self._api = self.record(
            {f"XLA_FFI_Api.XLA_FFI_{name}": ctypes.cast(f, ctypes.c_void_p).value for name, f in functions.items()}
        )

    def record(self, fields: dict[str, int]) -> int:
        """Address of a zeroed struct with some 64-bit fields set."""
        memory = ctypes.create_string_buffer(512)
        for name, value in fields.items():
            struct.pack_into("<q", memory, self.abi.offsets[name], value)
        self._memory.append(memory)
        return ctypes.addressof(memory)

    def array(self, values: list[int]) -> int:
        memory = (ctypes.c_int64 * max(1, len(values)))(*values)
        self._memory.append(memory)
        return ctypes.addressof(memory)

    def frame(self, inputs: list[np.ndarray], outputs: list[np.ndarray], extension: int = 0) -> int:
        kinds = ctypes.create_string_buffer(struct.pack("<4i", 1, 1, 1, 1))
        self._memory.append(kinds)
        fields = {"struct_size": self.abi.sizes["XLA_FFI_CallFrame"], "extension_start": extension, "api": self._api}
        fields["stage"] = self.abi.enumerators["XLA_FFI_ExecutionStage_EXECUTE"]
        for group, arrays in (("args", inputs), ("rets", outputs)):
            fields[f"{group}.size"] = len(arrays)
            fields[f"{group}.types"] = ctypes.addressof(kinds)
            fields[f"{group}.{group}"] = self.array([self._buffer(array) for array in arrays])
        return self.record({f"XLA_FFI_CallFrame.{name}": value for name, value in fields.items()})

    def _buffer(self, array: np.ndarray) -> int:
        fields = {"data": array.ctypes.data, "rank": array.ndim, "dims": self.array(list(array.shape))}
        fields["dtype"] = self.abi.enumerators["XLA_FFI_DataType_F32"]
        return self.record({f"XLA_FFI_Buffer.{name}": value for name, value in fields.items()})

    def _field(self, args: int, name: str) -> int:
        return ctypes.c_int64.from_address(args + self.abi.offsets[name]).value

    def _error_create(self, args: int) -> int:
        self.messages.append(ctypes.string_at(self._field(args, "XLA_FFI_Error_Create_Args.message")).decode())
        return ERROR

    def _error_destroy(self, args: int) -> None:
        assert self._field(args, "XLA_FFI_Error_Destroy_Args.error") == ERROR
        self.destroyed += 1

    def _num_threads(self, args: int) -> int | None:
        if self.threads == 0:
            return ERROR
        to = self._field(args, "XLA_FFI_ThreadPool_NumThreads_Args.num_threads")
        ctypes.c_int64.from_address(to).value = self.threads
        return None

    def _schedule(self, args: int) -> int | None:
        task = Task(self._field(args, "XLA_FFI_ThreadPool_Schedule_Args.task"))
        data = self._field(args, "XLA_FFI_ThreadPool_Schedule_Args.data")
        return None if self.schedule(lambda: task(data)) else ERROR


@pytest.fixture(scope="module")
def abi() -> XlaAbi:
    return read_abi(Path(jaxlib.__file__).parent / "include")


@pytest.fixture(scope="module")
def handle(abi: XlaAbi) -> Callable[[int, int], int | None]:
    address = load(object_code(handler_ir(abi), features="")).address("tilewright_handle")
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)


def _table(xla: MadeUpXla) -> PlanTable:
    """A table of a plan that may use four threads, checking for float32[64]."""
    kernel = rotate(N)
    message = ctypes.create_string_buffer(b"not float32[64]")
    xla._memory.append(message)
    dims = xla.array([N])
    row = xla.array([xla.abi.enumerators["XLA_FFI_DataType_F32"], 1, dims, ctypes.addressof(message)])
    signature = {"inputs": 1, "input_table": row, "outputs": 1, "output_table": row}
    return PlanTable(chain(kernel, 6, 8), {kernel.symbol: kernel}, 4, signature)


def _idle(table: PlanTable, pool: str) -> int:
    """How many items of a pool of the plan are idle."""
    address = ctypes.c_int64.from_address(table.address + 8 * PLAN_FIELDS.index(pool)).value
    return sum(1 for item in (ctypes.c_int64 * POOL_SLOTS).from_address(address) if item)


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).standard_normal(N).astype(np.float32), np.full(N, np.nan, np.float32)


def test_tasks_that_start_after_the_call_returned_do_nothing(abi: XlaAbi, handle: Callable) -> None:
    late: list[Callable[[], None]] = []
    xla = MadeUpXla(abi, 4, lambda task: late.append(task) is None)
    table, (x, y) = _table(xla), _arrays()
    assert handle(xla.frame([x], [y]), table.address) is None
    np.testing.assert_array_equal(y, rotated(x, 6))
    assert len(late) == 3
    assert (_idle(table, "arena_pool"), _idle(table, "block_pool")) == (1, 0)  # the tasks still hold the block
    y[:] = np.nan
    for task in late:
        task()
    assert np.isnan(y).all()
    assert (_idle(table, "arena_pool"), _idle(table, "block_pool")) == (1, 1)


def test_tasks_may_run_in_the_calling_thread(abi: XlaAbi, handle: Callable) -> None:
    def at_once(task: Callable[[], None]) -> bool:
        task()
        return True

    xla = MadeUpXla(abi, 4, at_once)
    table, (x, y) = _table(xla), _arrays()
    for _ in range(3):
        y[:] = np.nan
        assert handle(xla.frame([x], [y]), table.address) is None
        np.testing.assert_array_equal(y, rotated(x, 6))
    assert (_idle(table, "arena_pool"), _idle(table, "block_pool")) == (1, 1)


def test_a_task_that_cannot_be_scheduled_gives_its_reference_back(abi: XlaAbi, handle: Callable) -> None:
    xla = MadeUpXla(abi, 4, lambda task: False)
    table, (x, y) = _table(xla), _arrays()
    assert handle(xla.frame([x], [y]), table.address) is None
    np.testing.assert_array_equal(y, rotated(x, 6))
    assert xla.destroyed == 3
    assert (_idle(table, "arena_pool"), _idle(table, "block_pool")) == (1, 1)


@pytest.mark.parametrize("threads", [0, 1])
def test_without_a_pool_the_caller_works_alone(abi: XlaAbi, handle: Callable, threads: int) -> None:
    scheduled: list[object] = []
    xla = MadeUpXla(abi, threads, lambda task: scheduled.append(task) is None)
    table, (x, y) = _table(xla), _arrays()
    assert handle(xla.frame([x], [y]), table.address) is None
    np.testing.assert_array_equal(y, rotated(x, 6))
    assert not scheduled
    assert xla.destroyed == (threads == 0)
    assert (_idle(table, "arena_pool"), _idle(table, "block_pool")) == (1, 1)


def test_a_wrong_call_is_refused_and_uses_no_memory(abi: XlaAbi, handle: Callable) -> None:
    xla = MadeUpXla(abi, 4, lambda task: True)
    table, (x, y) = _table(xla), _arrays()
    assert handle(xla.frame([x[:-1]], [y]), table.address) == ERROR
    assert handle(xla.frame([x], [y.reshape(8, 8)]), table.address) == ERROR
    assert handle(xla.frame([x], []), table.address) == ERROR
    assert xla.messages[:2] == ["not float32[64]"] * 2
    assert "another number of arguments" in xla.messages[2]
    assert np.isnan(y).all()
    assert (_idle(table, "arena_pool"), _idle(table, "block_pool")) == (0, 0)


def test_the_metadata_question_is_answered(abi: XlaAbi, handle: Callable) -> None:
    xla = MadeUpXla(abi, 4, lambda task: True)
    metadata = xla.record({"XLA_FFI_Metadata.api_version.major_version": -1, "XLA_FFI_Metadata.traits": -1})
    question = {
        "XLA_FFI_Metadata_Extension.extension_base.type": abi.enumerators["XLA_FFI_Extension_Metadata"],
        "XLA_FFI_Metadata_Extension.metadata": metadata,
    }
    table, (x, y) = _table(xla), _arrays()
    assert handle(xla.frame([x], [y], extension=xla.record(question)), table.address) is None
    version = ctypes.c_int32.from_address(metadata + abi.offsets["XLA_FFI_Metadata.api_version.major_version"])
    minor = ctypes.c_int32.from_address(metadata + abi.offsets["XLA_FFI_Metadata.api_version.minor_version"])
    traits = ctypes.c_int32.from_address(metadata + abi.offsets["XLA_FFI_Metadata.traits"])
    assert (version.value, minor.value, traits.value) == (abi.major, abi.minor, 0)
    assert np.isnan(y).all()
