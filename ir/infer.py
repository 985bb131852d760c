"""Result types of the operations that passes build: shape rules without JAX.

`infer` knows the opcodes of the table at the end; for others it answers None and the caller states the types. The
rules are also what the verifier checks declared types against. Weak types and mesh axes follow the operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from . import dtypes
from .graph import GraphError, Param, TensorType

Types = Sequence[TensorType]
Params = Mapping[str, Param]

UNARY = frozenset(
    """
    abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil clz copy cos cosh digamma erf erf_inv erfc exp
    exp2 expm1 floor integer_pow lgamma log log1p logistic neg not population_count reduce_precision round rsqrt sign
    sin sinh sqrt square stop_gradient tan tanh
    """.split()
)
"""Elementwise operations of one operand that keep its type (`abs` of a complex number is real)."""

BINARY = frozenset(
    """
    add add_any and atan2 div igamma igammac max min mul nextafter or polygamma rem shift_left shift_right_arithmetic
    shift_right_logical sub xor zeta
    """.split()
)
"""Elementwise operations of two operands of one element type that keep it.

As in JAX, axes of size 1 stretch and either operand may be a scalar beside a tensor.

`pow` allows integer exponents and is apart.
"""

COMPARE = frozenset("eq ne lt le gt ge".split())
"""Elementwise comparisons: `bool` results."""

REDUCE = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor".split())
"""Reductions over the axes in `axes`."""

CUMULATIVE = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
"""Prefix reductions along `axis`."""

_OTHERS = frozenset("pow is_finite select_n clamp convert_element_type bitcast_convert_type threefry".split())
ELEMENTWISE = UNARY | BINARY | COMPARE | _OTHERS
"""Operations whose result element depends on the operands' elements at the same place (scalars apart)."""


def infer(opcode: str, operands: Types, params: Params) -> tuple[TensorType, ...] | None:
    """Types of an operation's results.

    Args:
        opcode: Name of the primitive.
        operands: Types of what it reads.
        params: Canonical parameters.

    Returns:
        One type per result, or None if there is no rule for the opcode.

    Raises:
        GraphError: the operands or parameters break the operation's rules.
    """
    rule = _RULES.get(opcode)
    if rule is None:
        return None
    result = rule(operands, params)
    return (result,) if isinstance(result, TensorType) else result


def conv_output_spatial(
    lhs: Sequence[int],
    rhs: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
) -> tuple[int, ...]:
    """Spatial sizes of a convolution's result, one entry per spatial axis."""
    sizes = []
    for n, k, stride, (low, high), grow, spread in zip(
        lhs, rhs, strides, padding, lhs_dilation, rhs_dilation, strict=True
    ):
        sizes.append(_windows(_dilated(n, grow) + low + high, _dilated(k, spread), stride))
    return tuple(sizes)


def _dilated(size: int, dilation: int) -> int:
    return 0 if size == 0 else 1 + dilation * (size - 1)


def _windows(size: int, window: int, stride: int) -> int:
    return 0 if size < window else (size - window) // stride + 1


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise GraphError(message)


def _count(operands: Types, count: int) -> None:
    _expect(len(operands) == count, f"expected {count} operands, found {len(operands)}")


def _joined(operands: Types) -> tuple[str, ...]:
    return tuple(sorted({axis for type_ in operands for axis in type_.varying}))


def _make(operands: Types, shape: Sequence[int], dtype: str | None = None, weak_type: bool | None = None) -> TensorType:
    weak = all(type_.weak_type for type_ in operands) if weak_type is None else weak_type
    return TensorType(tuple(shape), dtype or operands[0].dtype, weak, _joined(operands))


def _same_shape(operands: Types) -> None:
    first = operands[0]
    for other in operands[1:]:
        _expect(first.shape == other.shape, f"shapes differ: {first} and {other}")
        _expect(first.dtype == other.dtype, f"element types differ: {first} and {other}")


def _paired(operands: Types, dtypes_too: bool = True) -> tuple[int, ...]:
    """The result's shape of an operation on two operands: axes of size 1 stretch, and one operand may be a scalar."""
    _count(operands, 2)
    a, b = operands
    _expect(not dtypes_too or a.dtype == b.dtype, f"element types differ: {a} and {b}")
    if () in (a.shape, b.shape):
        return a.shape or b.shape
    fits = a.rank == b.rank and all(m == n or 1 in (m, n) for m, n in zip(a.shape, b.shape, strict=True))
    _expect(fits, f"shapes differ: {a} and {b}")
    return tuple(n if m == 1 else m for m, n in zip(a.shape, b.shape, strict=True))


