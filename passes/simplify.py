"""Local rules that remove or shorten operations without changing a single bit of the result.

NaN and the sign of zero count: `x + 0.0` is not `x` (it turns -0.0 into 0.0) but `x + -0.0` and `x - 0.0` are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes
from ..ir.graph import Graph, Op, TensorType
from ..ir.infer import BINARY, COMPARE, UNARY
from .convolution import channels_last, whole_phases
from .fold_windows import window_of_constant
from .manager import Rewriter, RewriteRule, apply_rules
from .outer import product_without_sum
from .static_update import UPDATE, scatter_of_window, update_of_everything
from .transposes import (
    squeeze_before_transpose,
    transpose_of_product,
    unit_axes_before_transpose,
    window_before_transpose,
)
from .unit_axes import axes_through_product

_SPREADABLE = (BINARY - {"add_any", "igamma", "igammac", "polygamma", "zeta"}) | COMPARE
_UNIFORM_LIMIT = 4096  # larger constants are not searched for being the same number throughout


@dataclass(frozen=True, slots=True)
class Simplify:
    """Applies `RULES` until none fits."""

    name: str = "simplify"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        return apply_rules(graph, RULES)


def scalar(value: int, r: Rewriter) -> float | int | bool | None:
    """The number that a constant holds in every element (seen through broadcasts), or None."""
    op = r.producer(value)
    while op is not None and op.opcode in ("broadcast_in_dim", "reshape", "pvary"):
        value = op.operands[0]
        op = r.producer(value)
    array = r.graph.constant(value)
    if array is None or not 0 < array.size <= _UNIFORM_LIMIT:
        return None
    if not dtypes.is_known(array.dtype.name) or array.dtype.kind == "c":
        return None
    flat = array.reshape(-1).astype(np.float64 if dtypes.is_float(array.dtype.name) else array.dtype)
    uniform = np.all(flat == flat[0]) and (flat.dtype.kind != "f" or np.all(np.signbit(flat) == np.signbit(flat[0])))
    return flat[0].item() if uniform else None


def same_type(value: int, op: Op, r: Rewriter) -> bool:
    """Whether a value can stand for an operation's result."""
    type_ = r.graph.types[value]
    return type_.same_data(op.type) and type_.varying == op.type.varying


def _neutral(op: Op, r: Rewriter) -> int | None:
    """An operation with its neutral element is its other operand."""
    right, left = _NEUTRAL[op.opcode]
    floating = dtypes.is_float(op.type.dtype)
    for value, other, accepts in ((op.operands[0], op.operands[1], right), (op.operands[1], op.operands[0], left)):
        number = scalar(other, r) if accepts is not None and same_type(value, op, r) else None
        if number is not None and accepts is not None and accepts(number, floating):
            return value
    return None


def _stretched(op: Op, r: Rewriter) -> int | None:
    """A mask that is combined with a neutral one of a larger shape is only broadcast."""
    neutral = op.opcode == "and"
    for value, other in (op.operands, op.operands[::-1]):
        type_ = r.graph.types[value]
        alike = type_.dtype == op.type.dtype == dtypes.BOOL and type_.varying == op.type.varying
        if alike and type_.rank == op.type.rank and scalar(other, r) is neutral:
            axes = tuple(range(op.type.rank))
            return r.add1("broadcast_in_dim", value, shape=op.type.shape, broadcast_dimensions=axes)
    return None


def _is_one(number: float, floating: bool) -> bool:
    return number == 1


def _is_minus_zero(number: float, floating: bool) -> bool:
    return number == 0 and (not floating or bool(np.signbit(number)))


def _is_plus_zero(number: float, floating: bool) -> bool:
    return number == 0 and (not floating or not np.signbit(number))


def _is_true(number: float, floating: bool) -> bool:
    return number is True


def _is_false(number: float, floating: bool) -> bool:
    return number is False


def _is_lowest(number: float, floating: bool) -> bool:
    return floating and number == -np.inf


def _is_highest(number: float, floating: bool) -> bool:
    return floating and number == np.inf


_Accepts = Callable[[float, bool], bool] | None
# opcode -> what the right, and what the left operand must be for the other one to be the result
_NEUTRAL: dict[str, tuple[_Accepts, _Accepts]] = {
    "add": (_is_minus_zero, _is_minus_zero),
    "sub": (_is_plus_zero, None),
    "mul": (_is_one, _is_one),
    "div": (_is_one, None),
    "and": (_is_true, _is_true),
    "or": (_is_false, _is_false),
    "max": (_is_lowest, _is_lowest),
    "min": (_is_highest, _is_highest),
}


