"""Each primitive: what it makes of a small program, and everything it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import GOLDEN, MATMUL, PADDED, ROUNDED, ROW, outputs, program, steps
from workloads import verify_schedule

from tilewright.ir.loop import LoopFunc
from tilewright.ir.text import print_ir
from tilewright.passes.schedule import (
    ScheduleError,
    Step,
    apply_step,
    primitives,
    replay,
)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, golden):
    before, trace = GOLDEN[name]
    after = replay(before, trace)
    verify_schedule(after)
    for got, want in zip(outputs(after), outputs(before), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5 if name in ROUNDED else 0)
    golden.check(name, f"{print_ir(before)}\n{chr(10).join(map(str, trace))}\n\n{print_ir(after)}")


def test_accumulate_refuses_a_result_that_is_read_on_the_way():
    prefix_sums = program("""
    input x: float32[3]
    output y: float32[3]
    alloc t: float32[]
      block init []
        t[] = 0.0:float32
      for r in 0..3
        block update []
          t[] sum= x[r]
        block out []
          y[r] = t[]
""")
    refused(prefix_sums, ("accumulate", "update", "r"), match="expected only update to use t inside r, found out")


def test_every_primitive_has_a_golden():
    assert set(primitives()) <= set(GOLDEN)


# ---- refusals


TWO_LEVELS = (("split", "update", "k", 2), ("split", "update", "k", 1))


def refused(func: LoopFunc, *rows: tuple, match: str) -> None:
    """The last step is refused, for the reason given; those before it apply."""
    trace = steps(*rows)
    func = replay(func, trace[:-1])
    verify_schedule(func)
    with pytest.raises(ScheduleError, match=match):
        apply_step(func, trace[-1])


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([("split", "nothing", "i", 2)], "expected a Block, one of .*'update'.*found 'nothing'"),
        ([("split", "out", "k", 2)], r"expected an iterator of out, one of \['i', 'j'\], found 'k'"),
        ([("split", "out", "i", 0)], r"factor in 1..6 for out.i, found 0"),
        ([("split", "out", "i", 7)], r"factor in 1..6 for out.i, found 7"),
        ([("split", "out", "i", 4), ("split", "out", "i", 3)], "divides 4, since out.i is cut by a limit, found 3"),
        ([("reorder", "out", "i")], r"permutation of \['i', 'j'\], found \['i'\]"),
        ([("reorder", "out", "i", "i")], "permutation"),
        ([("vectorize", "out", "k")], "expected an iterator of out"),
        ([("unroll", "out.i")], "expected a loop, one of"),
        ([("fuse", "out.i", "out.j")], "expected a loop, one of"),
        ([*ROW, ("fuse", "out.j", "out.i")], "expected out.i directly inside out.j"),
        ([*ROW, ("unroll", "out.j"), ("fuse", "out.i", "out.j")], "expected serial loops from 0 to a constant"),
        ([("fuse_box", "update", "i", "k")], "expected two data iterators of update, found i and k"),
        ([("fuse_box", "update", "i", "i")], "expected two data iterators of update, found i and i"),
        ([("split", "out", "j", 4), ("fuse_box", "out", "i", "j")], "expected all of one or more values of out.j"),
        ([("flatten", "x", 0)], "expected an allocated buffer"),
        ([("flatten", "t", 1)], "expected an axis of t with one after it, found 1 of 2"),
        ([("flatten", "t", -1)], "expected an axis of t with one after it, found -1 of 2"),
        ([*ROW, ("interchange", "out.j", "out.i")], "expected out.i directly inside out.j"),
        ([("split", "out", "i", 2), ("parallel", "out.i")], "only outermost loop, found it inside a Seq"),
        ([*ROW, ("grid", "out.j")], "expected out.j inside grid loops only, found it inside the serial loop out.i"),
        ([*ROW, ("unroll", "out.i"), ("grid", "out.i")], "expected a serial loop from 0 to a constant, found out.i"),
        ([("split", "out", "i", 2), ("partition", "out.i")], "expected a guard inside out.i that depends on it"),
        ([("compute_at", "x", "out.i")], "expected an allocated buffer"),
        ([("compute_at", "t", "out.i")], "expected a loop"),
        ([("split", "update", "i", 2), ("compute_at", "t", "update.i")], "writers of t before update.i"),
        ([("split", "init", "i", 2), *ROW, ("compute_at", "t", "out.j")], "expected init outside loops"),
        ([("compute_inline", "t")], r"one plain unguarded writer of t, found \['init', 'update'\]"),
        ([("compute_inline", "y")], "expected an allocated buffer"),
        ([("set_scope", "t", "shared")], "expected one of global, cache, register, found 'shared'"),
        ([("set_scope", "t", "constant")], "expected one of global, cache, register"),
        ([("set_scope", "x", "cache")], "expected an allocated buffer"),
        ([("nontemporal", "t")], "expected an output that is not streamed yet, found t"),
        ([("nontemporal", "x")], "expected an output that is not streamed yet, found x"),
        ([("nontemporal", "y"), ("nontemporal", "y")], "expected an output that is not streamed yet, found y"),
        ([("prefetch", "out", "t", "out.i", 1)], "expected an input that out reads, found t"),
        ([("prefetch", "out", "x", "out.i", 1)], "expected an input that out reads, found x"),
        ([("prefetch", "update", "x", "update.i", 1)], "expected a loop around update, found update.i"),
        ([("split", "update", "i", 2), ("prefetch", "update", "x", "update.i", 0)], "a distance of at least 1"),
        ([("split", "update", "i", 2), *[("prefetch", "update", "x", "update.i", 1)] * 2], "once for x in update"),
        ([("pack", "x", 0, 2)], "constant or an allocated buffer, found the parameter x"),
        ([("pack", "y", 0, 2)], "constant or an allocated buffer, found the parameter y"),
        ([("pack", "w", 2, 2)], r"expected an axis in 0..1, found 2"),
        ([("pack", "w", -1, 2)], r"expected an axis in 0..1, found -1"),
        ([("pack", "w", 0, 0)], "panel of 1..4096 elements, found 0"),
        ([("split", "update", "i", 2), ("cache_read", "t", "update.i")], "expected t not to be written|access to t"),
        ([("split", "out", "i", 2), ("cache_read", "x", "out.i")], "expected an access to x, found none"),
        ([*ROW, ("cache_read", "w", "out.i", 0)], "expected an access to w, found none"),
        (
            [("split", "update", "i", 2), ("cache_read", "x", "update.i", 1)],
            "-1 or the number of one of 1 ways to read x",
        ),
        ([("split", "update", "i", 2), ("cache_read", "x", "update.i", -2)], "ways to read x, found -2"),
        ([("cache_write", "y")], "expected an allocated buffer"),
        ([("split", "update", "i", 2), ("cache_write", "t")], "expected update outside loops"),
        ([("rfactor", "out", "i", 2)], "expected a reduce iterator of a reduction, found out.i"),
        ([("rfactor", "update", "i", 2)], "expected a reduce iterator of a reduction, found update.i"),
        ([("rfactor", "update", "k", 6)], "range of at least 6, found 5 for k"),
        ([("split", "update", "k", 2), ("rfactor", "update", "k", 2)], "whole constant range"),
        ([("split", "out", "i", 2), ("accumulate", "out", "out.i")], "expected a reduction, found out"),
        ([("split", "out", "i", 2), ("accumulate", "update", "out.i")], "expected a loop around update, found out.i"),
        ([("split", "update", "i", 2), ("accumulate", "update", "update.i")], "update.i moves what is written"),
        (
            [("split", "update", "k", 2), ("split", "update", "i", 2), ("accumulate", "update", "update.k")],
            "update.i moves what is written",
        ),
        (
            [*TWO_LEVELS, ("accumulate", "update", "update.k.1"), ("accumulate", "update", "update.k")],
            "inside of the allocation of t.a, found update.k around it",
        ),
    ],
)
def test_refusals_on_a_matrix_product(rows, match):
    refused(MATMUL, *rows, match=match)


def test_long_loops_are_not_unrolled():
    func = program("""
        input x: float32[65]
        output y: float32[65]
        block b [i: 0..65]
          y[i] = x[i]
    """)
    refused(func, ("split", "b", "i", 1), ("unroll", "b.i"), match="at most 64 for b.i, found 65")


def test_reductions_over_a_parallel_loop_are_refused():
    func = program("""
        output y: float32[4]
        block b [i: 0..4]
          y[i] = 0.0:float32
    """)
    summed = program("""
        input x: float32[6]
        output y: float32[]
        for o in 0..6
          block b [r: o..+1 reduce]
            y[] sum= x[r]
    """)
    replay(func, steps(("split", "b", "i", 1), ("parallel", "b.i")))
    with pytest.raises(ScheduleError, match="iterations of o to use different elements of y"):
        apply_step(summed, Step("parallel", "o"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("t[o] = x[o]", "y[o] = t[-o + 7]"),  # read by another iteration than wrote it
        ("t[o] = x[o]", "y[o] = t[0]"),
        ("y[o] = x[o]", "y[-o + 7] = x[o]"),  # two Blocks, one element
        ("t[0] = x[o]", "y[o] = t[0]"),  # scratch outside of the loop, used by all
    ],
)
def test_iterations_that_meet_in_memory_are_not_parallel(first, second):
    func = program(f"""
        input x: float32[8]
        output y: float32[8]
        alloc t: float32[8]
          for o in 0..8
            block a []
              {first}
            block b []
              {second}
    """)
    with pytest.raises(ScheduleError, match="expected iterations of o to use different elements"):
        apply_step(func, Step("parallel", "o"))


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (["block b []", "  y[i + j] = x[i, j]"], "write each element in one iteration of i or j"),
        (["block b []", "  y[i] = x[i, j]", "block c []", "  y[j] = x[j, i]"], "one writer per buffer"),
        (
            ["block b []", "  t[i] = x[i, j]", "block c []", "  y[i + 4*j] = t[j]"],
            "no value to flow between iterations",
        ),
    ],
)
def test_interchanges_that_change_an_order_of_writes_are_refused(body, match):
    lines = "\n".join("              " + line for line in body)
    func = program(f"""
        input x: float32[4, 4]
        output y: float32[16]
        alloc t: float32[4]
          for i in 0..4
            for j in 0..4
{lines}
    """)
    with pytest.raises(ScheduleError, match=match):
        apply_step(func, Step("interchange", "i", ("j",)))


def test_interchange_of_writes_to_different_elements_applies():
    func = program("""
        input x: float32[4, 3]
        output y: float32[12]
        for i in 0..4
          for j in 0..3
            block b []
              y[3*i + j] = x[i, j]
    """)
    after = apply_step(func, Step("interchange", "i", ("j",)))
    np.testing.assert_array_equal(outputs(after)[0], outputs(func)[0])


def test_triangular_and_parallel_loops_are_not_interchanged():
    func = program("""
        input x: float32[4]
        output y: float32[4, 4]
        for i in 0..4
          for j in 0..i + 1
            block b []
              y[i, j] = x[j]
    """)
    with pytest.raises(ScheduleError, match="bounds of j not to depend on i"):
        apply_step(func, Step("interchange", "i", ("j",)))
    with pytest.raises(ScheduleError, match="serial loops from 0 to a constant"):
        apply_step(func, Step("fuse", "i", ("j",)))
    simple = program("""
        input x: float32[4]
        output y: float32[4, 4]
        parallel i in 0..4
          for j in 0..4
            block b []
              y[i, j] = x[j]
    """)
    with pytest.raises(ScheduleError, match="expected serial or unrolled loops, found i parallel"):
        apply_step(simple, Step("interchange", "i", ("j",)))
    with pytest.raises(ScheduleError, match="expected a guard inside i that depends on it"):
        apply_step(simple, Step("partition", "i"))


def test_partition_needs_iterations_without_guards():
    refused(PADDED, ("split", "update", "i", 8), ("partition", "update.i"), match="in which every guard holds")


def test_what_a_moved_expression_reads_must_not_change():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        alloc s: float32[8]
          block zero [i: 0..8]
            s[i] = x[i]
          alloc t: float32[8]
            block a [i: 0..8]
              t[i] = mul(s[i], 2.0:float32)
            for o in 0..8
              block b []
                s[-o + 7] = x[0]
              block c []
                y[o] = t[o]
    """)
    verify_schedule(func)
    with pytest.raises(ScheduleError, match="expected s unchanged after the first writer of t, found b"):
        apply_step(func, Step("compute_at", "t", ("o",)))
    with pytest.raises(ScheduleError, match="operands of a unchanged after it"):
        apply_step(func, Step("compute_inline", "t"))


