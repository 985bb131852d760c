"""The LLVM IR builder: its text parses, and what it computes is right."""

from __future__ import annotations

import ctypes
import operator
import struct

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest

from tilewright.backends.llvm import link, toolchain
from tilewright.backends.llvm.builder import Builder, VType, vtype
from tilewright.ir.dtypes import FLOATS, INTEGERS, to_numpy

ALL = (*FLOATS, *INTEGERS, "bool")


def run(b: Builder, *arrays: np.ndarray) -> None:
    """Compile the module and call its function ``f`` on the arrays' addresses."""
    code = toolchain.object_code(b.module(), features=toolchain.host_features())
    address = link.load(code).address("f")
    kinds = [ctypes.c_void_p] * len(arrays)
    ctypes.CFUNCTYPE(None, *kinds)(address)(*[a.ctypes.data for a in arrays])


def begin(count: int) -> tuple[Builder, list[str]]:
    """A builder inside a function ``f`` of ``count`` pointers."""
    names = [f"%p{i}" for i in range(count)]
    b = Builder()
    b.begin("f", [("ptr", name) for name in names])
    return b, names


def parse(b: Builder) -> str:
    """What LLVM makes of the module."""
    module = llvm.parse_assembly(b.module(), llvm.create_context())
    module.verify()
    return str(module)


@pytest.mark.parametrize(
    ("dtype", "lanes", "text", "memory", "suffix"),
    [
        ("float32", 0, "float", "float", "f32"),
        ("float32", 16, "<16 x float>", "<16 x float>", "v16f32"),
        ("bfloat16", 8, "<8 x i16>", "<8 x i16>", "v8i16"),
        ("float16", 0, "half", "half", "f16"),
        ("float64", 4, "<4 x double>", "<4 x double>", "v4f64"),
        ("uint8", 64, "<64 x i8>", "<64 x i8>", "v64i8"),
        ("bool", 16, "<16 x i1>", "<16 x i8>", "v16i1"),
    ],
)
def test_type_texts(dtype: str, lanes: int, text: str, memory: str, suffix: str) -> None:
    t = vtype(dtype, lanes)
    assert (t.text, t.memory, t.suffix) == (text, memory, suffix)
    assert t == VType(dtype, lanes)
    assert t.scalar == vtype(dtype)


