"""An estimate of what XLA's CPU backend takes for a region, for the decision whether our code is worth shipping.

At effort 0 nothing is timed: a kernel ships only where it is predicted to be clearly faster than XLA. The constants
are measured with `bench/calibrate_xla.py` (jaxlib 0.10, AVX-512, 2 threads; see there how). Estimates are typically
within a factor of 1.5 (products, depthwise convolutions) to 1.8 (dense convolutions, reductions, elementwise loops);
a first convolution of 3 channels with a 3x3 kernel is far off on the side of XLA, and loops whose data barely exceed
half of the last-level cache on ours: they are predicted to come from memory, and are up to six times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

from ..ir import dtypes
from ..ir.graph import Graph, Op, TensorType
from ..ir.infer import ELEMENTWISE
from ..ir.target import Target

SHIP_RATIO = 1.15
"""How many times faster than XLA a kernel must be predicted to be to ship without measuring."""

_CALIBRATED_HZ = 4e9
"""The clock of the processor that the constants were measured on."""
_KERNEL_S = 5e-6
"""Starting one of XLA's kernels and handing it to the threads."""
_KERNEL_IN_LOOP_S = 0.2e-6
"""The same for a product or reduction in the body of a loop: small ones run where they are started."""
_RUN_IN_LOOP_S = 0.015e-6
"""The same for elementwise work, which XLA compiles into the loop."""
_UPDATE_S_PER_ELEMENT = 0.4e-9
"""Writing a window into a carry: one thread does it, without vectors."""
_DOT_SHARE = 0.87
"""Share of the peak that a product of two matrices reaches whose left one has its rows as they are used."""
_TRANSPOSED_SHARE = 0.75
_BOTH_TRANSPOSED_SHARE = 0.55
_BATCHED_SHARE = 0.45
"""Products with batch axes, or summed over more than one axis."""
_DOT_EXTRA_FLOPS = 25e6
"""What handing a product to the threads and packing take, in its own operations; about half of what was measured."""
_DOT_S_PER_RIGHT_ELEMENT = 0.07e-9
"""Laying the right operand out anew, per element of it and thread: most of the time where the left one has few rows."""
_VECTOR_SHARE = 0.75
"""Share of the memory's speed that a vector times a matrix reaches."""
_FEW_COLUMNS = 8
"""Columns of a right operand below which a left one that is stored transposed is not laid out anew."""
_DOWN_COLUMNS_S = 0.35e-9
"""Per element of such a left operand: a single thread walks down its columns, a cache line per element."""
_COLLIDING = {2048: 2.0, 4096: 6.0}
"""How many times as long that takes where rows lie multiples of so many bytes apart and share few sets of a cache."""
_CONV_S = 30e-6
_CONV_SHARE = 0.5
_CONV_S_PER_PATCH_ELEMENT = 0.2e-9
"""Copying the input into a matrix of patches, per element of that matrix and thread."""
_CONV_S_PER_WEIGHT = 0.5e-9
_PHASES = 1.12
"""How much longer transposed convolutions take than others of the same work."""
_DEPTHWISE_S_PER_MAC = 2.0e-9
_CACHE_BYTES_PER_S = 40e9
_REDUCE_ELEMENTS_PER_S = 6e9
_SHORT_ROW = 32
_SHORT_ROW_S = 2.4e-9
"""Beginning and ending a row of fewer elements than that, per row and thread."""
_NARROW = 16
_NARROW_S = 1.8e-9
"""A step down columns that lie beside fewer others than that, per step and group of columns, on a single thread."""
_FEW_ROWS = 64
_FAR_APART = 64 << 10
_FAR_APART_S = 1.5e-9
"""Per element of columns of fewer elements, so many bytes apart, as in sums over a batch, on a single thread."""
_PLACE_ELEMENTS_PER_S = 0.25e9
"""Places of extreme values are found one element after the other, without vectors."""
_ROUNDED_SUMS_PER_S = {"float16": 2.5e9, "bfloat16": 1e9}
_WINDOW_ELEMENTS_PER_S = 1.2e9
_SMALL_PAGE_S_PER_BYTE = 0.35e-9
_HUGE_PAGE_S_PER_BYTE = 0.05e-9
_FRESH_BYTES = 32 << 20
"""Smaller results come from memory that the allocator keeps."""

