"""The default decisions of products: what the outermost loop goes over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilewright.ir.target import detect_target
from tilewright.ir.text import parse_ir
from tilewright.search.contraction import contraction

TARGET = replace(
    detect_target(), threads=2, vector_bits=512, features="+avx2,+fma,+avx512f", l1_bytes=48 << 10, l2_bytes=1 << 20
)


def default_order(rows: int, steps: int, columns: int) -> int | str:
    func = parse_ir(f"""tilewright loop ir 1
func product
  input x: float32[{rows}, {steps}]
  constant w: float32[{steps}, {columns}]
  output y: float32[{rows}, {columns}]
  alloc t: float32[{rows}, {columns}]
    block init [i: 0..{rows}, j: 0..{columns}]
      t[i, j] = 0.0:float32
    block update [i: 0..{rows}, j: 0..{columns}, k: 0..{steps} reduce]
      t[i, j] sum= mul(x[i, k], w[k, j])
    block store [i: 0..{rows}, j: 0..{columns}]
      y[i, j] = t[i, j]
""")
    sketch = contraction(func, TARGET)
    assert sketch is not None
    return sketch.default["order"]


@pytest.mark.parametrize(
    ("rows", "steps", "columns", "order"),
    [
        (12_544, 16, 96, "rows"),  # panels outermost would write each row of a large result in pieces
        (3_136, 64, 256, "rows"),
        (196, 256, 1_024, "panels"),  # panels are larger than the second-level cache, the result is not
        (49, 960, 320, "panels"),
    ],
)
def test_large_results_are_written_row_by_row_and_large_panels_read_once(rows, steps, columns, order):
    assert default_order(rows, steps, columns) == order
