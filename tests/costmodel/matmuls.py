"""A small product and a family of its schedules, shared by the tests of this folder."""

from __future__ import annotations

from tilewright.passes.schedule import Step, Trace

MATMUL = """tilewright loop ir 1
func matmul
  input x0: float32[100, 40]
  constant w0: float32[40, 70]
  output y0: float32[100, 70]
  alloc t0: float32[100, 70]
    block dot.init [i: 0..100, j: 0..70]
      t0[i, j] = 0.0:float32
    block dot [i: 0..100, j: 0..70, k: 0..40 reduce]
      t0[i, j] sum= mul(x0[i, k], w0[k, j])
    block out [i: 0..100, j: 0..70]
      y0[i, j] = max(t0[i, j], 0.0:float32)
"""


def tiled(rows: int, width: int, unroll: int) -> Trace:
    return (
        Step("pack", "w0", (1, width)),
        Step("split", "out", ("j", width)),
        Step("split", "out", ("i", rows)),
        Step("compute_at", "t0", ("out.i",)),
        Step("set_scope", "t0", ("register",)),
        *(Step("vectorize", b, ("j",)) for b in ("dot.init", "dot", "out")),
        Step("split", "dot", ("k", unroll)),
        Step("parallel", "out.j"),
    )