def _truth(op: Op, r: Rewriter) -> int | None:
    """A choice between false and true is its condition."""
    condition, *cases = op.operands
    chosen = [scalar(c, r) for c in cases]
    fits = len(cases) == 2 and chosen[0] is False and chosen[1] is True and same_type(condition, op, r)
    return condition if fits else None


def _of_truth(op: Op, r: Rewriter) -> int | None:
    """A truth value as a number differs from zero, or is larger, where it is true."""
    inner = r.producer(op.operands[0])
    fits = inner is not None and inner.opcode == "convert_element_type" and scalar(op.operands[1], r) == 0
    return inner.operands[0] if inner is not None and fits and same_type(inner.operands[0], op, r) else None


def _exact_division(op: Op, r: Rewriter) -> int | None:
    """Dividing by a power of two is multiplying by its inverse, which is faster."""
    value, divisor = op.operands
    array = r.graph.constant(divisor)
    if array is None or array.shape != () or op.type.dtype not in ("float32", "float64"):
        return None
    fraction, exponent = np.frexp(array)
    if abs(fraction) != 0.5 or not -100 < exponent < 100:
        return None
    inverse = r.builder.constant(np.asarray(1 / array, array.dtype), r.graph.types[divisor])
    return r.builder.add("mul", (value, inverse), {}, op.types)[0]


def _identity(op: Op, r: Rewriter) -> int | None:
    """Operations that only mark a value."""
    return op.operands[0] if same_type(op.operands[0], op, r) else None


def _no_change(op: Op, r: Rewriter) -> int | None:
    """Movements that leave everything where it is."""
    still = {
        "reshape": lambda: True,
        "squeeze": lambda: True,
        "broadcast_in_dim": lambda: True,
        "convert_element_type": lambda: True,
        "transpose": lambda: op.params["permutation"] == tuple(range(op.type.rank)),
        "rev": lambda: not op.params["dimensions"] or op.type.size <= 1,
        "slice": lambda: True,
        "pad": lambda: all(low == high == 0 for low, high, _ in op.params["padding_config"]),
        "concatenate": lambda: len(op.operands) == 1,
        "integer_pow": lambda: op.params["y"] == 1,
        **dict.fromkeys(("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"), lambda: not op.params["axes"]),
    }
    return op.operands[0] if same_type(op.operands[0], op, r) and still[op.opcode]() else None


def _window_of_constant(op: Op, r: Rewriter) -> int | None:
    """A sum over windows of one number counts what lies inside of them."""
    return window_of_constant(scalar(op.operands[0], r), op, r)


def _decided_selection(op: Op, r: Rewriter) -> int | None:
    """A selection between two cases by a known condition."""
    which = scalar(op.operands[0], r)
    if not isinstance(which, bool) or len(op.operands) != 3 or not same_type(op.operands[1 + which], op, r):
        return None
    return op.operands[1 + which]


def _double_negation(op: Op, r: Rewriter) -> int | None:
    inner = r.producer(op.operands[0])
    return inner.operands[0] if inner is not None and inner.opcode == op.opcode else None


def _there_and_back(op: Op, r: Rewriter) -> int | None:
    """A lossless conversion followed by its inverse."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "convert_element_type" or not same_type(inner.operands[0], op, r):
        return None
    return inner.operands[0] if (op.type.dtype, inner.type.dtype) in dtypes.LOSSLESS else None


def _convert_chain(op: Op, r: Rewriter) -> int | None:
    """The first of two conversions goes if it loses nothing and the second goes on in the same direction."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "convert_element_type":
        return None
    source = r.graph.types[inner.operands[0]].dtype
    if (source, inner.type.dtype) not in dtypes.LOSSLESS or (inner.type.dtype, op.type.dtype) not in dtypes.LOSSLESS:
        return None
    return r.add1("convert_element_type", inner.operands[0], **op.params)


def _reshape_of_reshape(op: Op, r: Rewriter) -> int | None:
    """Only the last one counts; a broadcast that only inserts axes of size 1 is one as well."""
    inner = r.producer(op.operands[0])
    if inner is None or op.opcode == inner.opcode == "squeeze":
        return None
    source = r.graph.types[inner.operands[0]]
    inserts = inner.opcode == "broadcast_in_dim" and inner.type.size == source.size > 0
    inserts = inserts and (op.opcode == "reshape" or op.type.shape == source.shape)
    if inner.opcode not in ("reshape", "squeeze") and not inserts:
        return None
    return r.add1("reshape", inner.operands[0], new_sizes=op.type.shape)