def test_what_a_moved_expression_reads_must_be_alive():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        alloc t: float32[8]
          alloc s: float32[8]
            block zero [i: 0..8]
              s[i] = x[i]
            block a [i: 0..8]
              t[i] = mul(s[i], 2.0:float32)
          for o in 0..8
            block c []
              y[o] = t[o]
    """)
    verify_schedule(func)
    for step in (Step("compute_at", "t", ("o",)), Step("compute_inline", "t")):
        with pytest.raises(ScheduleError, match=r"expected \['s'\] alive where t is read"):
            apply_step(func, step)


def test_moving_needs_writes_of_one_iterator_per_axis():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        alloc t: float32[8]
          block a [i: 0..8]
            t[-i + 7] = x[i]
          for o in 0..8
            block c []
              y[o] = t[o]
    """)
    with pytest.raises(ScheduleError, match="write one iterator per axis"):
        apply_step(func, Step("compute_at", "t", ("o",)))
    with pytest.raises(ScheduleError, match="exactly one iterator per axis"):
        apply_step(func, Step("compute_inline", "t"))


def test_a_partly_written_buffer_is_not_moved():
    func = program("""
        input x: float32[8]
        output y: float32[6]
        alloc t: float32[8]
          block a [i: 1..7]
            t[i] = x[i]
          for o in 0..6
            block c []
              y[o] = t[o + 1]
    """)
    with pytest.raises(ScheduleError, match="expected a to compute all of axis i"):
        apply_step(func, Step("compute_at", "t", ("o",)))


