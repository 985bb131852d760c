"""Matrix products as unscheduled programs, and schedules of them; helpers that tests share."""

from __future__ import annotations

from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import Target
from tilewright.ir.text import parse_ir
from tilewright.passes.schedule import Trace
from tilewright.search.contraction import contraction
from tilewright.search.sketch import Sketch


def product(rows: int, steps: int, columns: int, scope: str = "constant") -> LoopFunc:
    return parse_ir(f"""tilewright loop ir 1
func product
  input x: float32[{rows}, {steps}]
  {scope} w: float32[{steps}, {columns}]
  output y: float32[{rows}, {columns}]
  alloc t: float32[{rows}, {columns}]
    block init [i: 0..{rows}, j: 0..{columns}]
      t[i, j] = 0.0:float32
    block update [i: 0..{rows}, j: 0..{columns}, k: 0..{steps} reduce]
      t[i, j] sum= mul(x[i, k], w[k, j])
    block store [i: 0..{rows}, j: 0..{columns}]
      y[i, j] = t[i, j]
""")


def sketch_of(func: LoopFunc, target: Target) -> Sketch:
    sketch = contraction(func, target)
    assert sketch is not None
    return sketch


def built(func: LoopFunc, target: Target, **decisions: int | str) -> Trace:
    sketch = sketch_of(func, target)
    return sketch.build({**sketch.default, **decisions})
