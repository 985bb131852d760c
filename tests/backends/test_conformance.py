"""One suite for all backends: the same workloads, each with its default schedule, against the interpreter and JAX.

A backend may refuse a workload only where a list here says so, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from conformance_programs import PROGRAMS, Array, program
from guarded_memory import run_native
from pallas_programs import compiled

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.memory import CodegenError
from tilewright.backends.pallas import GPU_TILES, TPU, TPU_TILES, TRITON, PallasError, Route, Tiles, tiled
from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import detect_target
from tilewright.passes.schedule import replay
from tilewright.search.sketch import sketches

Compiled = tuple[LoopFunc, Callable[[list[Array]], list[Array]]]
"""The scheduled program and a function that runs it."""


def _native(func: LoopFunc) -> Compiled:
    target = detect_target()
    sketch = sketches(func, target)[0]
    scheduled = replay(func, sketch.build(dict(sketch.default)))
    kernel = compile_kernel(scheduled, target)
    return scheduled, lambda arrays: run_native(kernel, arrays, 3)


def _pallas(func: LoopFunc, route: Route, tiles: Tiles) -> Compiled:
    scheduled = replay(func, tiled(func, tiles))
    return scheduled, compiled(scheduled, route)


@dataclass(frozen=True)
class Backend:
    """A way to run programs.

    Args:
        build: schedules and compiles a program; raises ``refusal`` for one that the backend does not support.
        refusal: how it says so.
        refused: the programs that it refuses, each with a part of the reason.
    """

    build: Callable[[LoopFunc], Compiled]
    refusal: type[Exception]
    refused: dict[str, str]


_MIXED = "expected indices that move along one iterator each"
_PARTS = dict.fromkeys(
    """
    concatenate-last concatenate-first concatenate-middle sum-of-parts softmax-of-parts pad pad-cut pad-inside
    dynamic-slice update update-inside take-rows take-columns index-rows index-elements take-along take-of-table
    border border-twice update-row update-corner update-integers update-booleans
    """.split(),
    "expected values without choices and data-dependent indices",
)
BACKENDS = {
    "llvm": Backend(_native, CodegenError, {}),
    "pallas-tpu": Backend(lambda func: _pallas(func, TPU, TPU_TILES), PallasError, _PARTS),
    "pallas-triton": Backend(
        lambda func: _pallas(func, TRITON, GPU_TILES),
        PallasError,
        {"reshaped": _MIXED, **_PARTS},
    ),
}
EVERY = {"llvm": 2, "pallas-tpu": 2, "pallas-triton": 4}
"""How many of the programs a normal run takes, one in so many."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_give_what_the_interpreter_and_jax_give(name, backend, request):
    if list(PROGRAMS).index(name) % EVERY[backend] and not request.config.getoption("--full"):
        pytest.skip("a sample in a normal run: pytest --full")
    tried, refused = program(name), BACKENDS[backend].refused.get(name)
    try:
        scheduled, run = BACKENDS[backend].build(tried.func)
    except BACKENDS[backend].refusal as error:
        assert refused is not None, f"refused, though it is said to be supported: {error}"
        assert refused in str(error), f"refused for another reason than is said here: {error}"
        return
    assert refused is None, "this is said to be refused, but is supported: take it off the list"
    for given in tried.runs:
        tried.check(given, run(tried.arguments(given, scheduled)))


def test_refusals_name_programs_that_there_are():
    assert {name for backend in BACKENDS.values() for name in backend.refused} <= set(PROGRAMS)
