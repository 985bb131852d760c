"""What kernels fetch into the cache while they compute: which loops, which lines, and of which stage."""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import replace

import numpy as np
import pytest

from tilewright.backends.llvm import link, read_ahead, toolchain
from tilewright.backends.llvm.builder import Builder
from tilewright.backends.llvm.codegen import kernel_ir
from tilewright.backends.llvm.phases import groups_of
from tilewright.backends.llvm.plan_table import read_ahead as stages_ahead
from tilewright.driver.pipeline import host
from tilewright.ir.graph import TensorType
from tilewright.ir.loop import For, LoopFunc, walk
from tilewright.ir.plan import ExecPlan, Repeat, Slot, Stage
from tilewright.ir.text import parse_ir
from tilewright.passes.schedule import Step, replay

_PRODUCT = """tilewright loop ir 1
func product
  input x: float32[64, 32]
  constant w: float32[32, 64]
  output y: float32[64, 64]
  alloc t: float32[64, 64]
    block init [i: 0..64, j: 0..64]
      t[i, j] = 0.0:float32
    block update [i: 0..64, j: 0..64, k: 0..32 reduce]
      t[i, j] sum= mul(x[i, k], w[k, j])
    block store [i: 0..64, j: 0..64]
      y[i, j] = t[i, j]
"""


def _scheduled() -> LoopFunc:
    steps = [
        Step("split", "store", ("i", 8)),
        Step("split", "store", ("j", 16)),
        Step("compute_at", "t", ("store.j",)),
        Step("set_scope", "t", ("register",)),
        *(Step("vectorize", block, ("j",)) for block in ("init", "update", "store")),
        Step("split", "update", ("k", 1)),
        Step("parallel", "store.i"),
    ]
    return replay(parse_ir(_PRODUCT), tuple(steps))


def _lines(extent: int, lo: int, hi: int, begin: int, end: int) -> tuple[int, int]:
    """First and last line of a part, by the generated code."""
    b = Builder()
    b.begin("f", [("ptr", "%bufs"), ("i64", "%lo"), ("i64", "%hi"), ("ptr", "%out")])
    first, last = read_ahead.part(b, 1, extent)
    for number, pointer in enumerate((first, last)):
        b.emit(f"store ptr {pointer}, ptr {b.gep('i64', '%out', number)}")
    b.end()
    out, bufs = np.zeros(2, np.int64), np.array([0, begin, end], np.int64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    library = link.load(toolchain.object_code(b.module(), features=""))
    call(library.address("f"))(bufs.ctypes.data, lo, hi, out.ctypes.data)
    return int(out[0]), int(out[1])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, 4096, 100_000])
@pytest.mark.parametrize(("extent", "chunks"), [(1, 1), (7, 3), (64, 8)])
def test_the_parts_of_a_range_cover_the_memory(size: int, extent: int, chunks: int) -> None:
    begin = 1 << 20
    fetched: set[int] = set()
    for lo, hi in itertools.pairwise(int(n) for n in np.linspace(0, extent, chunks + 1).astype(int)):
        first, last = _lines(extent, lo, hi, begin, begin + size)
        assert begin <= first <= last < begin + max(size, 64)
        assert (first - begin) % read_ahead.LINE_BYTES == 0
        line = first
        while line <= last:
            fetched.update(range(line, line + read_ahead.LINE_BYTES))
            line += read_ahead.LINE_BYTES
    missed = set(range(begin, begin + size)) - fetched
    assert len(missed) < read_ahead.LINE_BYTES * chunks  # at most the odd end of each part


def test_only_innermost_loops_that_compute_read_ahead() -> None:
    scheduled = _scheduled()
    found = {s.name for s in walk(scheduled.body) if isinstance(s, For) and read_ahead.busy(s, 16)}
    assert found == {"update.k"}
    assert read_ahead.any_busy(scheduled.body, 16)
    assert not read_ahead.any_busy(replay(parse_ir(_PRODUCT), ()).body, 16)


def test_one_line_per_iteration_is_fetched() -> None:
    text, _, _ = kernel_ir(_scheduled(), host())
    assert text.count("call void @llvm.prefetch.p0") == 1
    plain, _, _ = kernel_ir(parse_ir(_PRODUCT), host())
    assert "prefetch" not in plain


def test_a_stage_fetches_what_the_next_one_with_large_constants_reads() -> None:
    large = tuple(np.zeros(n, np.float32) for n in (8192, 16, 16384, 32))
    tensor = TensorType((1,), "float32")
    constants = [(0,), (1,), (), (3, 2), (1,)]  # of each stage
    stages = tuple(
        Stage(f"k{n}", (Slot("input", 0), *(Slot("constant", c) for c in own), Slot("output", 0)), 4, 4)
        for n, own in enumerate(constants)
    )
    plan = ExecPlan((tensor,), (tensor,), large, 0, stages)
    assert stages_ahead(plan, groups_of(plan)) == [Slot("constant", 2), None, None, None, None]
    repeated = replace(plan, repeats=(Repeat(1, 2, 3),))
    assert stages_ahead(repeated, groups_of(repeated)) == [Slot("constant", 2), None, None, None, None]
    repeated = replace(plan, repeats=(Repeat(0, 1, 3),))
    assert not any(stages_ahead(repeated, groups_of(repeated)))
