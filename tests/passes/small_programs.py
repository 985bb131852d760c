"""Small programs and a trace for every primitive; helpers that tests share."""

from __future__ import annotations

import numpy as np

from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc
from tilewright.ir.text import parse_ir, print_ir
from tilewright.passes.packing import unpacked_shape
from tilewright.passes.schedule import Step, Trace


def program(text: str) -> LoopFunc:
    lines = [line for line in text.strip("\n").splitlines()]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return parse_ir("tilewright loop ir 1\nfunc f\n" + "\n".join("  " + line[indent:] for line in lines) + "\n")


def steps(*rows: tuple) -> Trace:
    return tuple(Step(name, target, tuple(args)) for name, target, *args in rows)


def outputs(func: LoopFunc) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    arrays = {}
    for buffer in func.inputs:
        shape = unpacked_shape(buffer)
        arrays[buffer.name] = rng.integers(-4, 5, shape).astype(buffer.dtype)
    return interpret(func, arrays)


MATMUL = program("""
    input x: float32[6, 5]
    constant w: float32[5, 10]
    output y: float32[6, 10]
    alloc t: float32[6, 10]
      block init [i: 0..6, j: 0..10]
        t[i, j] = 0.0:float32
      block update [i: 0..6, j: 0..10, k: 0..5 reduce]
        t[i, j] sum= mul(x[i, k], w[k, j])
      block out [i: 0..6, j: 0..10]
        y[i, j] = max(t[i, j], 0.0:float32)
""")

PADDED = program("""
    input x: float32[9]
    output y: float32[9]
    alloc t: float32[9]
      block init [i: 0..9]
        t[i] = 0.0:float32
      block update [i: 0..9, r: 0..3 reduce]
        t[i] sum= x[i + r - 1]{i + r - 1 >= 0, -i - r + 9 >= 0 else 0.0}
      block out [i: 0..9]
        y[i] = t[i]
""")

CHAIN = program("""
    input x: float32[8]
    output y: float32[6]
    alloc t: float32[8]
      block first [i: 0..8]
        t[i] = mul(x[i], 2.0:float32)
      block out [i: 0..6]
        y[i] = add(t[i], t[i + 2])
""")

HALO = program("""
    input x: float32[9]
    output y: float32[9]
    alloc t: float32[9]
      block first [i: 0..9]
        t[i] = add(x[i], 1.0:float32)
      block init [i: 0..9]
        y[i] = 0.0:float32
      block out [i: 0..9, r: 0..3 reduce]
        y[i] sum= t[i + r - 1]{i + r - 1 >= 0, -i - r + 9 >= 0 else 0.0}
""")

GRAM = program("""
    input x: float32[6, 5]
    output y: float32[6, 6]
    block init [i: 0..6, j: 0..6]
      y[i, j] = 0.0:float32
    block update [i: 0..6, j: 0..6, k: 0..5 reduce]
      y[i, j] sum= mul(x[i, k], x[j, k])
""")

ROW = (("split", "out", "i", 4), ("split", "out", "j", 4))
SOFTMAX = program("""
    input x: float32[4, 6]
    input v: float32[6, 3]
    output y: float32[4, 3]
    alloc m: float32[4]
      alloc p: float32[4, 6]
        alloc l: float32[4]
          alloc o: float32[4, 3]
            alloc s: float32[4, 6]
              block scale [i: 0..4, j: 0..6]
                s[i, j] = mul(x[i, j], 0.5:float32)
              block m.init [i: 0..4]
                m[i] = -inf:float32
              block max [i: 0..4, j: 0..6 reduce]
                m[i] max= s[i, j]
              block exp [i: 0..4, j: 0..6]
                p[i, j] = exp(sub(s[i, j], m[i]))
              block l.init [i: 0..4]
                l[i] = 0.0:float32
              block sum [i: 0..4, j: 0..6 reduce]
                l[i] sum= p[i, j]
              block o.init [i: 0..4, e: 0..3]
                o[i, e] = 0.0:float32
              block dot [i: 0..4, e: 0..3, j: 0..6 reduce]
                o[i, e] sum= mul(div(p[i, j], l[i]), v[j, e])
              block out [i: 0..4, e: 0..3]
                y[i, e] = o[i, e]
""")

