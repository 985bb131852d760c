"""Features and predictions: what they must say about schedules whose merits are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matmuls import MATMUL, tiled

from tilewright.costmodel.anatomy import dissect
from tilewright.costmodel.features import FEATURE_NAMES, extract_features
from tilewright.costmodel.roofline import RooflineCostModel, predict_native
from tilewright.ir.affine import constant, var
from tilewright.ir.loop import Access, Apply, Block, Buffer, LoopFunc, Read, Seq, Stmt, rewrite
from tilewright.ir.parser import parse_ir
from tilewright.ir.target import Target, detect_target
from tilewright.passes.schedule import Step, Trace

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 250.0, 40.0)
LARGE = MATMUL.replace("100", "512").replace("70", "512").replace("40", "512")


def column(traces: list[Trace], name: str, text: str = MATMUL, target: Target = TARGET) -> list[float]:
    matrix = extract_features(dissect(parse_ir(text)), traces, target)
    return [float(v) for v in matrix[:, FEATURE_NAMES.index(name)]]


def test_steps_that_a_guard_skips_do_not_count() -> None:
    func = parse_ir(MATMUL)

    def half(s: Stmt) -> Stmt:
        if not isinstance(s, Block) or s.monoid is None:
            return s
        last = s.iters[-1]
        return replace(s, guard=(constant(last.extent // 2 - 1) - var(last.name),))

    body = rewrite(func.body, half)
    assert body is not None
    whole, less = dissect(func), dissect(replace(func, body=body))
    assert (whole.taken, less.taken, less.flops) == (1.0, 0.5, whole.flops / 2)
    before, after = (predict_native(f, [tiled(14, 32, 1)], TARGET)[0] for f in (func, replace(func, body=body)))
    assert after < before


def test_shape_and_finiteness() -> None:
    traces = [tiled(14, 32, 1), tiled(1, 70, 40), (), (Step("parallel", "nothing"),)]
    matrix = extract_features(dissect(parse_ir(MATMUL)), traces, TARGET)
    assert matrix.shape == (4, len(FEATURE_NAMES)) and matrix.dtype == np.float32
    assert np.isfinite(matrix).all()
    assert extract_features(dissect(parse_ir(MATMUL)), [], TARGET).shape == (0, len(FEATURE_NAMES))


def test_one_by_one_or_together_is_the_same() -> None:
    work = dissect(parse_ir(MATMUL))
    traces = [tiled(rows, width, 1) for rows in (1, 7, 14) for width in (16, 32, 64)]
    alone = np.concatenate([extract_features(work, [t], TARGET) for t in traces])
    assert np.array_equal(alone, extract_features(work, traces, TARGET))


def test_register_tile() -> None:
    traces = [tiled(14, 32, 1), tiled(10, 48, 4)]
    assert column(traces, "rows") == [14, 10]
    assert column(traces, "vectors") == [2, 3]
    assert column(traces, "accumulators") == [28, 30]
    assert column(traces, "unroll") == [1, 4]
    assert column(traces, "fma_per_load") == pytest.approx([28 / 16, 30 / 13])


def test_imbalance() -> None:
    one_thread = Target("test", "+avx512f", 512, 1, 48 << 10, 1 << 20, 32 << 20, 250.0, 40.0)
    # 70 columns in panels of 16: 5 iterations on 2 threads are as long as 6.
    assert column([tiled(14, 16, 1)], "imbalance") == pytest.approx([1.2])
    assert column([tiled(14, 16, 1)], "imbalance", target=one_thread) == [1.0]
    assert column([tiled(14, 16, 1)[:-1]], "imbalance") == [2.0], "without a parallel loop one thread idles"


def test_waste() -> None:
    assert column([tiled(10, 35, 1), tiled(14, 32, 1)], "row_waste") == pytest.approx([0, 0.02])


def test_predictions_rank_register_tiles() -> None:
    func = parse_ir(LARGE)
    good, narrow, single, spilled = (tiled(r, w, 1) for r, w in ((14, 32), (2, 32), (1, 16), (40, 64)))
    seconds = predict_native(func, [good, narrow, single, spilled], TARGET)
    assert seconds[0] == seconds.min()
    assert seconds[1] < seconds[2]
    limit = 2 * 512**3 / (2 * 250e9)
    assert limit < seconds[0] < 1.6 * limit


def test_predictions_prefer_registers_and_threads() -> None:
    func = parse_ir(LARGE)
    whole = tiled(14, 32, 1)
    in_memory = tuple(s for s in whole if s.primitive != "set_scope")
    seconds = predict_native(func, [whole, in_memory, whole[:-1]], TARGET)
    assert seconds[1] > seconds[0] * 1.3
    assert seconds[2] > seconds[0] * 1.6


def test_roofline_model_is_the_first_column() -> None:
    matrix = extract_features(dissect(parse_ir(MATMUL)), [tiled(14, 32, 1), tiled(1, 16, 1)], TARGET)
    model = RooflineCostModel()
    model.fit(matrix, np.ones(2), np.zeros(2, int))
    assert model.predict(matrix).tolist() == matrix[:, 0].tolist()


def test_programs_without_blocks_are_refused() -> None:
    func = replace(parse_ir(MATMUL), body=Seq(()))
    with pytest.raises(ValueError, match="with Blocks"):
        dissect(func)


def test_programs_without_iterators_have_features() -> None:
    buffers = (Buffer("x", (), "float32"), Buffer("y", (), "float32"))
    block = Block("b", (), Access("y", ()), Apply("exp", (Read("x", (), "float32"),), "float32"))
    features = extract_features(dissect(LoopFunc("f", buffers, 1, block)), [(), ()], detect_target())
    assert features.shape == (2, len(FEATURE_NAMES)) and np.isfinite(features).all()


WINDOWS = """tilewright loop ir 1
func pool
  input x0: float32[16, 57, 115]
  output y0: float32[16, 28, 57]
  alloc t0: float32[16, 28, 57]
    block max.init [c: 0..16, i: 0..28, j: 0..57]
      t0[c, i, j] = -inf:float32
    block max [c: 0..16, i: 0..28, j: 0..57, r: 0..3 reduce, s: 0..3 reduce]
      t0[c, i, j] max= x0[c, 2*i + r, {step}*j + s]
    block out [c: 0..16, i: 0..28, j: 0..57]
      y0[c, i, j] = t0[c, i, j]