@pytest.mark.parametrize(("dtype", "lanes"), [("complex64", 0), ("float33", 4), ("float32", -1)])
def test_bad_types_are_refused(dtype: str, lanes: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        VType(dtype, lanes)


@pytest.mark.parametrize("lanes", [0, 4])
@pytest.mark.parametrize("dtype", ALL)
def test_constants_are_exact(dtype: str, lanes: int) -> None:
    values: list[float | int] = [0, 1]
    if dtype in FLOATS:
        values += [-0.0, 0.1, -1e30, 1e-41, 65519.0, 65520.0, 3.4e38, 1e300, float("inf"), -float("inf"), float("nan")]
    elif dtype != "bool":
        values += [-1, 127, 128, 255, 2**31, 2**63 - 1, 2**64 - 1, -(2**63)]
    kind, t = to_numpy(dtype), vtype(dtype, lanes)
    width = max(lanes, 1)
    out = np.zeros((len(values), width), kind)
    b, (p,) = begin(1)
    for i, value in enumerate(values):
        b.store(t, b.const(value, t), b.gep(t.scalar.memory, p, i * width), 1)
    b.end()
    run(b, out)
    with np.errstate(all="ignore"):
        if dtype in FLOATS:
            expected = np.array(values, np.float64).astype(np.float32 if dtype == "bfloat16" else kind).astype(kind)
        else:
            modulus = 2 if dtype == "bool" else 2 ** (8 * kind.itemsize)
            expected = np.array([int(v) % modulus for v in values], np.uint64).astype(kind)
    bits = f"u{kind.itemsize}"
    np.testing.assert_array_equal(out.view(bits), np.repeat(expected, width).view(bits).reshape(out.shape))


def test_lane_constants() -> None:
    out = np.zeros(4, np.int32)
    b, (p,) = begin(1)
    b.store(vtype("int32", 4), b.lanes([1, -2, 3, 2**32 + 5], vtype("int32", 4)), p, 4)
    b.end()
    run(b, out)
    assert out.tolist() == [1, -2, 3, 5]


@pytest.mark.parametrize("used", [None, 0b1, 0b111, 0b11111111, 0b10100100, 0])
@pytest.mark.parametrize("dtype", ALL)
def test_masked_memory_touches_only_its_lanes(dtype: str, used: int | None) -> None:
    kind, t = to_numpy(dtype), vtype(dtype, 8)
    source, out, loaded = np.ones(8, kind), np.zeros(8, kind), np.full(8, 1, kind)
    b, (p, q, r) = begin(3)
    expected = [1 if used is None else used >> lane & 1 for lane in range(8)]
    mask = None if used is None else b.lanes(expected, vtype("bool", 8))
    value = b.load(t, p, 1, mask)
    b.store(t, value, r, 1)
    b.store(t, b.load(t, p, 1), q, 1, mask)
    b.end()
    run(b, source, out, loaded)
    assert out.astype(np.float32).tolist() == expected
    assert loaded.astype(np.float32).tolist() == expected


def test_masked_access_may_end_at_the_last_page() -> None:
    """What the mask excludes must not be read: the page behind it is not mapped."""
    import mmap

    region = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(region))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(base + mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    last = np.frombuffer(region, np.float32, 3, mmap.PAGESIZE - 12)
    last[:] = [1, 2, 3]
    out = np.zeros(16, np.float32)
    b, (p, q) = begin(2)
    t, mask = vtype("float32", 16), b.lanes([True] * 3 + [False] * 13, vtype("bool", 16))
    b.store(t, b.load(t, p, 4, mask, b.const(-1.0, t)), q, 4)
    b.store(t, b.const(7.0, t), p, 4, mask)
    b.end()
    run(b, last, out)
    assert out.tolist() == [1, 2, 3] + [-1] * 13
    assert last.tolist() == [7, 7, 7]


def test_booleans_are_bytes_in_memory() -> None:
    source, out = np.array([0, 1, 2, 255], np.uint8), np.full(4, 9, np.uint8)
    b, (p, q) = begin(2)
    t = vtype("bool", 4)
    b.store(t, b.op("xor", t, b.load(t, p, 1), b.const(True, t)), q, 1)
    b.end()
    run(b, source, out)
    assert out.tolist() == [1, 0, 0, 0]


def test_loop_with_phi_and_splat() -> None:
    data, out = np.arange(37, dtype=np.float32), np.zeros(4, np.float32)
    index, scalar, vector = vtype("int64"), vtype("float32"), vtype("float32", 4)
    b, (p, q) = begin(2)
    loop, done = b.fresh_label("loop"), b.fresh_label("done")
    entry = b.block
    b.br(loop)
    b.label(loop)
    i = b.phi("i64", "0", entry)
    total = b.phi("float", b.const(0.0, scalar), entry)
    added = b.op("fadd", scalar, total, b.load(scalar, b.gep("float", p, i), 4))
    following = b.op("add", index, i, "1", "nuw nsw")
    b.add_incoming(i, following, b.block)
    b.add_incoming(total, added, b.block)
    b.cond_br(b.compare("lt", index, following, "37"), loop, done, weights=(36, 1))
    b.label(done)
    b.store(vector, b.splat(added, vector), q, 4)
    b.end()
    run(b, data, out)
    assert out.tolist() == [data.sum()] * 4


@pytest.mark.parametrize(
    ("dtype", "name", "expected"),
    [("float32", "fadd", 10), ("float32", "fmul", 24), ("float32", "fmaximum", 4), ("int32", "add", 10)],
)
def test_reductions(dtype: str, name: str, expected: float) -> None:
    t = vtype(dtype, 4)
    source, out = np.array([1, 2, 3, 4], to_numpy(dtype)), np.zeros(1, to_numpy(dtype))
    b, (p, q) = begin(2)
    b.store(t.scalar, b.reduce(name, t, b.load(t, p, 4)), q, 4)
    b.end()
    run(b, source, out)
    assert out[0] == expected


def test_lanes_move() -> None:
    t = vtype("int32", 4)
    source, out = np.array([1, 2, 3, 4], np.int32), np.zeros(4, np.int32)
    b, (p, q) = begin(2)
    x = b.load(t, p, 4)
    swapped = b.shuffle(t, x, b.const(9, t), [3, 4, 1, 0])
    b.store(t, b.insert(t, swapped, b.extract(t, x, 2), 0), q, 4)
    b.end()
    run(b, source, out)
    assert out.tolist() == [3, 9, 2, 1]


@pytest.mark.parametrize("predicate", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "bool"])
def test_comparisons_follow_the_type(dtype: str, predicate: str) -> None:
    row = np.array([0, 1, 127, 128], np.uint8).astype(to_numpy(dtype))
    if dtype == "float32":
        row[:] = [0.0, -0.0, 1.0, np.nan]
    left, right = np.repeat(row, 4), np.tile(row, 4)
    out = np.zeros(16, np.bool_)
    b, (p, q, r) = begin(3)
    t = vtype(dtype, 16)
    b.store(vtype("bool", 16), b.compare(predicate, t, b.load(t, p, 1), b.load(t, q, 1)), r, 1)
    b.end()
    run(b, left, right, out)
    np.testing.assert_array_equal(out, getattr(operator, predicate)(left, right))


