"""Predictions of schedules that stream an axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.costmodel.roofline import predict_native
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import Target
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.search.streaming import streaming

TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 255.0, 40.0)


def normaliser(rows: int) -> LoopFunc:
    """The logarithm of a sum of exponentials of products, whose rows are streamed."""
    x, w = np.zeros((rows, 64), np.float32), np.zeros((64, 4096), np.float32)
    traced = jax.make_jaxpr(lambda x, w: jax.nn.logsumexp(jnp.dot(x, w), axis=1))(x, w)
    tasks = partition(PassManager(GRAPH_PASSES).run(to_graph(traced))).tasks.values()
    return next(t.workload.func for t in tasks if streaming(t.workload.func, TARGET) is not None)


@pytest.mark.parametrize("rows", [152, 160])
def test_a_thread_that_gets_fewer_rows_waits_for_the_other(rows: int) -> None:
    func = normaliser(rows)
    sketch = streaming(func, TARGET)
    assert sketch is not None
    traces = [sketch.build({**sketch.default, "vectors": 2, "rows": tiles}) for tiles in (1, 4)]
    fast, slow = predict_native(func, traces, TARGET)
    assert fast < slow
