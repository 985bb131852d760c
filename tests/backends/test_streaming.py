"""Attention and log-sum-exp as one kernel, against JAX: forms, sizes, masks, special values, narrow vectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from guarded_memory import run_native
from streaming_forms import FORMS, Streamed, arguments, streamed

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.ir.target import Target, detect_target
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, Trace, replay
from tilewright.search.sketch import Sketch, sketches

HOST = detect_target()
NARROW = dataclasses.replace(
    HOST, vector_bits=256, features=",".join(f for f in HOST.features.split(",") if "avx512" not in f)
)
SIZES = [(70, 131, 20, 24), (17, 33, 8, 5), (9, 7, 3, 4), (16, 64, 16, 16), (33, 2, 4, 3)]
IN_A_NORMAL_RUN = 2
"""How many of the sizes a normal run tries for each form, others for each."""


def sketch_of(tried: Streamed, target: Target) -> Sketch:
    found = sketches(tried.task.workload.func, target)[0]
    assert found.name == "streaming"
    return found


def run(tried: Streamed, trace: Trace, target: Target) -> np.ndarray:
    scheduled = replay(tried.task.workload.func, trace)
    verify(scheduled)
    kernel = compile_kernel(scheduled, target)
    with np.errstate(all="ignore"):
        return run_native(kernel, tried.packed(kernel.params), 3)[0]


@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special"])
@pytest.mark.parametrize("name", FORMS)
def test_forms_are_one_kernel_that_gives_what_jax_gives(name, special, request):
    first = list(FORMS).index(name) + special
    numbers = [(first + 2 * n) % len(SIZES) for n in range(IN_A_NORMAL_RUN)]
    for number in range(len(SIZES)) if request.config.getoption("--full") else numbers:
        sizes = SIZES[number]
        target = NARROW if number % 2 else HOST
        tried = streamed(FORMS[name], arguments(FORMS[name], sizes, number, special))
        assert tried is not None, f"{name} {sizes}: expected one region"
        sketch = sketch_of(tried, target)
        tried.check(run(tried, sketch.build(sketch.default), target), f"{name} {sizes} {target.vector_bits}")


@pytest.mark.parametrize("target", [HOST, NARROW], ids=["host", "narrow"])
def test_every_decision_gives_the_same_result(target, rng):
    tried = streamed(FORMS["dpa-causal"], arguments(FORMS["dpa-causal"], (70, 131, 20, 20), 1, False))
    assert tried is not None
    sketch = sketch_of(tried, target)
    tried_points = 0
    while tried_points < 5:
        point = {name: values[int(rng.integers(len(values)))] for name, values in sketch.choices.items()}
        try:
            replay(tried.task.workload.func, sketch.build(point))
        except ScheduleError:
            continue
        tried.check(run(tried, sketch.build(point), target), str(point))
        tried_points += 1


@pytest.mark.parametrize("target", [HOST, NARROW], ids=["host", "narrow"])
def test_deep_scores_take_narrow_and_tall_register_tiles(target):
    """The rows that stay are then not read anew from the second cache for every few keys."""
    shallow, deep = (
        streamed(FORMS["log-sum-exp"], arguments(FORMS["log-sum-exp"], (512, 256, depth, 1), 0, False))
        for depth in (16, 1024)
    )
    assert shallow is not None and deep is not None
    sketch = sketch_of(deep, target)
    wide, narrow = sketch_of(shallow, target).default, sketch.default
    assert narrow["vectors"] == 2 <= wide["vectors"]
    assert narrow["keys"] >= wide["keys"]
    width = 2 * target.vector_bits // 32
    assert width * int(narrow["rows"]) * 1024 * 4 <= max(target.l2_bytes // 2, width * 1024 * 4)


def test_register_tiles_that_do_not_fit_are_refused():
    tried = streamed(FORMS["plain"], arguments(FORMS["plain"], (512, 256, 64, 64), 0, False))
    assert tried is not None
    sketch = sketch_of(tried, HOST)
    for name in ("keys", "features"):
        with pytest.raises(ScheduleError, match="tile of registers"):
            sketch.build({**sketch.default, name: 12, "vectors": max(sketch.choices["vectors"])})