_BELOW_DIAGONAL = "select_n(ge(index(i):int32, index(j):int32), -9.0:float32, s[i, j])"
MASKED = parse_ir(
    print_ir(SOFTMAX)
    .replace("max= s[i, j]", f"max= {_BELOW_DIAGONAL}")
    .replace("sub(s[i, j], m", f"sub({_BELOW_DIAGONAL}, m")
)

ROUNDED = frozenset(("stream", "stream_masked"))
"""What is equal up to rounding only."""

GOLDEN = {
    "stream": (SOFTMAX, steps(("stream", "max", "j", 4))),
    "stream_masked": (
        MASKED,
        steps(
            ("split", "out", "i", 2),
            *(("compute_at", b, "out.i") for b in ("o", "l", "p", "m", "s")),
            ("stream", "max", "j", 2),
        ),
    ),
    "split": (MATMUL, steps(("split", "out", "j", 4))),
    "reorder": (MATMUL, steps(("reorder", "update", "k", "j", "i"))),
    "fuse_box": (MATMUL, steps(("split", "out", "i", 4), ("fuse_box", "out", "i", "j"), ("vectorize", "out", "i_j"))),
    "flatten": (
        MATMUL,
        steps(*(("fuse_box", b, "i", "j") for b in ("init", "update", "out")), ("flatten", "t", 0)),
    ),
    "vectorize": (MATMUL, steps(("vectorize", "out", "i"), ("vectorize", "out", "j"))),
    "unroll": (MATMUL, steps(("split", "update", "k", 1), ("unroll", "update.k"))),
    "parallel": (CHAIN, steps(("compute_inline", "t"), ("split", "out", "i", 2), ("parallel", "out.i"))),
    "grid": (MATMUL, steps(*ROW, ("grid", "out.i"), ("grid", "out.j"))),
    "fuse": (MATMUL, steps(*ROW, ("fuse", "out.i", "out.j"))),
    "interchange": (MATMUL, steps(*ROW, ("interchange", "out.i", "out.j"))),
    "partition": (PADDED, steps(("split", "update", "i", 2), ("partition", "update.i"))),
    "compute_at": (MATMUL, steps(*ROW, ("compute_at", "t", "out.j"))),
    "compute_inline": (CHAIN, steps(("compute_inline", "t"))),
    "prefetch": (
        SOFTMAX,
        steps(("split", "scale", "i", 1), ("prefetch", "scale", "x", "scale.i", 2)),
    ),
    "in_place": (SOFTMAX, steps(("in_place", "p", "s"))),
    "nontemporal": (MATMUL, steps(("nontemporal", "y"))),
    "set_scope": (MATMUL, steps(("set_scope", "t", "register"))),
    "pack": (MATMUL, steps(("pack", "w", 1, 4), ("pack", "t", 0, 4))),
    "cache_read": (CHAIN, steps(("split", "out", "i", 4), ("cache_read", "t", "out.i"))),
    "cache_read_one_of_two": (GRAM, steps(("split", "update", "j", 4), ("cache_read", "x", "update.j", 1))),
    "cache_write": (MATMUL, steps(("cache_write", "t"))),
    "rfactor": (MATMUL, steps(("rfactor", "update", "k", 2))),
    "accumulate": (
        MATMUL,
        steps(
            ("split", "update", "k", 2),
            ("split", "update", "k", 1),
            ("accumulate", "update", "update.k"),
            ("set_scope", "t.a", "register"),
        ),
    ),
    "compute_at_padded": (HALO, steps(("split", "out", "i", 4), ("compute_at", "t", "out.i"))),
    "compute_at_halo": (CHAIN, steps(("split", "out", "i", 4), ("compute_at", "t", "out.i"))),
}
