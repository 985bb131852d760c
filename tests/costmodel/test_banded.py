"""Predictions for chains that are computed band by band."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tilewright.costmodel.anatomy import dissect
from tilewright.costmodel.banded import banded_seconds
from tilewright.costmodel.roofline import predict_native
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import detect_target
from tilewright.passes.lower import lower
from tilewright.passes.schedule import Step
from tilewright.search.banded import banded

TARGET = replace(detect_target(), threads=2, l1_bytes=48 << 10, l2_bytes=1 << 20)


def chain(size: int, hidden: int) -> LoopFunc:
    """Widen, depthwise 3x3, narrow."""
    rng = np.random.default_rng(0)
    shapes = ((1, 1, 16, hidden), (3, 3, 1, hidden), (1, 1, hidden, 24))
    expand, spread, narrow = (rng.standard_normal(shape, np.float32) for shape in shapes)

    def conv(x, w, groups=1):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups)

    def fn(x):
        return conv(jnp.tanh(conv(jnp.tanh(conv(x, expand)), spread, hidden)), narrow)

    return lower(to_graph(jax.make_jaxpr(fn)(jnp.zeros((1, size, size, 16)))), "chain").func


def seconds(func: LoopFunc, rows: int, chunk: int = 0) -> float:
    sketch = banded(func, TARGET)
    assert sketch is not None
    trace = sketch.build({**sketch.default, "rows": rows, "chunk": chunk})
    found = banded_seconds(dissect(func), trace, TARGET)
    assert found is not None
    np.testing.assert_allclose(found, predict_native(func, [trace], TARGET)[0], rtol=1e-5)
    return found


def test_rows_on_borders_of_bands_and_threads_without_bands_cost_time():
    func = chain(32, 32)
    assert seconds(func, 1) > seconds(func, 8)
    assert seconds(func, 32) > 1.5 * seconds(func, 8)


def test_what_no_cache_holds_is_moved():
    func = chain(112, 192)
    assert seconds(func, 56) > seconds(func, 7)


def test_adding_up_chunks_costs_time():
    func = chain(32, 32)
    assert seconds(func, 8, 16) > seconds(func, 8)


def test_other_schedules_are_not_of_chains():
    func = chain(8, 16)
    assert banded_seconds(dissect(func), (), TARGET) is None
    root = next(name for name in dissect(func).names if "y0" in name)
    assert banded_seconds(dissect(func), (Step("split", root, ("i1", 2)),), TARGET) is None
