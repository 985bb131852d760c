"""An estimate of what XLA's CPU backend takes for a region, for the decision whether our code is worth shipping.

At effort 0 nothing is timed: a kernel ships only where it is predicted to be clearly faster than XLA. The constants
are measured with `bench/calibrate_xla.py` (jaxlib 0.10, AVX-512, 2 threads; see there how). Estimates are typically
within a factor of 1.5 (depthwise convolutions, reductions, dense convolutions) to 1.8 (small products and elementwise
loops); the one that is far off, a first convolution of 3 channels with a 3x3 kernel, errs on the side of XLA.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..ir.graph import Graph, Op
from ..ir.infer import ELEMENTWISE
from ..ir.target import Target

SHIP_RATIO = 1.15
"""How many times faster than XLA a kernel must be predicted to be to ship without measuring."""

_KERNEL_S = 5e-6
"""Starting one of XLA's kernels and handing it to the threads."""
_KERNEL_IN_LOOP_S = 0.2e-6
"""The same for a product or reduction in the body of a loop: small ones run where they are started."""
_RUN_IN_LOOP_S = 0.015e-6
"""The same for elementwise work, which XLA compiles into the loop."""
_UPDATE_S_PER_ELEMENT = 0.4e-9
"""Writing a window into an array: one thread does it, without vectors."""
_DOT_SHARE = 0.9
_DOT_EXTRA_FLOPS = 6e6
_CONV_S = 30e-6
_CONV_S_PER_PATCH_ELEMENT = 0.6e-9
"""Copying the input into a matrix of patches, per element of that matrix and thread."""
_CONV_S_PER_WEIGHT = 0.5e-9
_DEPTHWISE_S_PER_MAC = 2.0e-9
_CACHE_BYTES_PER_S = 40e9
_REDUCE_ELEMENTS_PER_S = 6e9
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
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split())
_WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min".split())
_FREE = frozenset("reshape squeeze broadcast_in_dim copy stop_gradient name convert_element_type iota".split())


def predict_xla(region: Graph, target: Target) -> float:
    """Seconds that XLA takes for a region, its results in memory that was touched before.

    Args:
        region: a graph of transparent operations.
        target: the CPU.
    """
    return sum(_heavy(region, op, target, _KERNEL_S) for op in region.ops) + _loops(region, target, _KERNEL_S)


def predict_xla_loop(body: Graph, target: Target) -> float:
    """Seconds that XLA takes for an iteration of a loop.

    Args:
        body: a graph of transparent operations.
        target: the CPU.
    """
    heavy = sum(_heavy(body, op, target, _KERNEL_IN_LOOP_S) for op in body.ops)
    return heavy + _loops(body, target, _RUN_IN_LOOP_S)


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
        return 2 * op.types[0].size * kernel.size // max(out_features, 1)
    return 0


def _feature_axis(op: Op) -> int:
    return int(op.params["dimension_numbers"][2][1])


def _heavy(region: Graph, op: Op, target: Target, start: float) -> float:
    """Seconds of an operation that XLA runs as a kernel of its own."""
    threads = target.threads
    peak = target.fma_gflops_per_thread * 1e9 * threads
    if op.opcode == "dot_general":
        moved = sum(region.types[v].nbytes for v in op.operands)
        flops = _flops(region, op)
        rate = (flops + min(_DOT_EXTRA_FLOPS, 2 * flops)) / (peak * _DOT_SHARE)
        return start + max(rate, _moving(moved, target))
    if op.opcode == "conv_general_dilated":
        return _convolution(region, op, peak, threads)
    elements = region.types[op.operands[0]].size if op.operands else 0
    if op.opcode in _REDUCTIONS:
        moved = region.types[op.operands[0]].nbytes
        return start + max(elements / (_REDUCE_ELEMENTS_PER_S * threads), _moving(moved, target))
    if op.opcode in _WINDOWS:
        window = math.prod(op.params["window_dimensions"])
        return start + op.types[0].size * window / (_WINDOW_ELEMENTS_PER_S * threads)
    if op.opcode == "dynamic_update_slice":
        return start + region.types[op.operands[1]].size * _UPDATE_S_PER_ELEMENT
    return 0.0


def _convolution(region: Graph, op: Op, peak: float, threads: int) -> float:
    """Patches are copied into a matrix, weights are packed, then a product at peak; grouped ones are plain loops."""
    flops = _flops(region, op)
    if op.params["feature_group_count"] > 1:
        return _KERNEL_S + flops / 2 * _DEPTHWISE_S_PER_MAC
    weights = region.types[op.operands[1]].size
    patches = flops / 2 / max(op.types[0].shape[_feature_axis(op)], 1)
    copying = patches * _CONV_S_PER_PATCH_ELEMENT / threads + weights * _CONV_S_PER_WEIGHT
    return _CONV_S + flops / peak + copying


def _moving(size: int, target: Target) -> float:
    """Seconds to stream bytes, from the caches or from memory."""
    cached = size <= target.l3_bytes // 2
    return size / (_CACHE_BYTES_PER_S * target.threads if cached else target.bandwidth_gbs * 1e9)


def _loops(region: Graph, target: Target, start: float) -> float:
    """Seconds of the elementwise parts: each run of them between heavier operations is one fused loop."""
    outputs = set(region.outputs)
    seconds = 0.0
    for op in region.ops:
        if op.opcode not in ELEMENTWISE or op.opcode in _FREE:
            continue
        if op.opcode in _MATH_PER_S:
            seconds += op.types[0].size / (_MATH_PER_S[op.opcode] * target.threads)
        users = [region.ops[i] for i in region.users.get(op.result, ())]
        if op.result in outputs or any(u.opcode not in ELEMENTWISE | _FREE for u in users):
            seconds += start + _moving(2 * region.types[op.result].nbytes, target)
    return seconds
