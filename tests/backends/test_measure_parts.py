"""The parts of the measuring backend that need no worker: frames, guarded memory, comparison, explanations."""

from __future__ import annotations

import ctypes
import json
import os
import signal

import ml_dtypes
import numpy as np
import pytest

from tilewright.backends.measure import faults, protocol
from tilewright.backends.measure.checking import compare, uneven_ranges
from tilewright.backends.measure.memory import GuardedBuffer
from tilewright.backends.measure.native_ir import helper_ir
from tilewright.ir.measure import TimingProtocol


def test_frames_round_trip() -> None:
    reader, writer = os.pipe()
    os.write(writer, protocol.encode({"op": "x", "n": [1, 2]}, 3) + b"abc")
    os.close(writer)
    with open(reader, "rb") as stream:
        frame = protocol.read_frame(stream)
        assert frame == ({"op": "x", "n": [1, 2]}, 3)
        protocol.skip(stream, 3)
        assert protocol.read_frame(stream) is None


@pytest.mark.parametrize("bad", [b"x" * 16, b"TWMF" + b"\xff" * 12, b"TWMF", protocol.encode({"a": 1})[:-2]])
def test_broken_frames_are_refused(bad: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, bad)
    os.close(writer)
    with open(reader, "rb") as stream, pytest.raises(protocol.ProtocolError):
        protocol.read_frame(stream)


@pytest.mark.parametrize("text", [b"[1]", b"nothing", b"\xff\xfe", json.dumps(3).encode()])
def test_headers_are_json_objects(text: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.decode_header(text)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097])
@pytest.mark.parametrize("layout", ["tail", "head"])
@pytest.mark.parametrize("alignment", [16, 64])
def test_guarded_buffers_touch_their_guard(size: int, layout: str, alignment: int) -> None:
    buffer = GuardedBuffer("b", size, layout, alignment)  # type: ignore[arg-type]
    assert buffer.address % alignment == 0
    assert len(buffer.bytes) == size
    edge = buffer.address if layout == "head" else -(-(buffer.address + size) // alignment) * alignment
    assert edge % 4096 == 0
    buffer.bytes[:] = 1
    assert buffer.slack_intact()
    if size % 4096:
        end = buffer.address + size
        ctypes.c_uint8.from_address(end if end % 4096 else buffer.address - 1).value = 0
        assert not buffer.slack_intact()
    buffer.close()
    buffer.close()


def test_uneven_ranges_cover_everything_once() -> None:
    for extent in (0, 1, 2, 3, 4, 100, 1 << 40):
        ranges = uneven_ranges(extent)
        assert [lo for lo, _ in ranges] == [0, *[hi for _, hi in ranges]][: len(ranges)]
        assert not ranges or ranges[-1][1] == extent
        assert all(lo < hi for lo, hi in ranges)
    assert uneven_ranges(0) == []


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("found", "expected", "status"),
    [
        ([1.0, NAN], [1.0, NAN], "ok"),
        ([1.0, NAN], [1.0, 2.0], "non_finite"),
        ([1.0, INF], [1.0, 2.0], "non_finite"),
        ([1.0, 2.0], [1.0, NAN], "wrong_result"),
        ([1.0, INF], [1.0, INF], "ok"),
        ([1.0, -INF], [1.0, INF], "wrong_result"),
        ([1.0, NAN], [1.0, INF], "wrong_result"),
        ([1.5, NAN], [1.0, NAN], "wrong_result"),
        ([1.05, -INF], [1.0, -INF], "ok"),
        ([], [], "ok"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_compare_floats(found: list[float], expected: list[float], status: str, dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    assert compare(np.array(found, kind), np.array(expected, kind), 0.1)[0] == status


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "bool"])
def test_compare_integers_exactly(dtype: str) -> None:
    one, other = np.array([[1, 0]], dtype), np.array([[1, 1]], dtype)
    assert compare(one, one.copy(), 0.0)[0] == "ok"
    status, error, largest = compare(one, other, 5.0)
    assert (status, largest) == ("wrong_result", 1.0)
    assert "at [0, 1]" in error


def test_booleans_must_be_zero_or_one() -> None:
    found = np.array([0xFF, 0], np.uint8).view(bool)
    assert compare(found, np.array([True, False]), 0.0)[0] == "wrong_result"


@pytest.mark.parametrize(
    ("code", "note", "status", "words"),
    [
        (-9, None, "crash", "killed from outside"),
        (-11, None, "crash", "stack overflow"),
        (-6, None, "crash", "SIGABRT"),
        (3, None, "crash", "exit code 3"),
        (-8, faults.CrashNote(signal.SIGFPE, 0x40), "crash", "SIGFPE"),
        (-11, faults.CrashNote(signal.SIGSEGV, 1000_000), "modified_input", "input 0 at byte 0"),
        (-11, faults.CrashNote(signal.SIGSEGV, 1000_100), "crash", "0 bytes past the end of input 0"),
        (-11, faults.CrashNote(signal.SIGSEGV, 1), "crash", "null pointer"),
        (-11, faults.CrashNote(signal.SIGSEGV, 1 << 50), "crash", "no argument"),
        (-99, None, "crash", "signal 99"),
    ],
)
def test_explanations(code: int, note: faults.CrashNote | None, status: str, words: str) -> None:
    fault = faults.explain(code, note, [("input 0", 1000_000, 100, True)], "")
    assert fault.status == status
    assert words in fault.error


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_helper_exists_for_both_processors(machine: str) -> None:
    assert "define void @participate" in helper_ir(machine)


def test_helper_refuses_other_processors() -> None:
    with pytest.raises(NotImplementedError, match="riscv64"):
        helper_ir("riscv64")


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"quick_repeats": 9, "repeats": 3}, {"cache": "cold"}, {"close_ratio": 0.5}, {"budget_s": 0.0}],
)
def test_timing_protocol_refuses_nonsense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TimingProtocol(**options)  # type: ignore[arg-type]
