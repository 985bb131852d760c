"""Microbenchmarks behind `costmodel.xla`: what `jax.jit` takes for single operations, beside the estimate.

    python -m tilewright.bench.calibrate_xla

For each operation it prints the fastest of several runs (other programs may use the machine), the rate in GFLOP/s and
as a share of the threads' peak or in GB/s, and what `costmodel.xla.predict_xla` says. The constants of that module
were read off this table: convolutions by fitting "start + operations at peak + copying patches + packing weights" to
the rows of their kind, the others from the rows that one constant dominates, then rounded towards a faster XLA. The
peak is measured here too (a 1024 x 1024 x 1024 product), since the one that a target carries is an estimate; the
dispatch of an empty function is subtracted. Estimates are for the clock that the measured peak stands for; the
constants are those at 4 GHz.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from ..costmodel.xla import first_touch, predict_xla, region_flops
from ..frontends.jaxpr import to_graph
from ..ir.target import detect_target
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES

_PEAK_SHARE = 0.93
_REPEATS = 40


@dataclass(frozen=True, slots=True)
class Case:
    """One operation."""

    kind: str
    name: str
    fn: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]


def _conv(stride: int, groups: int = 1) -> Callable[..., jax.Array]:
    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=layout, feature_group_count=groups
        )

    return run


def _cases() -> list[Case]:
    cases = [Case("dot", f"{m}x{k}x{n}", jnp.matmul, ((m, k), (k, n))) for m, k, n in _DOTS]
    for name, fn in _LAYOUTS.items():
        cases.append(Case("dot", f"1024^3 {name}", fn, ((1024, 1024), (1024, 1024))))
    for count, size in ((64, 64), (64, 128), (8, 512)):
        cases.append(Case("dot", f"{count} x {size}^3", jnp.matmul, ((count, size, size), (count, size, size))))
    for rows, columns in _COLUMN_WALKS:
        cases.append(Case("down columns", f"{rows}x{columns}", lambda a, v: a.T @ v, ((rows, columns), (rows,))))
        cases.append(Case("down columns", f"{rows}x{columns} x 4", lambda a, v: a.T @ v, ((rows, columns), (rows, 4))))
    for axis in range(3):
        for count in (1, 2):
            for shape in ((64, 64, 128), (128, 128, 128)):
                name = f"{count} along axis {axis} of {math.prod(shape) >> 18} MB"
                cases.append(Case("roll", name, _rolls(axis, count), (shape,)))
    for shape, axis in (
        ((209_715, 5), 1),
        ((65_536, 16), 1),
        ((20_000, 23, 2), 1),
        ((20_000, 8, 8), 1),
        ((32, 32_768), 0),
    ):
        cases.append(Case("sum", f"{'x'.join(map(str, shape))} axis {axis}", _sums(axis), (shape,)))
    cases.append(Case("draw", "512x512", _drawn, ((512, 512),)))
    for size, cin, cout, kernel, stride in _CONVS:
        shapes = ((1, size, size, cin), (kernel, kernel, cin, cout))
        cases.append(Case("conv", f"{size}^2 {cin}-{cout} {kernel}x{kernel}/{stride}", _conv(stride), shapes))
    for size, channels, kernel, stride in _DEPTHWISE:
        shapes = ((1, size, size, channels), (kernel, kernel, 1, channels))
        cases.append(Case("depthwise", f"{size}^2 {channels} {kernel}x{kernel}", _conv(stride, channels), shapes))
    for rows, columns in ((256, 256), (2048, 512), (4096, 4096)):
        shape = ((rows, columns),)
        cases.append(Case("elementwise", f"add {rows}x{columns}", lambda x: x * 2 + 1, shape))
        cases.append(Case("elementwise", f"tanh {rows}x{columns}", jnp.tanh, shape))
        cases.append(Case("elementwise", f"gelu {rows}x{columns}", jax.nn.gelu, shape))
        cases.append(Case("reduce", f"sum last {rows}x{columns}", lambda x: x.sum(-1), shape))
        cases.append(Case("reduce", f"sum first {rows}x{columns}", lambda x: x.sum(0), shape))
        cases.append(Case("rows", f"softmax {rows}x{columns}", lambda x: jax.nn.softmax(x), shape))
    for name in _FUNCTIONS:
        cases.append(Case("function", f"{name} 1024x1024", getattr(jax.lax, name), ((1024, 1024),)))
    pool = ((1, 112, 112, 64),)
    cases.append(Case("reduce", "max pool 112^2 64", _max_pool, pool))
    return cases


def _rolls(axis: int, count: int) -> Callable[[jax.Array], jax.Array]:
    def run(x: jax.Array) -> jax.Array:
        total = 2 * x
        for shift in range(1, count + 1):
            total += jnp.roll(x, shift, axis)
        return total

    return run


def _sums(axis: int) -> Callable[[jax.Array], jax.Array]:
    return lambda x: x.sum(axis)


def _drawn(x: jax.Array) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), x.shape) + x


def _max_pool(x: jax.Array) -> jax.Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


_FUNCTIONS = ("exp", "log", "logistic", "expm1", "log1p", "erfc", "rsqrt", "sin", "cos", "tan", "cbrt", "atan")
_DOTS = (
    (64, 64, 64),
    (196, 384, 96),
    (256, 256, 256),
    (512, 512, 2048),
    (1, 1280, 1000),
    (1, 4096, 4096),
    (8, 4096, 4096),
)
_COLUMN_WALKS = ((300, 300), (1000, 1000), (1024, 1024), (3000, 3000), (5000, 64))
_LAYOUTS: dict[str, Callable[..., jax.Array]] = {
    "left transposed": lambda a, b: a.T @ b,
    "right transposed": lambda a, b: a @ b.T,
    "both transposed": lambda a, b: a.T @ b.T,
}
_CONVS = (
    (56, 64, 256, 1, 1),
    (14, 256, 1024, 1, 1),
    (112, 16, 96, 1, 1),
    (56, 24, 144, 1, 1),
    (14, 384, 64, 1, 1),
    (7, 960, 160, 1, 1),
    (224, 3, 32, 3, 2),
    (224, 3, 64, 7, 2),
    (56, 64, 64, 3, 1),
    (28, 128, 128, 3, 1),
    (7, 512, 512, 3, 1),
    (56, 256, 128, 1, 2),
)
_DEPTHWISE = ((112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (14, 384, 3, 1), (7, 960, 3, 1), (56, 96, 7, 1))


def measure(fn: Callable[..., jax.Array], args: list[jax.Array]) -> float:
    """Least seconds of a jitted function on given arguments."""
    compiled = jax.jit(fn)
    jax.block_until_ready(compiled(*args))
    samples = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        samples.append(time.perf_counter() - start)
    return min(samples)


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    target = detect_target()
    square = jnp.asarray(rng.standard_normal((1024, 1024)), jnp.float32)
    peak = 2 * 1024**3 / measure(jnp.matmul, [square, square]) / _PEAK_SHARE
    target = replace(target, fma_gflops_per_thread=peak / 1e9 / target.threads)
    overhead = measure(lambda x: x, [jnp.zeros(1)])
    print(f"peak {peak / 1e9:.0f} GFLOP/s, dispatch {overhead * 1e6:.1f} us")
    errors: dict[str, list[float]] = {}
    for case in _cases():
        args = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in case.shapes]
        seconds = max(measure(case.fn, args) - overhead, 1e-7)
        graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(case.fn)(*args)))
        predicted = predict_xla(graph, target) + first_touch((graph.types[v].nbytes for v in graph.outputs), False)
        flops, size = region_flops(graph), sum(4 * math.prod(shape) for shape in case.shapes)
        errors.setdefault(case.kind, []).append(math.log(predicted / seconds))
        rate = f"{flops / seconds / 1e9:7.1f} GFLOP/s ({flops / seconds / peak:5.1%})"
        print(
            f"{case.kind:12s} {case.name:24s} {seconds * 1e6:9.1f} us {rate} {size / seconds / 1e9:6.1f} GB/s in  "
            f"predicted {predicted * 1e6:9.1f} us  x{predicted / seconds:.2f}"
        )
    for kind, values in errors.items():
        spread = math.exp(math.sqrt(sum(v * v for v in values) / len(values)))
        print(f"{kind}: predicted/measured {math.exp(sum(values) / len(values)):.2f}, typically off by x{spread:.2f}")


if __name__ == "__main__":
    main()
