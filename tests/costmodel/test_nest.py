"""Reading loop nests off traces: what the reader says is what replay makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matmuls import MATMUL, tiled

from tilewright.costmodel.anatomy import dissect
from tilewright.costmodel.nest import read_nests
from tilewright.ir.loop import For, LoopFunc, blocks, loop_range, walk
from tilewright.ir.parser import parse_ir
from tilewright.passes import placement, tiling  # noqa: F401  (they register the primitives)
from tilewright.passes.schedule import Step, replay


def loops(func: LoopFunc) -> list[tuple[str, int]]:
    found = [s for s in walk(func.body) if isinstance(s, For)]
    return [(s.name, 1 + loop_range(s, {})[1] - loop_range(s, {})[0]) for s in found]


@pytest.mark.parametrize(("rows", "width", "unroll"), [(14, 32, 1), (10, 16, 4), (100, 64, 8), (7, 70, 40)])
def test_agrees_with_replay(rows: int, width: int, unroll: int) -> None:
    func = parse_ir(MATMUL)
    work = dissect(func)
    trace = tiled(rows, width, unroll)
    nests = read_nests(work, [trace])
    scheduled = replay(func, trace)
    trips = [count for _, count in loops(scheduled)]
    assert nests.trips[0, :3].tolist() == trips == [-(-70 // width), -(-100 // rows), 40 // unroll]
    box = {i.name: i.extent for b in blocks(scheduled.body) if b.name == "dot" for i in b.iters}
    last = nests.spans[0, -1]
    assert {name: last[work.columns[name]] for name in ("i", "j")} == {"i": box["i"], "j": box["j"]}
    assert last[work.columns["dot/k"]] == box["k"] == unroll
    assert nests.parallel[0] == -(-70 // width)
    assert nests.vector[0] == work.columns["j"]
    assert nests.registers[0] and nests.packed[0] and not nests.copied[0]


def test_levels_go_from_the_whole_box_to_the_tile() -> None:
    work = dissect(parse_ir(MATMUL))
    spans = read_nests(work, [tiled(14, 32, 4)]).spans[0]
    i, j, k = work.columns["i"], work.columns["j"], work.columns["dot/k"]
    assert spans[:4, [i, j, k]].tolist() == [[100, 70, 40], [100, 32, 40], [14, 32, 40], [14, 32, 4]]
    assert (spans[4:] == spans[3]).all()


def test_reductions_are_inside_whenever_they_were_split() -> None:
    work = dissect(parse_ir(MATMUL))
    trace = tiled(14, 32, 4)
    (early,) = (s for s in trace if s.target == "dot" and s.primitive == "split")
    nests = read_nests(work, [trace, (early, *(s for s in trace if s is not early))])
    assert np.array_equal(nests.spans[0], nests.spans[1]) and np.array_equal(nests.trips[0], nests.trips[1])


def test_fused_loops_share_their_trips() -> None:
    trace = (
        Step("split", "out", ("j", 35)),
        Step("split", "out", ("i", 10)),
        Step("fuse", "out.j", ("out.i",)),
        Step("parallel", "out.j_out.i"),
    )
    assert read_nests(dissect(parse_ir(MATMUL)), [trace]).parallel[0] == 20


def test_joined_rows_are_vectors_along_the_last_axis() -> None:
    work = dissect(parse_ir(MATMUL))
    joined = (
        Step("split", "out", ("i", 8)),
        *(Step("fuse_box", b, ("i", "j")) for b in ("init", "dot", "out")),
        Step("vectorize", "dot", ("i_j",)),
    )
    nests = read_nests(work, [joined, joined[:1], tiled(14, 32, 1)])
    assert nests.joined.tolist() == [True, False, False]
    assert nests.vector[0] == work.columns["j"]


def test_unknown_steps_are_passed_over() -> None:
    work = dissect(parse_ir(MATMUL))
    odd = (Step("no_such_primitive", "x", (1,)), Step("split", "no_such_block", ("i", 4)), *tiled(14, 32, 1))
    plain = read_nests(work, [tiled(14, 32, 1)])
    assert (read_nests(work, [odd]).spans == plain.spans).all()


def test_anatomy() -> None:
    work = dissect(parse_ir(MATMUL))
    assert (work.names[work.root], work.names[work.main]) == ("out", "dot")
    assert work.flops == 2 * 100 * 70 * 40
    assert math.prod(work.extents[work.reduces]) == 40
    assert work.multiplies and not work.guarded
    assert np.flatnonzero(work.members[work.main]).tolist() == [0, 1, 2]