def _squeeze_of_squeeze(op: Op, r: Rewriter) -> int | None:
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "squeeze":
        return None
    gone = inner.params["dimensions"]
    left = [axis for axis in range(r.graph.types[inner.operands[0]].rank) if axis not in gone]
    axes = (*gone, *(left[axis] for axis in op.params["dimensions"]))
    return r.add1("squeeze", inner.operands[0], dimensions=tuple(sorted(axes)))


def _transpose_of_transpose(op: Op, r: Rewriter) -> int | None:
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "transpose":
        return None
    order = tuple(inner.params["permutation"][axis] for axis in op.params["permutation"])
    return r.add1("transpose", inner.operands[0], permutation=order)


def _broadcast_of_broadcast(op: Op, r: Rewriter) -> int | None:
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "broadcast_in_dim":
        return None
    axes = tuple(op.params["broadcast_dimensions"][axis] for axis in inner.params["broadcast_dimensions"])
    return r.add1("broadcast_in_dim", inner.operands[0], shape=op.type.shape, broadcast_dimensions=axes)


def _broadcast_of_unit_axes(op: Op, r: Rewriter) -> int | None:
    """A broadcast of a reshape that only inserted axes of size 1 broadcasts the original."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "reshape":
        return None
    kept = inserted_axes(r.graph.types[inner.operands[0]], inner.type)
    if kept is None:
        return None
    axes = tuple(op.params["broadcast_dimensions"][axis] for axis in kept)
    return r.add1("broadcast_in_dim", inner.operands[0], shape=op.type.shape, broadcast_dimensions=axes)


def inserted_axes(before: TensorType, after: TensorType) -> tuple[int, ...] | None:
    """Where each axis of `before` is in `after`, if `after` only has more axes of size 1; else None."""
    places: list[int] = []
    axis = 0
    for size in before.shape:
        while axis < after.rank and after.shape[axis] != size:
            if after.shape[axis] != 1:
                return None
            axis += 1
        if axis == after.rank:
            return None
        places.append(axis)
        axis += 1
    return tuple(places) if all(size == 1 for size in after.shape[axis:]) else None


def _slice_of_slice(op: Op, r: Rewriter) -> int | None:
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "slice":
        return None
    unit = (1,) * op.type.rank
    steps, inner_steps = op.params.get("strides") or unit, inner.params.get("strides") or unit
    offsets, limits = op.params["start_indices"], op.params["limit_indices"]
    bases, ends = inner.params["start_indices"], inner.params["limit_indices"]
    starts = tuple(base + a * s for base, a, s in zip(bases, offsets, inner_steps, strict=True))
    stops = tuple(
        min(end, base + (b - 1) * s + 1) if b > a else base + a * s
        for base, end, a, b, s in zip(bases, ends, offsets, limits, inner_steps, strict=True)
    )
    strides = tuple(s * t for s, t in zip(steps, inner_steps, strict=True))
    return r.add1("slice", inner.operands[0], start_indices=starts, limit_indices=stops, strides=strides)


def _pad_into_convolution(op: Op, r: Rewriter) -> int | None:
    """Zeros around an image are padding of the convolution that reads it."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "pad" or scalar(inner.operands[1], r) != 0:
        return None
    config, layout = inner.params["padding_config"], op.params["dimension_numbers"][0]
    plain = all(low >= 0 and high >= 0 and step == 0 for low, high, step in config)
    if not plain or any(config[axis] != (0, 0, 0) for axis in layout[:2]) or set(op.params["lhs_dilation"]) - {1}:
        return None
    padding = tuple(
        (low + config[axis][0], high + config[axis][1])
        for axis, (low, high) in zip(layout[2:], op.params["padding"], strict=True)
    )
    operands = (inner.operands[0], op.operands[1])
    return r.builder.add(op.opcode, operands, {**op.params, "padding": padding}, op.types)[0]


def _scalar_operand(op: Op, r: Rewriter) -> int | None:
    """An elementwise operation takes a scalar as it is: the broadcast that spread it goes."""
    for index in (0, 1):
        inner, other = r.producer(op.operands[index]), op.operands[1 - index]
        if inner is None or inner.opcode != "broadcast_in_dim" or r.graph.types[other].shape != op.type.shape:
            continue
        source = inner.operands[0]
        if r.graph.types[source].shape != () or op.type.shape == ():
            continue
        operands = (source, other) if index == 0 else (other, source)
        return r.builder.add(op.opcode, operands, op.params, op.types)[0]
    return None


