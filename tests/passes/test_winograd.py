"""Convolutions by minimal filtering: the kernels' programs against JAX, and when there is no such formulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from jax import lax

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.interp import interpret
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.formulation import Formulation, Value
from tilewright.passes.manager import PassManager
from tilewright.passes.packing import pack_array
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import replay
from tilewright.passes.winograd import SIZES, winograd
from tilewright.search.predict import predicted_choice

HOST = detect_target()
TARGETS = {name: HOST.restricted(name) for name, bits in (("avx512", 512), ("avx2", 256)) if HOST.vector_bits >= bits}
PIXELS = ("NHWC", "HWIO", "NHWC")


def weights(*shape: int, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(len(shape)).standard_normal(shape) * scale).astype(np.float32)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def conv(x, w, padding="SAME", **options):
    options = {"window_strides": (1, 1), "dimension_numbers": PIXELS, **options}
    return lax.conv_general_dilated(x, w, padding=padding, **options)


def region_of(fn, *args: np.ndarray) -> Graph:
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def formulation_of(fn, *args: np.ndarray, results: int = 4) -> tuple[Graph, Formulation]:
    region = region_of(fn, *args)
    found = winograd(region, results)
    assert found is not None
    return region, found


def run_parts(region: Graph, found: Formulation, args, run) -> np.ndarray:
    """All kernels one after the other; ``run`` executes one."""
    known: dict[Value, np.ndarray] = dict(zip(region.inputs, args, strict=True))
    known |= {v: np.asarray(c.value) for v, c in region.constants.items()}
    known |= found.arrays()
    for part in found.parts:
        verify(part.func)
        *names, output = part.args
        known[output] = run(part.func, [known[name] for name in names])
    return known[region.outputs[0]]


def interpreted(func, arrays) -> np.ndarray:
    shaped = [a.reshape(b.shape) for a, b in zip(arrays, func.params, strict=False)]
    return interpret(func, shaped)[0]


def residual(x, w, b, r):
    return jax.nn.relu(conv(x, w) + b + r)


def swish(x, w, b, r):
    y = conv(x, w, ((0, 2), (3, 1))) * 2 + b
    return y * jax.nn.sigmoid(y)


CASES = [
    (lambda x, w, b, r: conv(x, w), (1, 8, 8, 16), 16),
    (residual, (2, 7, 9, 16), 16),
    (residual, (1, 5, 4, 32), 32),
    (swish, (1, 6, 11, 16), 48),
    (lambda x, w, b, r: conv(x, w, "VALID"), (1, 7, 6, 16), 16),
]


@pytest.mark.parametrize("results", SIZES)
@pytest.mark.parametrize(("fn", "shape", "features"), CASES)
@pytest.mark.parametrize("how", ["interpreted", *TARGETS])
def test_kernels_compute_the_convolution(fn, shape, features, results, how):
    def native(func, arrays):
        candidate = predicted_choice(func, TARGETS[how])
        assert candidate is not None
        scheduled = replay(func, candidate.trace)
        verify(scheduled)
        kernel = compile_kernel(scheduled, TARGETS[how])
        laid_out = [
            pack_array(a, b) if b.packing else np.ascontiguousarray(a).reshape(b.shape)
            for a, b in zip(arrays, kernel.params, strict=False)
        ]
        return run_native(kernel, laid_out, 3)[0]

    x, w, b = image(*shape), weights(3, 3, shape[-1], features), weights(features)
    r = image(*shape[:3], features)

    def closed(x, r):
        return fn(x, w, b, r)

    region, found = formulation_of(closed, x, r, results=results)
    args = [x, r][: len(region.inputs)]
    got = run_parts(region, found, args, interpreted if how == "interpreted" else native)
    want = np.asarray(closed(x, r))
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("results", SIZES)
def test_values_by_numpy_are_those_of_the_kernels(results):
    x, w = image(2, 7, 9, 16), weights(3, 3, 16, 16)
    region, found = formulation_of(lambda x: conv(x, w), x, results=results)
    (value,) = region.inputs
    values = found.values({value: x}, np.float64)
    for part in found.parts[:-1]:
        *names, output = part.args
        given = {**values, value: x, **found.arrays()}
        got = interpreted(part.func, [np.asarray(given[n], np.float32) for n in names])
        np.testing.assert_allclose(got.reshape(np.shape(values[output])), values[output], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values["middle"], conv(x, w), rtol=0, atol=1e-4)
    assert values["middle"].dtype == np.float64


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 2e15, -3e38])
def test_what_could_spread_or_overflow_makes_it_invalid(special):
    x, w = image(2, 5, 6, 16), weights(3, 3, 16, 16)
    _, found = formulation_of(lambda x: conv(x, w), x)
    first, second = found.parts[:2]
    assert not first.guarded and not second.guarded and all(p.guarded for p in found.parts[2:])
    x[0, 0, 0, 0] = -0.0
    assert interpreted(second.func, [interpreted(first.func, [x])])
    x[1, 4, 5, 15] = special
    assert not interpreted(second.func, [interpreted(first.func, [x])])


def test_refusals():
    x, w = image(1, 8, 8, 16), weights(3, 3, 16, 16)
    planes = ("NCHW", "OIHW", "NCHW")
    infinite = w.copy()
    infinite[0, 0, 0, 0] = np.inf
    refused = {
        "weights that are no constant": (lambda x, w: conv(x, w), x, w),
        "a stride": (lambda x: conv(x, w, window_strides=(2, 1)), x),
        "spread taps": (lambda x: conv(x, w, rhs_dilation=(1, 2)), x),
        "a dilated image": (lambda x: conv(x, w, ((1, 1), (1, 1)), lhs_dilation=(2, 2)), x),
        "groups": (lambda x: conv(x, w[:, :, :8], feature_group_count=2), x),
        "other windows": (lambda x: conv(x, weights(5, 5, 16, 16)), x),
        "few channels": (lambda x: conv(x, weights(3, 3, 5, 16)), image(1, 8, 8, 5)),
        "few features": (lambda x: conv(x, weights(3, 3, 16, 17)), x),
        "planes": (lambda x: conv(x, weights(16, 16, 3, 3), dimension_numbers=planes), image(1, 16, 8, 8)),
        "negative padding": (lambda x: conv(x, w, ((-1, 1), (1, 1))), x),
        "negative padding behind": (lambda x: conv(x, w, ((1, -1), (1, 1))), x),
        "infinite weights": (lambda x: conv(x, infinite), x),
        "weights that are NaN": (lambda x: conv(x, w * np.float32(np.nan)), x),
        "weights that overflow": (lambda x: conv(x, w * np.float32(1e20)), x),
        "fewer results than a tile has": (lambda x: conv(x, w), image(1, 3, 8, 16)),
        "rows too wide for a cache": (lambda x: conv(x, w), image(1, 4, 3000, 16)),
        "an empty image": (lambda x: conv(x, w, ((4, 4), (4, 4))), image(1, 0, 8, 16)),
        "nothing to compute": (lambda x: conv(x, w), image(0, 8, 8, 16)),
        "something else behind it": (lambda x: jnp.sum(conv(x, w), -1), x),
        "no convolution": (lambda x: x + 1, x),
    }
    for why, (fn, *args) in refused.items():
        assert winograd(region_of(fn, *args), 4) is None, why
