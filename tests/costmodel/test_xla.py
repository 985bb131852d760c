"""The estimate of XLA: its order of magnitude on what was measured, and what it must never get the wrong way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.costmodel.xla import first_touch, predict_xla, region_flops
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.target import Target
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 255.0, 40.0)


def graph(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def conv(groups: int = 1) -> Callable[..., Any]:
    def run(x: Any, w: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups)

    return run


def transposed(x: Any, w: Any) -> Any:
    return jax.lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# Milliseconds of jax.jit on 2 threads at 510 GFLOP/s, measured in a quiet minute.
@pytest.mark.parametrize(
    ("region", "measured_ms"),
    [
        (graph(jnp.matmul, (1024, 1024), (1024, 1024)), 4.4),
        (graph(conv(), (1, 56, 56, 64), (3, 3, 64, 64)), 0.995),
        (graph(conv(64), (1, 56, 56, 64), (3, 3, 1, 64)), 3.85),
        (graph(transposed, (1, 28, 28, 128), (4, 4, 128, 64)), 0.72),
        (graph(jax.nn.softmax, (2048, 512)), 0.29),
    ],
    ids=["dot", "conv", "depthwise", "transposed", "softmax"],
)
def test_order_of_magnitude(region: Graph, measured_ms: float) -> None:
    assert 0.5 < predict_xla(region, TARGET) * 1e3 / measured_ms < 2.5


def test_page_faults_count_for_large_results_only() -> None:
    large, small = 64 << 20, 1 << 20
    assert 0.01 < first_touch([large, small], huge_pages=False) < 0.05
    assert first_touch([large], huge_pages=True) < first_touch([large], huge_pages=False) / 4
    assert first_touch([small, small], huge_pages=False) == 0


def test_flops() -> None:
    assert region_flops(graph(jnp.matmul, (3, 5), (5, 7))) == 2 * 3 * 5 * 7
    assert region_flops(graph(conv(), (1, 8, 8, 4), (3, 3, 4, 6))) == 2 * 64 * 6 * 36
    assert region_flops(graph(conv(4), (1, 8, 8, 4), (3, 3, 1, 4))) == 2 * 64 * 4 * 9


def test_epilogues_and_size_add_time() -> None:
    plain = graph(jnp.matmul, (256, 256), (256, 256))
    epilogue = graph(lambda x, w: jnp.tanh(x @ w), (256, 256), (256, 256))
    larger = graph(jnp.matmul, (512, 256), (256, 256))
    assert predict_xla(plain, TARGET) < predict_xla(epilogue, TARGET)
    assert predict_xla(plain, TARGET) < predict_xla(larger, TARGET)


def test_nothing_takes_no_time() -> None:
    assert predict_xla(graph(lambda x: x, (4,)), TARGET) == 0