def test_readers_outside_or_with_other_strides_stop_compute_at():
    func = program("""
        input x: float32[8]
        output y: float32[4]
        output z: float32[8]
        alloc t: float32[8]
          block a [i: 0..8]
            t[i] = x[i]
          for o in 0..4
            block c []
              y[o] = add(t[o], t[2*o])
          block d [i: 0..8]
            z[i] = t[i]
    """)
    with pytest.raises(ScheduleError, match="every reader of t inside o, found d outside"):
        apply_step(func, Step("compute_at", "t", ("o",)))
    with pytest.raises(ScheduleError, match="accesses to t that differ by a constant"):
        apply_step(func, Step("cache_read", "t", ("o",)))


def test_guarded_values_are_neither_inlined_nor_copied():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        alloc t: float32[8]
          block a [i: 0..8]
            t[i] = x[i]
          for o in 0..8
            block c []
              y[o] = t[o - 1]{o - 1 >= 0 else 0.0}
    """)
    with pytest.raises(ScheduleError, match="expected unguarded reads of t"):
        apply_step(func, Step("compute_inline", "t"))
    with pytest.raises(ScheduleError, match="expected unguarded reads of t inside o"):
        apply_step(func, Step("cache_read", "t", ("o",)))
    after = apply_step(func, Step("compute_at", "t", ("o",)))
    verify_schedule(after)
    np.testing.assert_array_equal(outputs(after)[0], outputs(func)[0])


def test_a_buffer_read_before_it_is_complete_is_not_copied():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        alloc t: float32[8]
          block a [i: 0..8]
            t[i] = x[i]
          block c [i: 0..8]
            y[i] = t[i]
          block b [i: 0..8]
            t[i] sum= x[i]
    """)
    with pytest.raises(ScheduleError, match="expected t to be written before it is read"):
        apply_step(func, Step("cache_write", "t"))


def test_a_split_that_hides_what_threads_write_is_refused():
    rows = program("""
    input x: float32[6, 7]
    output y: float32[6, 7]
    block copy [i: 0..6, j: 0..7]
      y[i, j] = x[i, j]
""")
    shared = (("fuse_box", "copy", "i", "j"), ("split", "copy", "i_j", 14), ("parallel", "copy.i_j"))
    assert replay(rows, steps(*shared))
    refused(rows, *shared, ("split", "copy", "i_j", 6), match="expected iterations of copy.i_j to use different")