def test_declarations_and_metadata_are_collected_once() -> None:
    t = vtype("float32", 16)
    b, (p, q) = begin(2)
    scope = b.metadata("!{!0}")
    for _ in range(2):
        x = b.load(t, p, 64, metadata=f"!alias.scope {scope}")
        b.store(t, b.intrinsic("fma", t, x, x, x), q, 64, nontemporal=True)
    b.store(vtype("int32"), b.intrinsic("ctlz", vtype("int32"), "5"), q, 4)
    b.alloca("[4 x <16 x float>]", 64)
    b.end()
    text = b.module()
    assert text.count("declare") == 2
    assert text.index("alloca") < text.index("load")
    assert "!nontemporal" in text


def test_two_functions_in_a_module() -> None:
    b = Builder()
    b.begin("g", [("ptr", "%p")], attributes="alwaysinline", linkage="internal")
    b.store(vtype("int32"), b.const(5, vtype("int32")), "%p", 4)
    b.end()
    b.begin("f", [("ptr", "%p")])
    b.emit("call void @g(ptr %p)")
    b.end()
    out = np.zeros(1, np.int32)
    run(b, out)
    assert out[0] == 5


def test_open_functions_are_refused() -> None:
    b, _ = begin(1)
    with pytest.raises(RuntimeError, match="open"):
        b.module()
    with pytest.raises(RuntimeError, match="end"):
        b.begin("g", [])


@pytest.mark.parametrize("value", [0.1, 3.0e38, -1e-40, 1.00390625, 1.01171875, float("nan")])
def test_bfloat16_constants_round_to_even(value: float) -> None:
    b = Builder()
    number = struct.unpack("<f", struct.pack("<f", value))[0]
    expected = np.array(number, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    assert b.const(value, vtype("bfloat16")) == str(int(expected))


def test_every_cast_parses() -> None:
    wide, narrow, whole = vtype("float64", 4), vtype("float32", 4), vtype("int32", 4)
    b, (p,) = begin(1)
    x = b.load(narrow, p, 4)
    b.cast("fpext", x, narrow, wide)
    b.cast("fptosi.sat", x, narrow, whole)
    b.cast("bitcast", x, narrow, whole)
    b.cast("zext", b.compare("lt", narrow, x, b.fneg(narrow, x)), vtype("bool", 4), whole)
    b.end()
    assert "llvm.fptosi.sat.v4i32.v4f32" in parse(b)