_MATH_PER_S = {
    **dict.fromkeys(("exp", "exp2", "tanh", "erf"), 4e9),
    **dict.fromkeys(("log", "logistic"), 2e9),
    **dict.fromkeys(("expm1", "log1p", "erfc", "cosh"), 1.2e9),
    **dict.fromkeys(("rsqrt", "rem", "sinh", "asinh", "acosh", "atanh", "erf_inv"), 0.7e9),
    **dict.fromkeys(("sin", "cos", "pow"), 0.15e9),
    **dict.fromkeys(("tan", "cbrt", "asin", "acos", "atan", "atan2", "lgamma", "digamma"), 0.06e9),
}
"""Results per second and thread of functions that take longer than moving what they read; a few are called per
element, without vectors."""
_MATH_64_PER_S = {
    **dict.fromkeys(("exp", "tanh"), 4e9),
    "expm1": 1.6e9,
    **dict.fromkeys(("rsqrt", "exp2", "log", "logistic", "cosh"), 0.7e9),
    **dict.fromkeys(("log1p", "erf", "erfc", "sinh", "acosh"), 0.4e9),
    **dict.fromkeys(("sin", "cos", "tan", "pow", "asin", "acos", "atan", "asinh", "atanh", "erf_inv"), 0.2e9),
    **dict.fromkeys(("cbrt", "atan2", "rem", "lgamma", "digamma"), 0.1e9),
}
"""The same in float64, where most are called per element."""
_ROUNDED_PER_S = {"float16": 12e9, "bfloat16": 4e9}
"""Operations per second and thread on 16-bit floats: every result is rounded."""
_INTEGER_DIVISIONS_PER_S = 0.6e9
_RANDOM_WORDS_PER_S = 0.2e9
"""Words drawn per second and thread: XLA keeps all of them in memory from round to round."""
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or".split())
_PLACES = frozenset(("argmax", "argmin"))
_WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min".split())
_FREE = frozenset("reshape squeeze broadcast_in_dim copy stop_gradient name convert_element_type iota".split())
_MOVES = frozenset(
    "concatenate pad gather dynamic_slice dynamic_update_slice transpose rev slice broadcast_in_dim".split()
)
"""Operations that only move elements; XLA runs them in one loop with the elementwise operations around them."""
_FUSED = ELEMENTWISE | _FREE | _MOVES
_STORED = frozenset(("concatenate", "gather"))
"""Those of them that are not folded into a product or convolution that reads them."""
_JOIN_S_PER_ELEMENT = 0.1e-9
_JOIN_LAST_S_PER_ELEMENT = 0.4e-9
"""What a concatenation or a pad takes beyond moving, per element and thread: which part an element is of is asked for
each; of a concatenation along the last axis without vectors. A pad is computed anew by each of its readers."""
_TRANSPOSED = 2.0
"""How many times as long a transposition of the last axis takes as a copy."""


def predict_xla(region: Graph, target: Target) -> float:
    """Seconds that XLA takes for a region, its results in memory that was touched before.

    Args:
        region: a graph of transparent operations.
        target: the CPU.
    """
    target, slower = _calibrated(target)
    start = _KERNEL_S / slower
    return slower * (sum(_heavy(region, op, target, start) for op in region.ops) + _loops(region, target, start))


def predict_xla_loop(body: Graph, target: Target) -> float:
    """Seconds that XLA takes for an iteration of a loop.

    Args:
        body: a graph of transparent operations.
        target: the CPU.
    """
    target, slower = _calibrated(target)
    heavy = sum(_heavy(body, op, target, _KERNEL_IN_LOOP_S / slower) for op in body.ops)
    updates = (body.types[op.operands[1]].size for op in body.ops if op.opcode == "dynamic_update_slice")
    return slower * (heavy + _UPDATE_S_PER_ELEMENT * sum(updates) + _loops(body, target, _RUN_IN_LOOP_S / slower))


def _calibrated(target: Target) -> tuple[Target, float]:
    """A CPU at the clock that the constants were measured at, and how many times as long the given one takes.

    Kernels of ours are predicted in cycles of the clock that the target's peak stands for, which is an estimate: XLA's
    code has to be predicted for the same one. The memory and the system are as fast as they are, whatever the clock.
    """
    slower = _CALIBRATED_HZ / target.clock_hz
    peak, bandwidth = target.fma_gflops_per_thread * slower, target.bandwidth_gbs * slower
    return replace(target, fma_gflops_per_thread=peak, bandwidth_gbs=bandwidth), slower


