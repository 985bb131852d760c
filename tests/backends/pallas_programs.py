"""Programs that tests of the Pallas backend share: made from JAX functions and scheduled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from workloads import Array, Case, Sample, layer_norm, sample

from tilewright.backends.pallas import TPU, TPU_TILES, Route, Tiles, emit, tiled
from tilewright.ir.loop import LoopFunc
from tilewright.ir.text import parse_ir
from tilewright.passes.schedule import Step, replay


def epilogue(activation: str) -> Any:
    """A matrix product with bias, activation and residual."""
    activate = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "none": lambda x: x}[activation]
    return lambda x, r, w, b: activate(x @ w + b) + r


def matmul(m: int, k: int, n: int, activation: str = "gelu") -> Case:
    args, constants = ((m, k), (m, n)), ((k, n), (n,))
    return Case("matmul", epilogue(activation), args, constants, exact=activation != "gelu", special=True)


def softmax(rows: int, columns: int) -> Case:
    return Case("softmax", lambda x: jax.nn.softmax(x), ((rows, columns),), exact=False)


LARGE = {
    "matmul": matmul(300, 1200, 520),
    "softmax": softmax(1000, 777),
    "layer-norm": Case("layer-norm", layer_norm, ((1000, 512),), ((512,), (512,)), exact=False, special=False),
    "log-softmax": Case("log-softmax", lambda x: jax.nn.log_softmax(x, axis=0), ((700, 500),), exact=False),
    "chain": Case("chain", lambda x, y, z: jnp.tanh(x) * y[:, None] + z, ((1000, 700), (1000,), (700,)), exact=False),
    "vector": Case("vector", lambda x: jnp.abs(x) * 2, ((100_003,),)),
    "maximum": Case("maximum", lambda x: x.max(-1), ((1000, 450),)),
}
"""Sizes that no tile divides."""


def scheduled(case: Case, tiles: Tiles = TPU_TILES) -> LoopFunc:
    func = sample(case).func
    return replay(func, tiled(func, tiles))


# Compiling fast matters more than running fast here. The library of reductions that XLA calls on CPUs (jaxlib 0.10.2)
# loses NaN in a maximum, also in plain `jnp.max`; the last option leaves reductions to XLA itself.
_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
}


def compiled(func: LoopFunc, route: Route = TPU, interpret: Any = True) -> Callable[[list[Array]], list[Array]]:
    """Emit a program and compile it for this machine."""
    run = emit(func, route, interpret=interpret)
    types = [jax.ShapeDtypeStruct(b.shape, np.dtype(b.dtype)) for b in func.inputs]
    kernel = jax.jit(run).lower(*types).compile(_OPTIONS)
    return lambda arrays: [np.asarray(a) for a in kernel(*arrays)]


def run(func: LoopFunc, arrays: list[Array], route: Route = TPU, interpret: Any = True) -> list[Array]:
    """Emit a program and run it on this machine."""
    return compiled(func, route, interpret)(arrays)


def check(lowered: Sample, func: LoopFunc, what: str, route: Route = TPU) -> None:
    """Run a scheduled form of a sample and compare with JAX."""
    lowered.check(run(func, lowered.arguments(func), route), what)


def program(text: str, *rows: tuple) -> LoopFunc:
    """A program from the lines of its text, scheduled by steps written as tuples."""
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    func = parse_ir("tilewright loop ir 1\nfunc f\n" + "\n".join("  " + line[indent:] for line in lines) + "\n")
    return replay(func, tuple(Step(name, target, tuple(args)) for name, target, *args in rows))
