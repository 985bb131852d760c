"""Lowering: every operation and parameter that it takes, interpreted, against JAX; and what it refuses."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.interp import interpret
from tilewright.ir.loop import blocks
from tilewright.ir.verify import verify
from tilewright.passes.lower import LoweringError, Workload, lower

F = np.float32


def ints(*shape, dtype=F, seed=0):
    return np.random.default_rng((seed, *shape)).integers(-4, 5, shape).astype(dtype)


def check(fn, *args, tolerance: float = 0.0) -> Workload:
    """Lower, verify, interpret, and compare with JAX: equal, or within a relative tolerance."""
    graph = to_graph(jax.make_jaxpr(fn)(*args))
    work = lower(graph)
    verify(work.func)
    given = {**dict(zip(graph.inputs, args, strict=True)), **{v: c.value for v, c in graph.constants.items()}}
    values = (*work.inputs, *work.constants)
    arrays = [np.array(np.asarray(given[v]).reshape(b.shape)) for v, b in zip(values, work.func.inputs, strict=True)]
    found = dict(zip(work.outputs, interpret(work.func, arrays), strict=True))
    wanted = jax.tree.leaves(jax.jit(fn)(*args))
    for value, want in zip(graph.outputs, wanted, strict=True):
        got = found[value].reshape(want.shape)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return work


def refused(fn, *args, match: str) -> None:
    with pytest.raises(LoweringError, match=match):
        lower(to_graph(jax.make_jaxpr(fn)(*args)))


# ---- dot_general


@pytest.mark.parametrize(
    ("left", "right", "contract", "batch"),
    [
        ((3, 4), (4, 5), ((1,), (0,)), ((), ())),
        ((4, 3), (4, 5), ((0,), (0,)), ((), ())),
        ((3, 4), (5, 4), ((1,), (1,)), ((), ())),
        ((4, 3), (5, 4), ((0,), (1,)), ((), ())),
        ((2, 3, 4), (2, 4, 5), ((2,), (1,)), ((0,), (0,))),
        ((3, 2, 4), (4, 5, 2), ((2,), (0,)), ((1,), (2,))),
        ((2, 3, 4, 5), (3, 6, 2, 5), ((3,), (3,)), ((0, 1), (2, 0))),
        ((2, 3, 4, 5), (3, 6, 2, 5), ((3,), (3,)), ((1, 0), (0, 2))),
        ((2, 3, 4), (4, 3, 5), ((1, 2), (1, 0)), ((), ())),
        ((2, 3, 4), (4, 3, 5), ((2, 1), (0, 1)), ((), ())),
        ((4,), (4,), ((0,), (0,)), ((), ())),
        ((3,), (4,), ((), ()), ((), ())),
        ((2, 3), (2, 3), ((), ()), ((0, 1), (0, 1))),
        ((1, 4), (4, 1), ((1,), (0,)), ((), ())),
        ((3, 0), (0, 5), ((1,), (0,)), ((), ())),
        ((0, 3), (3, 5), ((1,), (0,)), ((), ())),
    ],
)
def test_dot_general(left, right, contract, batch):
    check(lambda x, y: lax.dot_general(x, y, (contract, batch)), ints(*left), ints(*right, seed=1))


def test_contractions_of_other_types_are_refused():
    refused(lambda x, y: x @ y, ints(3, 4, dtype=np.int32), ints(4, 3, dtype=np.int32), match="float32 contraction")
    refused(lambda x, y: x @ y, ints(3, 4, dtype=np.float16), ints(4, 3, dtype=np.float16), match="float32 contraction")


# ---- convolutions


@pytest.mark.parametrize(
    ("spec", "x", "w"),
    [
        (("NHWC", "HWIO", "NHWC"), (2, 5, 6, 3), (3, 2, 3, 4)),
        (("NCHW", "OIHW", "NCHW"), (2, 3, 5, 6), (4, 3, 3, 2)),
        (("NHWC", "OIHW", "NCHW"), (2, 5, 6, 3), (4, 3, 3, 2)),
        (("HWNC", "IHWO", "CHWN"), (5, 6, 2, 3), (3, 3, 2, 4)),
        (("NWC", "WIO", "NWC"), (2, 7, 3), (3, 3, 4)),
        (("NCW", "OIW", "NCW"), (1, 3, 7), (4, 3, 3)),
        (("NDHWC", "DHWIO", "NDHWC"), (1, 4, 3, 5, 2), (2, 2, 3, 2, 3)),
        (("NCDHW", "OIDHW", "NCDHW"), (1, 2, 4, 3, 5), (3, 2, 2, 2, 3)),
    ],
    ids=lambda v: "-".join(v) if isinstance(v[0], str) else "",
)
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_convolution_layouts(spec, x, w, padding):
    ones = (1,) * (len(x) - 2)
    check(
        lambda a, b: lax.conv_general_dilated(a, b, ones, padding, dimension_numbers=spec), ints(*x), ints(*w, seed=1)
    )


@pytest.mark.parametrize(
    ("strides", "padding", "dilation", "groups"),
    [
        ((2, 1), "SAME", (1, 1), 1),
        ((1, 3), ((0, 2), (3, 1)), (1, 1), 1),
        ((1, 1), "VALID", (2, 3), 1),
        ((2, 2), ((2, 2), (3, 3)), (2, 1), 2),
        ((1, 1), ((-1, 1), (1, -2)), (1, 1), 1),
        ((1, 1), "SAME", (1, 1), 4),
        ((3, 2), ((5, 5), (4, 4)), (1, 2), 4),
        ((1, 1), ((2, 0), (0, 0)), (1, 1), 2),
    ],
)
def test_convolution_parameters(strides, padding, dilation, groups):
    def fn(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    check(fn, ints(2, 7, 8, 4), ints(2, 3, 4 // groups, 8, seed=1))


def test_convolution_on_one_pixel():
    check(
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        ints(1, 1, 1, 3),
        ints(3, 3, 3, 2),
    )


TRANSPOSED = [
    (kernel, stride, padding)
    for kernel in (1, 2, 3, 4, 5)
    for stride in (2, 3)
    for padding in ("SAME", "VALID", ((0, 0), (2, 1)), ((4, 3), (0, 5)), ((1, 1), (-1, 1)))
]


@pytest.mark.parametrize(("kernel", "stride", "padding"), TRANSPOSED)
def test_transposed_convolutions(kernel, stride, padding):
    x = ints(2, 3, 4, 2)
    x[0, 1, 2, 0] = np.inf
    fn = functools.partial(
        lax.conv_transpose, strides=(stride, stride), padding=padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    check(fn, x, ints(kernel, kernel, 2, 3, seed=1))


@pytest.mark.parametrize("spec", [("NCW", "OIW", "NCW"), ("NWC", "WIO", "NWC")])
@pytest.mark.parametrize("size", [1, 4])
def test_transposed_convolutions_of_sequences(spec, size):
    sizes, weights = {"N": 2, "C": 2, "W": size}, {"O": 5, "I": 2, "W": 3}
    fn = functools.partial(lax.conv_transpose, strides=(2,), padding="SAME", dimension_numbers=spec)
    check(fn, ints(*(sizes[a] for a in spec[0])), ints(*(weights[a] for a in spec[1]), seed=1))


def test_a_convolution_that_dilates_one_axis_in_groups():
    def fn(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            (2, 1),
            ((1, 1), (2, 0)),
            lhs_dilation=(1, 3),
            rhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    check(fn, ints(1, 7, 4, 4), ints(3, 2, 2, 6, seed=1))


@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "HWNC")])
@pytest.mark.parametrize(("groups", "images"), [(2, 1), (3, 2), (6, 1)])
def test_convolutions_of_batch_groups(numbers, groups, images):
    sizes, weights = {"N": groups * images, "C": 2, "H": 4, "W": 5}, {"O": 6, "I": 2, "H": 3, "W": 2}

    def fn(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, batch_group_count=groups)

    check(fn, ints(*(sizes[a] for a in numbers[0])), ints(*(weights[a] for a in numbers[1]), seed=1))


def test_weight_gradients_of_grouped_convolutions():
    x, g = ints(3, 5, 6, 8), ints(3, 5, 6, 12, seed=1)

    def fn(x, g):
        def forward(w):
            numbers = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=4)

        return jax.vjp(forward, jnp.zeros((3, 3, 2, 12)))[1](g)[0]

    assert "batch_group_count=4" in str(jax.make_jaxpr(fn)(x, g))
    check(fn, x, g)


def test_irregular_convolutions_are_refused():
    x, w = ints(1, 4, 4, 2), ints(3, 3, 2, 2)
    numbers = ("NHWC", "HWIO", "NHWC")
    dilated = functools.partial(lax.conv_general_dilated, dimension_numbers=numbers, lhs_dilation=(2, 2))
    plain = ((0, 0), (0, 0))
    refused(lambda a, b: dilated(a, b, (2, 2), plain), x, w, match="input dilation")
    refused(lambda a, b: dilated(a, b, (1, 1), plain, rhs_dilation=(2, 2)), x, w, match="input dilation")


def test_a_padded_operand_that_is_computed_gets_memory_first():
    def fn(x, w):
        return lax.conv_general_dilated(x * 2 + 1, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    work = check(fn, ints(1, 4, 4, 2), ints(3, 3, 2, 2))
    assert sum(b.monoid is None for b in blocks(work.func.body)) == 3


# ---- reductions


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (2, 0), (1, 2, 0), ()])
@pytest.mark.parametrize("name", ["sum", "max", "min", "prod"])
def test_reductions(name, axes):
    x = np.sign(ints(3, 4, 5)) if name == "prod" else ints(3, 4, 5)
    check(lambda a: getattr(jnp, name)(a, axis=axes), x)
    check(lambda a: getattr(jnp, name)(a, axis=axes), x.astype(np.int32))


def test_reductions_of_special_values():
    x = np.array([[1, np.nan, 3], [np.inf, 2, -np.inf], [-np.inf, -np.inf, 1]], F)
    for fn in (jnp.sum, jnp.max, jnp.min, jnp.prod):
        check(lambda a, fn=fn: fn(a, axis=1), x)


def test_reductions_of_nothing():
    for shape, axis in (((0, 3), 0), ((3, 0), 1), ((0, 3), 1)):
        check(lambda a, axis=axis: a.sum(axis), ints(*shape))
        check(lambda a, axis=axis: a.prod(axis), ints(*shape))


def test_boolean_reductions():
    x = ints(4, 5) > 0
    check(lambda a: (a.any(0), a.all(1), a.any()), x)
    check(lambda a: (lax.reduce_and(a, (0,)), lax.reduce_or(a, (1,))), ints(4, 5, dtype=np.int32))


@pytest.mark.parametrize("kind", ["max", "min", "sum"])
@pytest.mark.parametrize(
    ("window", "strides", "padding", "dilation"),
    [
        ((1, 2, 3, 1), (1, 1, 1, 1), "VALID", (1, 1, 1, 1)),
        ((1, 3, 3, 1), (1, 2, 2, 1), "SAME", (1, 1, 1, 1)),
        ((1, 2, 2, 1), (1, 1, 3, 1), ((0, 0), (1, 2), (3, 0), (0, 0)), (1, 2, 1, 1)),
        ((2, 1, 2, 3), (1, 2, 1, 1), ((1, 0), (0, 0), (0, 0), (2, 2)), (1, 1, 2, 2)),
        ((1, 1, 1, 1), (2, 2, 1, 3), "VALID", (1, 1, 1, 1)),
    ],
)
def test_pooling(kind, window, strides, padding, dilation):
    start, op = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min), "sum": (0.0, lax.add)}[kind]
    check(lambda x: lax.reduce_window(x, start, op, window, strides, padding, None, dilation), ints(2, 5, 6, 4))


def test_pooling_of_one_pixel():
    padding = ((0, 0), (2, 2), (2, 2), (0, 0))
    check(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1,) * 4, padding), ints(1, 1, 1, 3))


def test_pooling_with_base_dilation_is_refused():
    refused(
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "VALID", (2, 1)), ints(4, 4), match="base dilation"
    )


# ---- views


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.reshape(12, 2) + 1,
        lambda x: x.reshape(2, 2, 6) + 1,
        lambda x: x.reshape(24) + 1,
        lambda x: x.reshape(1, 4, 1, 6) + 1,
        lambda x: x.reshape(3, 8).T + 1,
        lambda x: x.T + 1,
        lambda x: x[None].transpose(2, 0, 1) + 1,
        lambda x: jnp.broadcast_to(x[:, None, :], (4, 3, 6)) + 1,
        lambda x: lax.broadcast_in_dim(x[:, :1], (4, 5), (0, 1)) + 1,
        lambda x: x[::-1] + 1,
        lambda x: x[::-1, ::-1] + x,
        lambda x: x[1:3, 2:5] + 1,
        lambda x: lax.slice(x, (1, 0), (4, 6), (2, 3)) + 1,
        lambda x: lax.pad(x, 7.0, ((1, 2, 0), (0, 3, 0))) * 2,
        lambda x: lax.pad(x, 7.0, ((-1, 2, 0), (1, -2, 0))) * 2,
        lambda x: lax.pad(lax.pad(x, 7.0, ((1, 1, 0), (0, 0, 0))), 7.0, ((0, 0, 0), (2, 2, 0))) * 2,
        lambda x: lax.pad(x[::-1, 1:], 7.0, ((1, 0, 0), (0, 1, 0))).T.reshape(5, 6) * 2,
        lambda x: lax.pad(x[:1, :1], -jnp.inf, ((2, 2, 0), (3, 3, 0))) * 2,
        lambda x: jnp.squeeze(x[:1], 0) + 1,
        lambda x: lax.expand_dims(x, (0, 3)) + 1,
    ],
)
def test_views(fn):
    check(fn, ints(4, 6))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: lax.pad(x, 0.0, ((0, 0, 1),)) + 1,
        lambda x: lax.pad(x * 2, 0.0, ((1, 0, 0),)) + 1,
        lambda x: lax.pad(lax.pad(x, 0.0, ((1, 0, 0),)), 1.0, ((1, 0, 0),)) + 1,
        lambda x: lax.pad(x, x.sum(), ((1, 0, 0),)) + 1,
        lambda x: lax.pad(x, -0.0, ((-1, 3, 2),)),
    ],
)
def test_padding(fn):
    check(fn, ints(4))


# ---- elementwise

_X = np.array([-3.7, -2.5, -1.0, -0.5, 0.0, 0.4, 0.5, 1.5, 2.0, 7.25, np.inf, -np.inf, np.nan], F)
_Y = _X[::-1].copy()
_I = np.array([-(2**31), -7, -2, -1, 0, 1, 2, 5, 31, 2**31 - 1], np.int32)
_J = _I[::-1].copy()


@pytest.mark.parametrize(
    "fn",
    [lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.rem, lax.eq, lax.ne, lax.lt, lax.le, lax.gt, lax.ge],
    ids=lambda f: f.__name__,
)
def test_binary(fn):
    check(fn, _X, _Y)
    check(fn, _I, _J)


@pytest.mark.parametrize(
    "fn",
    [
        lax.neg,
        lax.abs,
        lax.sign,
        lax.floor,
        lax.ceil,
        lax.is_finite,
        lambda x: lax.integer_pow(x, 3),
        lambda x: lax.integer_pow(x, -2),
        lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
        lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
        lambda x: lax.clamp(F(-1), x, F(2)),
        lambda x: lax.clamp(x, x * 2, x + 1),
        lambda x: lax.select(x > 0, x, x * 2),
        lambda x: jnp.where(True, x, -x),
        lambda x: x.astype(jnp.int32),
        lambda x: x.astype(bool),
        lambda x: lax.square(x),
    ],
)
def test_unary_floats(fn):
    check(fn, _X, tolerance=1e-6)


@pytest.mark.parametrize(
    "fn", [lax.exp, lax.tanh, lax.log, lax.sqrt, lax.rsqrt, lax.logistic, lax.erf, lax.sin, lax.cos]
)
def test_transcendental_functions(fn):
    check(fn, _X[:-3], tolerance=3e-6)


@pytest.mark.parametrize(
    "fn",
    [
        lax.neg,
        lax.abs,
        lax.sign,
        lax.bitwise_not,
        lambda x: lax.integer_pow(x, 5),
        lambda x: lax.shift_left(x, x & 7),
        lambda x: lax.shift_right_logical(x, x & 7),
        lambda x: lax.shift_right_arithmetic(x, x & 7),
        lambda x: x.astype(jnp.float32),
        lambda x: x.astype(bool),
        lambda x: lax.clamp(jnp.int32(-2), x, jnp.int32(3)),
        lambda x: (x > 0).astype(jnp.int32) + (x > 0).astype(jnp.float32).astype(jnp.int32),
        lambda x: (x > 1) ^ (x < 5) | ~(x == 0),
    ],
)
def test_unary_integers_and_booleans(fn):
    check(fn, _I)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
@pytest.mark.parametrize("axis", [0, 1])
def test_iota(dtype, axis):
    check(lambda x: (lax.broadcasted_iota(dtype, (3, 4), axis) * 2 + 1).astype(jnp.float32) + x, ints(3, 4))
    check(lambda x: lax.broadcasted_iota(dtype, (3, 4), axis).reshape(2, 6).astype(jnp.float32) + x, ints(2, 6))


def test_scalars_and_constants():
    check(lambda x, y: x * y + 2, F(3), F(4))
    check(lambda x: x + jnp.arange(5, dtype=F) * jnp.float32(2), ints(5))
    check(lambda x: x + jnp.asarray([[3.0]]), ints(4, 5))


def test_doubling_often_stays_small():
    def fn(x):
        for _ in range(40):
            x = x + x
        return x

    check(fn, ints(3))
    check(fn, F(1))


def test_shared_costly_values_are_computed_once():
    work = check(lambda x: (lambda e: e * e + e)(jnp.exp(x)), _X[:5], tolerance=1e-6)
    assert len(list(blocks(work.func.body))) == 2


def test_several_and_repeated_outputs():
    work = check(lambda x, y: (x + y, x * y, x + y, (x + y).sum(0)), ints(3, 4), ints(3, 4, seed=1))
    assert work.func.num_outputs >= 3


# ---- refusals


def test_an_output_that_is_an_input_is_refused():
    refused(lambda x: (x, x + 1), ints(3), match="computed in the region")


def test_unknown_operations_and_types_are_refused():
    refused(lambda x: jnp.sort(x), ints(3), match="loops can express")
    refused(lambda x: x + 1, ints(3, dtype=np.complex64), match="element types")
    refused(lambda x: lax.reduce_precision(x, 8, 7), ints(3), match="reduced precision")
    cases = (ints(3), ints(3), ints(3))
    refused(lambda w, *c: lax.select_n(w, *c), ints(3, dtype=np.int32) % 3, *cases, match="boolean selection")


def test_long_chains_are_stored_in_between():
    def chain(x):
        for _ in range(400):
            x = jnp.minimum(x * F(1.0001) + F(0.1), F(5))
        return x

    work = check(chain, ints(4, 5), tolerance=1e-4)
    assert 8 <= len(list(blocks(work.func.body))) <= 20


def test_values_that_are_read_again_and_again_are_looked_at_once():
    def chain(x, rows):
        for _ in range(60):
            x = jnp.tanh(x) * x + x
        return x[:, None] + rows

    work = check(chain, ints(4) / F(8), ints(4, 5), tolerance=1e-5)
    assert len(list(blocks(work.func.body))) > 1