def first_touch(sizes: Iterable[int], huge_pages: bool) -> float:
    """Seconds that the system takes to hand out the pages of a function's results, which XLA allocates on each call.

    Args:
        sizes: of the results, in bytes; only large ones come fresh from the system.
        huge_pages: whether whoever writes them asks for huge pages first, as native calls do.
    """
    rate = _HUGE_PAGE_S_PER_BYTE if huge_pages else _SMALL_PAGE_S_PER_BYTE
    return rate * sum(size for size in sizes if size >= _FRESH_BYTES)


def region_flops(region: Graph) -> float:
    """Floating point operations of a region's products and convolutions."""
    return float(sum(_flops(region, op) for op in region.ops))


def _flops(region: Graph, op: Op) -> int:
    if op.opcode == "dot_general":
        (contract, _), _ = op.params["dimension_numbers"]
        shape = region.types[op.operands[0]].shape
        return 2 * op.types[0].size * math.prod(shape[axis] for axis in contract)
    if op.opcode == "conv_general_dilated":
        kernel = region.types[op.operands[1]]
        out_features = op.types[0].shape[_feature_axis(op)]
        skipped = math.prod(op.params["lhs_dilation"])  # zeros between elements are not multiplied
        return 2 * op.types[0].size * kernel.size // max(out_features * skipped, 1)
    return 0


def _feature_axis(op: Op) -> int:
    return int(op.params["dimension_numbers"][2][1])


def _heavy(region: Graph, op: Op, target: Target, start: float) -> float:
    """Seconds of an operation that XLA runs as a kernel of its own."""
    threads = target.threads
    peak = target.fma_gflops_per_thread * 1e9 * threads
    if op.opcode == "dot_general":
        return start + _product(region, op, peak, target)
    if op.opcode == "conv_general_dilated":
        return _convolution(region, op, peak, threads, start)
    elements = region.types[op.operands[0]].size if op.operands else 0
    if op.opcode in _REDUCTIONS:
        moved = region.types[op.operands[0]].nbytes
        usual = max(elements / (_reduced_per_s(op) * threads), _streaming(moved, target))
        return start + usual + _without_vectors(region.types[op.operands[0]], op.params["axes"], threads)
    if op.opcode in _PLACES:
        return start + elements / (_PLACE_ELEMENTS_PER_S * threads)
    if op.opcode in _WINDOWS:
        window = math.prod(op.params["window_dimensions"])
        return start + op.types[0].size * window / (_WINDOW_ELEMENTS_PER_S * threads)
    return 0.0


def _product(region: Graph, op: Op, peak: float, target: Target) -> float:
    """Seconds of a product; a right operand that several rows use is laid out anew first."""
    flops = _flops(region, op)
    seconds = (flops + min(_DOT_EXTRA_FLOPS, 2 * flops)) / (peak * _dot_share(region, op))
    right = region.types[op.operands[1]]
    moved = sum(region.types[v].nbytes for v in op.operands)
    if _walks_columns(region, op):
        (left, _), _ = op.params["dimension_numbers"]
        return max(seconds, _walking(region.types[op.operands[0]], left[0]))
    if _dot_rows(region, op) > 1:
        return max(seconds + _DOT_S_PER_RIGHT_ELEMENT * right.size / target.threads, _streaming(moved, target))
    cached = moved <= target.l3_bytes // 2
    return max(seconds, _moving(moved, target) / (1.0 if cached else _VECTOR_SHARE))


def _walks_columns(region: Graph, op: Op) -> bool:
    """Whether few vectors are multiplied with a matrix that is stored transposed."""
    (left, right), (batch, _) = op.params["dimension_numbers"]
    matrix, vectors = (region.types[value] for value in op.operands)
    if batch or len(left) != 1 or matrix.rank != 2 or _dot_rows(region, op) == 1:
        return False
    columns = vectors.size // max(vectors.shape[right[0]], 1)
    return columns < _FEW_COLUMNS and _stored_axis(region, op.operands[0], left[0]) == 0