def _constant_operand(op: Op, r: Rewriter) -> int | None:
    """An elementwise operation stretches axes of size 1: a constant need not be broadcast before it."""
    for index in (0, 1):
        inner, other = r.producer(op.operands[index]), op.operands[1 - index]
        if inner is None or inner.opcode != "broadcast_in_dim" or r.graph.types[other].shape != op.type.shape:
            continue
        source = inner.operands[0]
        shape = [1] * op.type.rank
        for axis, size in zip(inner.params["broadcast_dimensions"], r.graph.types[source].shape, strict=True):
            shape[axis] = size
        if source not in r.graph.constants or tuple(shape) == inner.type.shape:
            continue
        small = r.add1(
            "broadcast_in_dim",
            source,
            shape=tuple(shape),
            **{"broadcast_dimensions": inner.params["broadcast_dimensions"]},
        )
        operands = (small, other) if index == 0 else (other, small)
        return r.builder.add(op.opcode, operands, op.params, op.types)[0]
    return None


def _spread_late(op: Op, r: Rewriter) -> int | None:
    """An elementwise operation on broadcast scalars is computed once, then broadcast."""
    sources: list[int] = []
    for value in op.operands:
        inner = r.producer(value)
        if r.graph.types[value].shape == ():
            sources.append(value)
        elif inner is not None and inner.opcode == "broadcast_in_dim" and r.graph.types[inner.operands[0]].shape == ():
            sources.append(inner.operands[0])
        else:
            return None
    if op.type.shape == ():
        return None
    result = r.builder.add(op.opcode, sources, op.params, [op.type.with_shape(())])[0]
    return r.add1("broadcast_in_dim", result, shape=op.type.shape, broadcast_dimensions=())


def _rule(rewrite: Callable[[Op, Rewriter], int | None], *opcodes: str) -> RewriteRule:
    return RewriteRule(rewrite.__name__.strip("_").replace("_", "-"), frozenset(opcodes), rewrite)


RULES: tuple[RewriteRule, ...] = (
    _rule(_identity, "stop_gradient", "name", "copy"),
    _rule(
        _no_change,
        *("reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "transpose", "rev", "slice", "pad"),
        *("concatenate", "integer_pow", "reduce_sum", "reduce_prod", "reduce_max", "reduce_min"),
    ),
    _rule(_neutral, *_NEUTRAL),
    _rule(_decided_selection, "select_n"),
    _rule(_double_negation, "neg", "not"),
    _rule(_stretched, "and", "or"),
    _rule(_truth, "select_n"),
    _rule(_of_truth, "ne", "gt"),
    _rule(_exact_division, "div"),
    _rule(_there_and_back, "convert_element_type"),
    _rule(_convert_chain, "convert_element_type"),
    _rule(_squeeze_of_squeeze, "squeeze"),
    _rule(_reshape_of_reshape, "reshape", "squeeze"),
    _rule(_transpose_of_transpose, "transpose"),
    _rule(_broadcast_of_broadcast, "broadcast_in_dim"),
    _rule(_broadcast_of_unit_axes, "broadcast_in_dim"),
    _rule(axes_through_product, "broadcast_in_dim"),
    _rule(unit_axes_before_transpose, "broadcast_in_dim"),
    _rule(window_before_transpose, "reduce_window_max", "reduce_window_min", "reduce_window_sum"),
    _rule(squeeze_before_transpose, "squeeze"),
    _rule(transpose_of_product, "transpose"),
    _rule(product_without_sum, "dot_general"),
    _rule(_window_of_constant, "reduce_window_sum"),
    _rule(_slice_of_slice, "slice"),
    _rule(scatter_of_window, "scatter"),
    _rule(update_of_everything, UPDATE),
    _rule(_pad_into_convolution, "conv_general_dilated"),
    _rule(whole_phases, "conv_general_dilated"),
    _rule(channels_last, "conv_general_dilated"),
    _rule(_scalar_operand, *_SPREADABLE),
    _rule(_constant_operand, *_SPREADABLE),
    _rule(_spread_late, *_SPREADABLE, *UNARY),
)
"""The rules, in the order in which they are tried."""
