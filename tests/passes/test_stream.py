"""Streaming: equal to the whole in every form and tile, refusals, and what is skipped because it is masked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_programs import MASKED, MATMUL, SOFTMAX, program, steps
from workloads import Case, run, sample, verify_schedule

from tilewright.ir.loop import Alloc, If, LoopFunc, walk
from tilewright.ir.text import parse_ir, print_ir
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, replay
from tilewright.passes.stream_parts import maxima


def attention(value: float, shift: int):
    def fn(q, k, v):
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, (q.shape[0], k.shape[0]), axis) for axis in (0, 1))
        kept = (rows >= columns + shift) & (rows - columns <= 6)
        return jax.nn.softmax(jnp.where(kept, q @ k.T * 0.3, value)) @ v

    return fn


@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special"])
@pytest.mark.parametrize("value", [-np.inf, float(np.finfo(np.float32).min), -1e30, -3.0, 2.0])
def test_every_tile_gives_what_jax_gives(value, special):
    # Rows that are masked as a whole are NaN with minus infinity, and averages with any other value.
    for shift, extent in ((0, 37), (3, 32)):  # smaller masks become constants
        case = Case("masked", attention(value, shift), ((33, 3), (extent, 3), (extent, 4)), exact=False)
        tried = sample(case, special)
        rows = [s.buffer.name for s in walk(tried.func.body) if isinstance(s, Alloc)][::-1]
        ((key, it),) = maxima(tried.func)
        for width, tile in ((33, 3), (8, 8), (5, 6), (4, extent)):
            tiled = [("split", "store.y0", "i0", width), *(("compute_at", b, "store.y0.i0") for b in rows)]
            scheduled = replay(tried.func, steps(*tiled, ("stream", key.name, it.name, tile)))
            verify(scheduled)
            assert any(isinstance(s, If) for s in walk(scheduled.body))
            with np.errstate(all="ignore"):
                tried.check(run(tried, scheduled), f"{value} {shift} {width} {tile}")


@pytest.mark.parametrize("test", ["sub(sub(index(i):int32, 2147483647:int32):int32, 9:int32):int32", "index(i):int32"])
def test_masks_of_places_that_may_wrap_around_skip_nothing(test):
    trace = steps(*(("compute_at", b, "out.i") for b in ("o", "l", "p", "m", "s")), ("stream", "max", "j", 2))
    func = parse_ir(print_ir(MASKED).replace("index(i):int32", test))
    scheduled = replay(func, (*steps(("split", "out", "i", 2)), *trace))
    assert any(isinstance(s, If) for s in walk(scheduled.body)) is (test == "index(i):int32")


def tiled(case: Case, rows: int, columns: int) -> None:
    """Check one tiling of a case that has tiles to skip."""
    tried = sample(case, False)
    buffers = [s.buffer.name for s in walk(tried.func.body) if isinstance(s, Alloc)][::-1]
    ((key, it),) = maxima(tried.func)
    cut = [("split", "store.y0", "i0", rows), *(("compute_at", b, "store.y0.i0") for b in buffers)]
    scheduled = replay(tried.func, steps(*cut, ("stream", key.name, it.name, columns)))
    assert any(isinstance(s, If) for s in walk(scheduled.body))
    with np.errstate(all="ignore"):
        tried.check(run(tried, scheduled), case.name)


KEPT = {
    "row > column": lambda r, c: r > c,
    "row >= column": lambda r, c: r >= c,
    "column < row": lambda r, c: c < r,
    "column <= row": lambda r, c: c <= r,
    "not column > row": lambda r, c: ~(c > r),
    "not column >= row": lambda r, c: ~(c >= r),
    "not row < column": lambda r, c: ~(r < c),
    "not row <= column": lambda r, c: ~(r <= c),
}


@pytest.mark.parametrize("mask", KEPT)
def test_masks_by_every_comparison(mask):
    # Some tiles keep a single element; the last rows keep all, which a value above all scores must not reach.
    def fn(q, k, v):
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, (q.shape[0], k.shape[0]), axis) for axis in (0, 1))
        return jax.nn.softmax(jnp.where(KEPT[mask](rows, columns), q @ k.T, 1e4)) @ v

    tiled(Case(mask, fn, ((60, 3), (21, 3), (21, 4)), exact=False), 4, 3)


def changed(func: LoopFunc, old: str, new: str) -> LoopFunc:
    text = print_ir(func)
    assert old in text
    return parse_ir(text.replace(old, new))


EXP = "exp(sub(s[i, j], m[i]))"
REFUSED = {
    "no maximum": (MATMUL, ("update", "k", 2), "expected a float32 maximum over k"),
    "data": (SOFTMAX, ("max", "i", 2), "expected a float32 maximum over i"),
    "long tile": (SOFTMAX, ("max", "j", 7), "expected a tile of 1..6 for max.j, found 7"),
    "no tile": (SOFTMAX, ("max", "j", 0), "expected a tile of 1..6 for max.j, found 0"),
    "square": (changed(SOFTMAX, EXP, "square(" + EXP + ")"), ("max", "j", 2), "found square of what is reduced"),
    "two factors": (changed(SOFTMAX, EXP, f"mul({EXP}, {EXP})"), ("max", "j", 2), "expected at most one factor"),
    "plus one": (changed(SOFTMAX, EXP, f"add({EXP}, 1.0:float32)"), ("max", "j", 2), "with the same factor"),
    "zero where masked": (
        changed(SOFTMAX, EXP, f"select_n(ge(index(i):int32, index(j):int32), 0.0:float32, {EXP})"),
        ("max", "j", 2),
        "parts of select_n with the same factor",
    ),
    "other exponent": (changed(SOFTMAX, "m[i]))", "mul(m[i], 2.0:float32)))"), ("max", "j", 2), "x - max"),
    "other scores": (changed(SOFTMAX, "sub(s[", "sub(x["), ("max", "j", 2), "either before or after"),
    "maximum of weights": (changed(SOFTMAX, "l[i] sum=", "l[i] max="), ("max", "j", 2), "identity of max"),
    "maximum of positive weights": (
        changed(changed(SOFTMAX, "l[i] sum=", "l[i] max="), "l[i] = 0.0:float32", "l[i] = -inf:float32"),
        ("max", "j", 2),
        "expected a sum of what depends on the maximum, found max in sum",
    ),
    "other shift": (
        changed(SOFTMAX, "m[i]))", "select_n(ge(m[i], 0.0:float32), 0.0:float32, m[i])))"),
        ("max", "j", 2),
        "x - max",
    ),
    "parts that wait differently": (
        changed(SOFTMAX, "div(p[i, j], l[i])", "add(div(p[i, j], l[i]), p[i, j])"),
        ("max", "j", 2),
        "parts of add with the same factor",
    ),
    "condition on sums": (
        changed(SOFTMAX, "div(p[i, j], l[i])", "select_n(gt(l[i], 1.0:float32), p[i, j], p[i, j])"),
        ("max", "j", 2),
        "a condition that does not depend on what is reduced",
    ),
    "no exponential": (
        changed(SOFTMAX, "div(p[i, j], l[i])", "div(s[i, j], l[i])"),
        ("max", "j", 2),
        "as a factor of exp",
    ),
    "other start": (changed(SOFTMAX, "l[i] = 0.0:float32", "l[i] = 1.0:float32"), ("max", "j", 2), "identity of sum"),
    "scores from outside": (changed(SOFTMAX, "max= s[i, j]", "max= x[i, j]"), ("max", "j", 2), "x - max|beside it"),
    "weights that are stored": (
        changed(SOFTMAX, "y[i, e] = o[i, e]", "y[i, e] = add(o[i, e], p[i, e])"),
        ("max", "j", 2),
        "expected dot to go along one axis of o, found e",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    func, (block, iterator, tile), match = REFUSED[name]
    verify_schedule(func)
    with pytest.raises(ScheduleError, match=match):
        replay(func, steps(("stream", block, iterator, tile)))


def test_no_maximum_stands_alone():
    func = program("""
    input x: float32[4]
    output y: float32[]
    block init []
      y[] = -inf:float32
    block max [j: 0..4 reduce]
      y[] max= x[j]
""")
    with pytest.raises(ScheduleError, match="beside it, found none"):
        replay(func, steps(("stream", "max", "j", 2)))


def test_tiles_are_skipped_only_where_all_rows_are_masked():
    trace = steps(
        ("split", "out", "i", 2),
        *(("compute_at", b, "out.i") for b in ("o", "l", "p", "m", "s")),
        ("stream", "max", "j", 2),
    )
    conditions = [s.conditions for s in walk(replay(MASKED, trace).body) if isinstance(s, If)]
    assert [[str(c) for c in found] for found in conditions] == [["-2*max.j + 2*out.i + 1"]]
    unmasked = replay(SOFTMAX, trace)
    assert not any(isinstance(s, If) for s in walk(unmasked.body))
