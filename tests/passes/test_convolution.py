"""Rewrites of transposed convolutions: whole phases, channels last."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

SPECS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NCHW", "OIHW", "NHWC"), ("HWNC", "HWIO", "CNHW")]


def rewritten(fn, *args) -> Graph:
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def arguments(spec, size=(3, 4), kernel=3):
    rng = np.random.default_rng(0)
    image = {"N": 2, "C": 3, "H": size[0], "W": size[1]}
    weights = {"I": 3, "O": 5, "H": kernel, "W": kernel}
    shapes = [image[a] for a in spec[0]], [weights[a] for a in spec[1]]
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (0, 4)])
def test_transposed_convolutions_keep_their_meaning(spec, padding, size):
    def fn(x, w):
        return lax.conv_transpose(x, w, (2, 3), padding, dimension_numbers=spec)

    args = arguments(spec, size)
    graph = rewritten(fn, *args)
    (found,) = jaxpr_as_fun(emit(graph))(*args)
    np.testing.assert_array_equal(found, fn(*args))
    (conv,) = [op for op in graph.ops if op.opcode == "conv_general_dilated"]
    out = conv.params["dimension_numbers"][2]
    assert out[1] == 3 or spec[2][-1] == "C"
    assert [conv.type.shape[a] % n for a, n in zip(out[2:], (2, 3), strict=True)] == [0, 0]


def test_other_convolutions_are_left_alone():
    def plain(x, w):
        return lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=SPECS[1])

    def strided(x, w):
        return lax.conv_general_dilated(x, w, (3, 1), ((0, 0), (0, 1)), lhs_dilation=(2, 1), dimension_numbers=SPECS[0])

    for fn, spec in ((plain, SPECS[1]), (strided, SPECS[0])):
        assert [op.opcode for op in rewritten(fn, *arguments(spec)).ops] == ["conv_general_dilated"]