def _walking(matrix: TensorType, contracted: int) -> float:
    """Seconds down the columns of a matrix, whose stored rows are as long as the axis that is not contracted."""
    row_bytes = matrix.nbytes // max(matrix.shape[contracted], 1)
    slower = max((factor for step, factor in _COLLIDING.items() if row_bytes and row_bytes % step == 0), default=1.0)
    return matrix.size * _DOWN_COLUMNS_S * slower


def _dot_rows(region: Graph, op: Op) -> int:
    """Rows of the left operand that every element of the right one is multiplied with."""
    (contract, _), (batch, _) = op.params["dimension_numbers"]
    shape = region.types[op.operands[0]].shape
    return math.prod(n for axis, n in enumerate(shape) if axis not in (*contract, *batch))


def _dot_share(region: Graph, op: Op) -> float:
    """Share of the peak that XLA's products reach, by the axes they sum over."""
    (left, right), (batch, _) = op.params["dimension_numbers"]
    if batch or len(left) != 1:
        return _BATCHED_SHARE
    left_value, right_value = op.operands
    if _stored_axis(region, left_value, left[0]) == region.types[left_value].rank - 1:
        return _DOT_SHARE
    columns_apart = _stored_axis(region, right_value, right[0]) != 0
    return _BOTH_TRANSPOSED_SHARE if columns_apart else _TRANSPOSED_SHARE


def _stored_axis(region: Graph, value: int, axis: int) -> int:
    """Which axis of what is in memory an axis of a value is, seen through transpositions, which XLA folds."""
    op = region.producer(value)
    while op is not None and op.opcode == "transpose":
        axis = int(op.params["permutation"][axis])
        op = region.producer(op.operands[0])
    return axis


def _convolution(region: Graph, op: Op, peak: float, threads: int, start: float) -> float:
    """Patches are copied into a matrix, weights are packed, then a product; grouped ones are plain loops."""
    flops = _flops(region, op)
    if op.params["feature_group_count"] > 1:
        return start + flops / 2 * _DEPTHWISE_S_PER_MAC
    weights = region.types[op.operands[1]].size
    patches = flops / 2 / max(op.types[0].shape[_feature_axis(op)], 1)
    copying = patches * _CONV_S_PER_PATCH_ELEMENT / threads + weights * _CONV_S_PER_WEIGHT
    slower = _PHASES if max(op.params["lhs_dilation"], default=1) > 1 else 1.0
    return slower * (_CONV_S + flops / (peak * _CONV_SHARE) + copying)


def _moving(size: int, target: Target) -> float:
    """Seconds to stream bytes, from the caches or from memory."""
    cached = size <= target.l3_bytes // 2
    return size / (_CACHE_BYTES_PER_S * target.threads if cached else target.bandwidth_gbs * 1e9)


def _streaming(size: int, target: Target, stored: int = 0) -> float:
    """Seconds of a loop that reads or writes bytes once: what comes from memory passes through the caches as well.

    Args:
        size: all bytes.
        target: the CPU.
        stored: those of them that are written, which the caches fetch first.
    """
    if size <= target.l3_bytes // 2:
        return _moving(size, target)
    return _moving(size + stored, target) + size / (_CACHE_BYTES_PER_S * target.threads)


def _without_vectors(reduced: TensorType, axes: Collection[int], threads: int) -> float:
    """Seconds that a reduction takes longer whose rows are short, or whose columns are narrow, or few and far apart."""
    wide = [(axis in axes, extent) for axis, extent in enumerate(reduced.shape) if extent != 1]
    last = max((place for place, (gone, _) in enumerate(wide) if gone), default=None)
    if last is None or not reduced.size:
        return 0.0
    together = math.prod(extent for gone, extent in wide if gone)
    lanes = math.prod(extent for _, extent in wide[last + 1 :])
    if lanes == 1:
        return reduced.size / together * _SHORT_ROW_S / threads if together < _SHORT_ROW else 0.0
    if lanes < _NARROW:
        return reduced.size * _NARROW_S / lanes
    apart = lanes * dtypes.itemsize(reduced.dtype)
    return reduced.size * _FAR_APART_S if together < _FEW_ROWS and apart >= _FAR_APART else 0.0


