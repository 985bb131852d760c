"""Matrix products as unscheduled programs, and schedules of them; helpers that tests share."""

from __future__ import annotations

import numpy as np

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


def operands(sizes: tuple[int, int, int], special: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Small integers, so that no sum rounds; with ``special`` one NaN and one infinity among them."""
    rows, steps, columns = sizes
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (rows, steps)).astype(np.float32)
    w = rng.integers(-3, 4, (steps, columns)).astype(np.float32)
    if special:
        x.flat[rng.integers(x.size)], w.flat[rng.integers(w.size)] = np.nan, np.inf
    return x, w


def sketch_of(func: LoopFunc, target: Target) -> Sketch:
    sketch = contraction(func, target)
    assert sketch is not None
    return sketch


def built(func: LoopFunc, target: Target, **decisions: int | str) -> Trace:
    sketch = sketch_of(func, target)
    return sketch.build({**sketch.default, **decisions})
