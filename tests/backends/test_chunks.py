"""The kernels of attention in chunks of keys, with and without AVX-512, against JAX."""

from __future__ import annotations

import numpy as np
import pytest
from guarded_memory import run_native
from streaming_forms import FORMS, arguments, streamed
from test_streaming import HOST, NARROW

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.driver.formulations import default_traces
from tilewright.passes.schedule import replay
from tilewright.passes.split_axis import split_axis


@pytest.mark.parametrize("target", [HOST, NARROW], ids=["host", "narrow"])
@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special"])
@pytest.mark.parametrize("name", ["plain", "masked-inf", "masked-finite", "dpa-bias", "dpa-grouped"])
def test_chunks_are_kernels_that_give_what_jax_gives(name, special, target):
    args = arguments(FORMS[name], (19, 771, 12, 20), 3, special)
    tried = streamed(FORMS[name], args)
    assert tried is not None
    formulation = split_axis(tried.task.region)
    assert formulation is not None
    traces = default_traces(formulation, target)
    assert traces is not None
    known = dict(zip(tried.task.workload.inputs, tried.arrays, strict=False))
    for part, trace in zip(formulation.parts, traces, strict=True):
        kernel = compile_kernel(replay(part.func, trace), target)
        *inputs, output = part.args
        arrays = [np.array(known[v].reshape(b.shape), order="C") for v, b in zip(inputs, kernel.params, strict=False)]
        with np.errstate(all="ignore"):
            (known[output],) = run_native(kernel, arrays, 3)
    tried.check(known[formulation.parts[-1].args[-1]], name)