def _reduced_per_s(op: Op) -> float:
    if op.opcode not in ("reduce_sum", "reduce_prod"):
        return _REDUCE_ELEMENTS_PER_S
    return _ROUNDED_SUMS_PER_S.get(op.types[0].dtype, _REDUCE_ELEMENTS_PER_S)


def _seconds_per_element(region: Graph, op: Op) -> float:
    """Seconds of one thread for an element of an elementwise operation, beyond moving it."""
    dtype = op.types[0].dtype
    if op.opcode == "threefry":
        return 1 / _RANDOM_WORDS_PER_S
    if not dtypes.is_float(dtype):
        divides = op.opcode in ("div", "rem") and not _is_constant(region, op.operands[1])
        return 1 / _INTEGER_DIVISIONS_PER_S if divides else 0.0
    rounding = 1 / _ROUNDED_PER_S[dtype] if dtype in _ROUNDED_PER_S else 0.0
    rates = _MATH_64_PER_S if dtype == "float64" else _MATH_PER_S
    return rounding + (1 / rates[op.opcode] if op.opcode in rates else 0.0)


def _is_constant(region: Graph, value: int) -> bool:
    """Whether all elements are one known number."""
    op = region.producer(value)
    if op is not None and op.opcode == "broadcast_in_dim":
        return _is_constant(region, op.operands[0])
    return value in region.constants and region.types[value].size == 1


def _loops(region: Graph, target: Target, start: float) -> float:
    """Seconds of the elementwise parts and of moving: each run of them between heavier operations is one fused loop."""
    stored = _stored_values(region)
    seconds = 0.0
    for op in region.ops:
        if op.opcode not in (ELEMENTWISE - _FREE) | _MOVES:
            continue
        seconds += op.types[0].size * (_seconds_per_element(region, op) + _joining(region, op)) / target.threads
        if op.result in stored:
            written = _written(region, op)
            moved = _read(region, op, written, stored) + written
            seconds += start + _streaming(moved, target, written) * _slowdown(op)
    return seconds


def _stored_values(region: Graph) -> set[int]:
    """Results of fused loops: what is returned or read by a heavier operation, seen through views and casts."""
    outputs, stored, needed = set(region.outputs), set[int](), set[int]()
    for op in reversed(region.ops):
        if op.opcode not in _FUSED:
            needed.update(op.operands)
            continue
        returned = any(value in outputs for value in op.results)
        if not (returned or op.result in needed):
            continue
        if op.opcode in _FREE:
            (outputs if returned or op.result in outputs else needed).update(op.operands)
        elif op.opcode in ELEMENTWISE | _STORED or returned:
            stored.add(op.result)
        else:
            needed.update(op.operands)  # a product reads through it what it moves
    return stored


def _joining(region: Graph, op: Op) -> float:
    if op.opcode not in ("concatenate", "pad"):
        return 0.0
    if op.opcode == "pad":
        return _JOIN_S_PER_ELEMENT * max(len(region.users[op.result]), 1)
    last = op.params["dimension"] == op.type.rank - 1
    return _JOIN_LAST_S_PER_ELEMENT if last else _JOIN_S_PER_ELEMENT


def _written(region: Graph, op: Op) -> int:
    """Bytes of its result that a loop writes; what is updated is written in place where it may be."""
    return region.types[op.operands[1] if op.opcode == "dynamic_update_slice" else op.result].nbytes


def _read(region: Graph, op: Op, written: int, stored: Collection[int]) -> int:
    """Bytes that a fused loop reads: of arrays that are larger than its result a part as large as that."""
    found: set[int] = set()
    left = list(op.operands[1:] if op.opcode == "dynamic_update_slice" else op.operands)
    seen = set(left)
    while left:
        value = left.pop()
        producer = region.producer(value)
        if producer is None or producer.opcode not in _FUSED or value in stored:
            found.add(value)
            continue
        left += [v for v in producer.operands if v not in seen]
        seen.update(producer.operands)
    return sum(min(region.types[value].nbytes, written) for value in found)


def _slowdown(op: Op) -> float:
    """How many times as long moving takes as a copy."""
    if op.opcode != "transpose":
        return 1.0
    order = [axis for axis, extent in zip(op.params["permutation"], op.type.shape, strict=True) if extent != 1]
    return _TRANSPOSED if order and order[-1] != max(order) else 1.0