"""


def windows(rows: int) -> Trace:
    return (
        *(Step("split", "out", (n, f)) for n, f in (("c", 1), ("j", 57), ("i", rows))),
        Step("compute_at", "t0", ("out.i",)),
        Step("set_scope", "t0", ("register",)),
        *(Step("vectorize", b, ("j",)) for b in ("max.init", "max", "out")),
        Step("split", "max", ("s", 1)),
        Step("parallel", "out.c"),
    )


def test_small_strides_cost_a_few_loads_and_not_one_per_lane() -> None:
    plain, strided = (parse_ir(WINDOWS.replace("{step}", step)) for step in ("1", "2"))
    one, two = (float(predict_native(f, [windows(4)], TARGET)[0]) for f in (plain, strided))
    assert one < two < 3 * one


def test_transposed_results_cost_more() -> None:
    plain = tiled(14, 32, 1)
    transposed = (Step("cache_write", "t0"), *plain)
    seconds = predict_native(parse_ir(MATMUL), [plain, transposed], TARGET)
    assert seconds[0] < seconds[1] < 2 * seconds[0]


DEPTHWISE = """tilewright loop ir 1
func depthwise
  input x0: float32[114, 114, 64]
  constant w0: float32[3, 3, 64]
  output y0: float32[112, 112, 64]
  alloc t0: float32[112, 112, 64]
    block init [i: 0..112, j: 0..112, c: 0..64]
      t0[i, j, c] = 0.0:float32
    block update [i: 0..112, j: 0..112, c: 0..64, r: 0..3 reduce, s: 0..3 reduce]
      t0[i, j, c] sum= mul(x0[i + r, j + s, c], w0[r, s, c])
    block out [i: 0..112, j: 0..112, c: 0..64]
      y0[i, j, c] = t0[i, j, c]
"""


def depthwise(rows: int, vectors: int) -> Trace:
    return (
        *(Step("split", "out", (n, f)) for n, f in (("c", 16 * vectors), ("i", 1), ("j", rows))),
        Step("compute_at", "t0", ("out.j",)),
        Step("set_scope", "t0", ("register",)),
        *(Step("vectorize", b, ("c",)) for b in ("init", "update", "out")),
        Step("split", "update", ("r", 1)),
        Step("parallel", "out.c"),
    )


def test_windows_that_overlap_are_moved_once() -> None:
    """Rows that the next row of results reads again are still in the cache then."""
    (cycles,) = column([depthwise(14, 2)], "log_l3_cycles", DEPTHWISE)
    bytes_ = 4 * 64 * (114 * 114 + 112 * 112)
    assert bytes_ <= 2**cycles * 28 < 1.1 * bytes_


def test_single_lines_of_rows_bring_their_neighbours_along() -> None:
    single, pairs = column([depthwise(14, 1), depthwise(14, 2)], "log_l3_cycles", DEPTHWISE)
    assert single == pytest.approx(pairs + 1, abs=0.01)


def test_weights_of_channels_take_registers_as_well() -> None:
    fitting, spilling = column([depthwise(12, 2), depthwise(14, 2)], "log_compute_cycles", DEPTHWISE)
    assert fitting < spilling - 0.1, "28 sums, 6 weights and an operand"
