"""The estimate of XLA: its order of magnitude on what was measured, and what it must never get the wrong way round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.costmodel.roofline import predict_native
from tilewright.costmodel.xla import first_touch, predict_xla, region_flops
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.target import Target
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.search.predict import predicted_choice

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
        (graph(jnp.matmul, (1, 4096), (4096, 4096)), 1.6),
        (graph(jnp.matmul, (8, 4096), (4096, 4096)), 2.5),
        (graph(jnp.matmul, (16, 1024), (1024, 1024)), 0.16),
        (graph(conv(), (1, 56, 56, 64), (3, 3, 64, 64)), 0.995),
        (graph(conv(64), (1, 56, 56, 64), (3, 3, 1, 64)), 3.85),
        (graph(transposed, (1, 28, 28, 128), (4, 4, 128, 64)), 0.72),
        (graph(jax.nn.softmax, (2048, 512)), 0.29),
        (graph(lambda a, v: a.T @ v, (1000, 1000), (1000,)), 0.59),
        (graph(lambda a, v: a.T @ v, (1024, 1024), (1024,)), 2.1),
        (graph(lambda a, v: a.T @ v, (5000, 64), (5000, 4)), 0.16),
        (graph(lambda x: 2 * x + jnp.roll(x, 1, 2), (128, 128, 128)), 0.52),
        (graph(lambda x: x.sum(-1), (209_715, 5)), 0.31),
        (graph(lambda x: x.sum(1), (20_000, 23, 2)), 0.95),
        (graph(lambda x: x.sum(0), (32, 32_768)), 1.7),
    ],
    ids="dot vector memory rows conv depthwise transposed softmax down colliding tall roll short narrow batch".split(),
)
def test_order_of_magnitude(region: Graph, measured_ms: float) -> None:
    assert 0.5 < predict_xla(region, TARGET) * 1e3 / measured_ms < 2.5


@pytest.mark.parametrize("shape", [(4096, 64), (100, 1000), (5000, 20)])
def test_rows_that_lie_no_power_of_two_apart_don_t_collide(shape: tuple[int, int]) -> None:
    usual, longer = (
        predict_xla(graph(lambda a, v: a.T @ v, (rows, shape[1]), (rows,)), TARGET) for rows in (shape[0], shape[0] + 1)
    )
    assert usual == pytest.approx(longer, rel=0.1)


def test_rows_that_lie_a_power_of_two_apart_collide() -> None:
    usual, colliding = (predict_xla(graph(lambda a, v: a.T @ v, (100, n), (100,)), TARGET) for n in (1000, 1024))
    assert colliding > 4 * usual


def test_views_and_casts_behind_a_loop_change_little() -> None:
    def seconds(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> float:
        return predict_xla(graph(fn, *shapes), TARGET)

    plain = seconds(lambda x: jnp.tanh(2 * x), (512, 512))
    assert seconds(lambda x: jnp.tanh(2 * x).reshape(-1), (512, 512)) == pytest.approx(plain)
    assert seconds(lambda x: jnp.tanh(2 * x).astype(jnp.int32), (512, 512)) == pytest.approx(plain)
    product = seconds(lambda x, w: jnp.tanh(x) @ w, (512, 512), (512, 512))
    assert seconds(lambda x, w: jnp.tanh(x).reshape(512, 512, 1)[:, :, 0] @ w, (512, 512), (512, 512)) == product


def test_a_loop_reads_what_another_one_stored_and_not_what_that_one_read() -> None:
    def layers(count: int) -> Callable[..., Any]:
        def run(x: Any, w: Any) -> Any:
            for _ in range(count):
                x = x + jnp.tanh(x @ w)
            return x

        return run

    few, many = (predict_xla(graph(layers(n), (64, 64), (64, 64)), TARGET) for n in (10, 40))
    assert many == pytest.approx(4 * few, rel=0.1)


def test_computing_takes_as_long_as_the_clock_says_and_memory_does_not() -> None:
    slow = replace(TARGET, fma_gflops_per_thread=TARGET.fma_gflops_per_thread / 2)
    cached, streamed = graph(lambda x: jnp.sin(x), (512, 512)), graph(lambda x: x * 2 + 1, (8192, 4096))
    assert predict_xla(cached, slow) == pytest.approx(2 * predict_xla(cached, TARGET), rel=0.02)
    assert predict_xla(streamed, slow) < 1.6 * predict_xla(streamed, TARGET)
    nothing = graph(lambda x: x * 2 + 1, (1, 1))
    assert predict_xla(nothing, slow) == pytest.approx(predict_xla(nothing, TARGET), rel=0.01)


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


def test_a_right_operand_is_laid_out_anew_where_several_rows_use_it() -> None:
    one, few, across = (
        graph(jnp.matmul, *s) for s in (((1, 512), (512, 512)), ((4, 512), (512, 512)), ((512, 512), (512, 4)))
    )
    assert predict_xla(one, TARGET) < predict_xla(across, TARGET) < predict_xla(few, TARGET)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_few_rows_times_a_constant_are_worth_a_kernel_and_a_large_product_is_not(rows: int) -> None:
    assert _gain(rows, 4096) > 1.15
    assert _gain(rows, 1024) > 1.15
    assert _gain(1024, 1024) < 1.15


def _gain(rows: int, size: int) -> float:
    """How many times faster the kernel of a product with a constant is predicted to be."""
    weights = np.random.default_rng(0).standard_normal((size, size), np.float32)
    (task,) = partition(graph(lambda x: x @ weights, (rows, size))).tasks.values()
    choice = predicted_choice(task.workload.func, TARGET)
    assert choice is not None
    return predict_xla(task.region, TARGET) / float(predict_native(task.workload.func, [choice.trace], TARGET)[0])