def _unary(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    return operands[0]


def _abs(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    real = {"complex64": "float32", "complex128": "float64"}
    return _make(operands, operands[0].shape, real.get(operands[0].dtype))


def _binary(operands: Types, params: Params) -> TensorType:
    return _make(operands, _paired(operands), params.get("out_dtype"))


def _pow(operands: Types, params: Params) -> TensorType:
    return _make(operands, _paired(operands, dtypes_too=False))


def _compare(operands: Types, params: Params) -> TensorType:
    return _make(operands, _paired(operands), "bool", weak_type=False)


def _is_finite(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    return _make(operands, operands[0].shape, "bool", weak_type=False)


def _select_n(operands: Types, params: Params) -> TensorType:
    _expect(len(operands) >= 2, f"expected a selector and cases, found {len(operands)} operands")
    which, *cases = operands
    _same_shape(cases)
    _expect(which.shape in ((), cases[0].shape), f"selector {which} does not fit {cases[0]}")
    result = _make(cases, cases[0].shape)
    return TensorType(result.shape, result.dtype, result.weak_type, _joined(operands))


def _clamp(operands: Types, params: Params) -> TensorType:
    _count(operands, 3)
    low, x, high = operands
    for bound in (low, high):
        _expect(bound.shape in ((), x.shape) and bound.dtype == x.dtype, f"bound {bound} does not fit {x}")
    return TensorType(x.shape, x.dtype, all(t.weak_type for t in operands), _joined(operands))


def _convert(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    return _make(operands, operands[0].shape, params["new_dtype"], bool(params.get("weak_type", False)))


def _bitcast(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    old, new = operands[0].dtype, params["new_dtype"]
    sizes = [dtypes.itemsize(d) if dtypes.is_known(d) and d != dtypes.BOOL else None for d in (old, new)]
    _expect(None not in sizes and sizes[0] == sizes[1], f"expected numbers of one size, found {old} and {new}")
    return _make(operands, operands[0].shape, new, False)


def _threefry(operands: Types, params: Params) -> TensorType:
    _count(operands, 3)
    counter = operands[2]
    for type_ in operands:
        _expect(type_.dtype == "uint32" and type_.shape in ((), counter.shape), f"{type_} does not fit {counter}")
    return _make(operands, counter.shape, weak_type=False)


def _reshape(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    new = params["new_sizes"]
    _expect(math.prod(new) == operands[0].size, f"{operands[0]} has not as many elements as {list(new)}")
    return _make(operands, new)


def _squeeze(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    shape, axes = operands[0].shape, params["dimensions"]
    _expect(all(shape[axis] == 1 for axis in axes), f"axes {list(axes)} of {operands[0]} are not all of size 1")
    return _make(operands, [size for axis, size in enumerate(shape) if axis not in axes])


def _transpose(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    order = params["permutation"]
    _expect(sorted(order) == list(range(operands[0].rank)), f"{list(order)} does not permute {operands[0]}")
    return _make(operands, [operands[0].shape[axis] for axis in order])


def _rev(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    _expect(all(0 <= axis < operands[0].rank for axis in params["dimensions"]), "no such axis")
    return operands[0]


def _broadcast_in_dim(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    shape, axes = params["shape"], params["broadcast_dimensions"]
    source = operands[0].shape
    _expect(len(axes) == len(source), f"{list(axes)} does not name the axes of {operands[0]}")
    _expect(list(axes) == sorted(set(axes)), f"axes {list(axes)} are not ascending")
    fits = all(0 <= axis < len(shape) and size in (1, shape[axis]) for axis, size in zip(axes, source, strict=True))
    _expect(fits, f"{operands[0]} does not broadcast along {list(axes)} to {list(shape)}")
    return _make(operands, shape)


def _iota(operands: Types, params: Params) -> TensorType:
    _count(operands, 0)
    return TensorType(tuple(params["shape"]), params["dtype"])


def _reduce(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    axes = params["axes"]
    _expect(all(0 <= axis < operands[0].rank for axis in axes), f"{operands[0]} has not all axes of {list(axes)}")
    return _make(operands, [size for axis, size in enumerate(operands[0].shape) if axis not in axes])


def _arg_reduce(operands: Types, params: Params) -> TensorType:
    return _reduce(operands, params).with_dtype(params["index_dtype"])


def _cumulative(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    _expect(0 <= params["axis"] < operands[0].rank, f"{operands[0]} has no axis {params['axis']}")
    return operands[0]


def _concatenate(operands: Types, params: Params) -> TensorType:
    axis, first = params["dimension"], operands[0]
    for other in operands:
        rest = all(a == b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != axis)
        _expect(rest and first.dtype == other.dtype, f"{first} and {other} can't be joined along axis {axis}")
    shape = list(first.shape)
    shape[axis] = sum(type_.shape[axis] for type_ in operands)
    return _make(operands, shape)


def _slice(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params.get("strides") or (1,) * len(starts)
    shape = operands[0].shape
    inside = all(0 <= a <= b <= n and s > 0 for a, b, n, s in zip(starts, limits, shape, strides, strict=True))
    _expect(inside, f"slice {list(starts)}:{list(limits)}:{list(strides)} is outside {operands[0]}")
    return _make(operands, [-(-(b - a) // s) for a, b, s in zip(starts, limits, strides, strict=True)])


def _pad(operands: Types, params: Params) -> TensorType:
    _count(operands, 2)
    x, value = operands
    _expect(value.shape == () and value.dtype == x.dtype, f"padding value {value} does not fit {x}")
    config = zip(x.shape, params["padding_config"], strict=True)
    shape = [max(0, low + high + n + inner * max(n - 1, 0)) for n, (low, high, inner) in config]
    return _make(operands, shape)


def _dynamic_slice(operands: Types, params: Params) -> TensorType:
    x, *starts = operands
    sizes = params["slice_sizes"]
    _expect(len(starts) == x.rank == len(sizes), f"expected {x.rank} start indices, found {len(starts)}")
    _expect(all(0 <= size <= n for size, n in zip(sizes, x.shape, strict=True)), f"{list(sizes)} is larger than {x}")
    return TensorType(tuple(sizes), x.dtype, x.weak_type, _joined(operands))


def _dynamic_update_slice(operands: Types, params: Params) -> TensorType:
    x, update, *starts = operands
    _expect(len(starts) == x.rank == update.rank, f"expected {x.rank} start indices, found {len(starts)}")
    return TensorType(x.shape, x.dtype, x.weak_type and update.weak_type, _joined(operands))


def _scatter(operands: Types, params: Params) -> TensorType:
    _count(operands, 3)
    x, _, updates = operands
    _expect(x.dtype == updates.dtype, f"element types differ: {x} and {updates}")
    return TensorType(x.shape, x.dtype, x.weak_type and updates.weak_type, _joined(operands))


def _dot_general(operands: Types, params: Params) -> TensorType:
    _count(operands, 2)
    lhs, rhs = operands
    (contract_l, contract_r), (batch_l, batch_r) = params["dimension_numbers"]
    for a, b in [*zip(contract_l, contract_r, strict=True), *zip(batch_l, batch_r, strict=True)]:
        _expect(lhs.shape[a] == rhs.shape[b], f"axis {a} of {lhs} and axis {b} of {rhs} differ")
    shape = [lhs.shape[axis] for axis in batch_l]
    shape += [n for axis, n in enumerate(lhs.shape) if axis not in (*contract_l, *batch_l)]
    shape += [n for axis, n in enumerate(rhs.shape) if axis not in (*contract_r, *batch_r)]
    return _make(operands, shape, params.get("preferred_element_type"))


def _conv(operands: Types, params: Params) -> TensorType:
    _count(operands, 2)
    lhs, rhs = operands
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    groups, batch_groups = params["feature_group_count"], params["batch_group_count"]
    features_in, per_group = lhs.shape[lhs_spec[1]], rhs.shape[rhs_spec[1]]
    _expect(features_in == per_group * groups, f"{lhs} and {rhs} differ in input features ({groups} groups)")
    spatial = conv_output_spatial(
        [lhs.shape[axis] for axis in lhs_spec[2:]],
        [rhs.shape[axis] for axis in rhs_spec[2:]],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    shape = [0] * lhs.rank
    logical = (lhs.shape[lhs_spec[0]] // batch_groups, rhs.shape[rhs_spec[0]], *spatial)
    for axis, size in zip(out_spec, logical, strict=True):
        shape[axis] = size
    return _make(operands, shape, params.get("preferred_element_type"))


def _reduce_window(operands: Types, params: Params) -> TensorType:
    _count(operands, 1)
    x = operands[0]
    keys = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    window, strides, padding, grow, spread = (params[key] for key in keys)
    return _make(operands, conv_output_spatial(x.shape, window, strides, padding, grow, spread))


_RULES: dict[str, Callable[[Types, Params], TensorType | tuple[TensorType, ...]]] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(COMPARE, _compare),
    **dict.fromkeys(REDUCE, _reduce),
    **dict.fromkeys(CUMULATIVE, _cumulative),
    **dict.fromkeys(("argmax", "argmin"), _arg_reduce),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _reduce_window),
    "abs": _abs,
    "pow": _pow,
    "is_finite": _is_finite,
    "select_n": _select_n,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
    "threefry": _threefry,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "rev": _rev,
    "broadcast_in_dim": _broadcast_in_dim,
    "iota": _iota,
    "concatenate": _concatenate,
    "slice": _slice,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "scatter": _scatter,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
}
