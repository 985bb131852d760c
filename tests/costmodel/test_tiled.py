"""Predicted time of workloads that come as loops over tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright.costmodel.tiled import predict_tiled
from tilewright.ir.affine import constant, var
from tilewright.ir.loop import Access, Apply, Block, Buffer, Expr, For, Iter, LoopFunc, Read
from tilewright.ir.target import Target

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 256.0, 40.0)


def squares(rows: int, times: int) -> LoopFunc:
    """Each element multiplied by itself some times, row by row."""
    place = (var("row"), var("i"))
    value: Expr = Read("x", place, "float32")
    for _ in range(times):
        value = Apply("square", (value,), "float32")
    block = Block("b", (Iter("i", constant(0), 64),), Access("y", place), value)
    shape = (rows, 64)
    params = (Buffer("x", shape, "float32"), Buffer("y", shape, "float32"))
    return LoopFunc("squares", params, 1, For("row", (constant(0),), (constant(rows),), block))


def test_what_is_repeated_takes_as_many_times_as_long() -> None:
    one, many = (predict_tiled(squares(rows, 40), TARGET) for rows in (10, 70))
    assert many == pytest.approx(7 * one)
    assert predict_tiled(squares(70, 40), replace(TARGET, threads=1)) == pytest.approx(2 * many)


def test_instructions_or_bytes() -> None:
    moving, busy = squares(100, 1), squares(100, 400)
    assert predict_tiled(moving, TARGET) == pytest.approx(2 * 100 * 64 * 4 / 40e9 / 2)
    cycles = 100 * 64 * 401.5 / 16 / 2
    assert predict_tiled(busy, TARGET) == pytest.approx(cycles / 4e9 / 2)
    assert np.isfinite(predict_tiled(moving, replace(TARGET, vector_bits=256)))
