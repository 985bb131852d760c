"""Networks written channels first: in the layout that is chosen, and as they are given.

    python -m tilewright.bench.layouts --networks residual,inverted --seconds 10
    python -m tilewright.bench.layouts --arguments

Each network is compiled twice without measuring, once with layouts and once without, and both take turns with `jax.jit`
in one process. With `--arguments` the weights are arguments, as Equinox passes them, instead of constants.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..driver.gate import runnable
from ..driver.options import make_options
from ..driver.pipeline import Driver, host
from ..driver.plan_contest import PlanContest
from ..driver.planning import Partition
from ..frontends.jaxpr import to_graph
from .timing import Stopwatch, turns

_NUMBERS = ("NCHW", "OIHW", "NCHW")


class Weights:
    """Draws the weights of a network, or hands out those that it is called with, in order.

    Args:
        given: what to hand out; None to draw.
    """

    def __init__(self, given: Sequence[Any] | None = None) -> None:
        self.given = given
        self.drawn: list[np.ndarray] = []
        self.count = 0
        self.rng = np.random.default_rng(0)

    def draw(self, *shape: int) -> Any:
        """Weights of a shape, one scale for each place of a window and each channel."""
        self.count += 1
        if self.given is not None:
            return self.given[self.count - 1]
        scale = np.sqrt(2 / max(int(np.prod(shape[1:])), 1))
        self.drawn.append((scale * self.rng.standard_normal(shape)).astype(np.float32))
        return self.drawn[-1]


def _conv(w: Weights, x: Any, features: int, taps: int = 3, stride: int = 1, groups: int = 1) -> Any:
    kernel = w.draw(features, x.shape[1] // groups, taps, taps)
    pads = ((taps // 2, taps // 2),) * 2
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=_NUMBERS, feature_group_count=groups
    )
    return y + w.draw(features)[:, None, None]


def _halved(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def residual(w: Weights, x: Any) -> Any:
    """Blocks of two 3x3 convolutions with a way around them, as ResNet-18."""
    x = _halved(jax.nn.relu(_conv(w, x, 64, 7, 2)))
    for features in (64, 64, 128, 128, 256, 256, 512, 512):
        stride = 1 if features == x.shape[1] else 2
        y = _conv(w, jax.nn.relu(_conv(w, x, features, 3, stride)), features)
        x = jax.nn.relu(y + (x if stride == 1 else _conv(w, x, features, 1, 2)))
    return x.mean((2, 3))


def inverted(w: Weights, x: Any) -> Any:
    """Wide depthwise convolutions between narrow products, as MobileNetV2."""
    x = jnp.clip(_conv(w, x, 32, 3, 2), 0, 6)
    for features, stride in (
        (16, 1),
        (24, 2),
        (24, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (96, 1),
        (160, 2),
        (160, 1),
    ):
        wide = 6 * x.shape[1]
        y = jnp.clip(_conv(w, x, wide, 1), 0, 6)
        y = _conv(w, jnp.clip(_conv(w, y, wide, 3, stride, wide), 0, 6), features, 1)
        x = x + y if x.shape == y.shape else y
    return x.mean((2, 3))


def hourglass(w: Weights, x: Any) -> Any:
    """Down to small images and up again beside what was left on the way, as U-Net."""
    left = []
    for features in (16, 32, 64):
        left.append(jax.nn.relu(_conv(w, jax.nn.relu(_conv(w, x, features)), features)))
        x = _halved(left[-1])
    x = jax.nn.relu(_conv(w, x, 128))
    for y in reversed(left):
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
        x = jax.nn.relu(_conv(w, jnp.concatenate([y, _conv(w, x, y.shape[1])], 1), y.shape[1]))
    return _conv(w, x, 2, 1)


def plain(w: Weights, x: Any) -> Any:
    """3x3 convolutions one after the other and dense layers in the end, as VGG-16."""
    for features, count in ((64, 2), (128, 2), (256, 3), (512, 3)):
        for _ in range(count):
            x = jax.nn.relu(_conv(w, x, features))
        x = _halved(x)
    x = x.reshape(x.shape[0], -1)
    return jax.nn.relu(x @ w.draw(x.shape[1], 512)) @ w.draw(512, 1000)


def narrow(w: Weights, x: Any) -> Any:
    """Few features on a large image, which fill no vector."""
    for _ in range(3):
        x = jax.nn.relu(_conv(w, x, 8))
    return _conv(w, x, 1)


NETWORKS: dict[str, tuple[Callable[[Weights, Any], Any], int]] = {
    "residual": (residual, 224),
    "inverted": (inverted, 224),
    "hourglass": (hourglass, 128),
    "plain": (plain, 112),
    "narrow": (narrow, 256),
}


class AsGiven(Driver):
    """Leaves values in the layout that the program has."""

    def _laid_out(self, parts: Partition, contest: PlanContest | None, examples: Sequence[Any] | None) -> Partition:
        return parts


def sides(name: str, arguments: bool) -> tuple[dict[str, Callable[..., Any]], list[Any]]:
    """`jax.jit`'s program, ours as given, and ours in the chosen layout, and their arguments.

    Args:
        name: one of `NETWORKS`.
        arguments: whether weights are arguments.
    """
    network, size = NETWORKS[name]
    image = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3, size, size)), jnp.float32)
    weights = Weights()
    jax.eval_shape(partial(network, weights), image)

    def fn(x: Any, *given: Any) -> Any:
        return network(Weights(given or weights.drawn), x)

    examples = [image, *map(jnp.asarray, weights.drawn)] if arguments else [image]
    graph = to_graph(jax.make_jaxpr(fn)(*examples))
    found = {"jax.jit": runnable(graph)}
    for side, driver in (("as given", AsGiven), ("chosen", Driver)):
        options = make_options(None, 0, ":memory:", "cpu", 0, False)
        outcome = driver(options, options.open_database(), host()).run(graph, examples)
        found[side] = runnable(outcome.graph) if outcome.graph is not None else found["jax.jit"]
    return found, examples


def samples(programs: dict[str, Callable[..., Any]], examples: Sequence[Any], seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of programs that take turns."""
    watches = {side: Stopwatch() for side in programs}
    found: dict[str, list[float]] = {side: [] for side in programs}
    rng, end = np.random.default_rng(0), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side in (side for order in turns(list(programs), 2, rng) for side in order):
            run = partial(programs[side], *examples)
            jax.block_until_ready(run())  # so that what ran before counts for no side
            found[side].append(watches[side].sample(lambda run=run: jax.block_until_ready(run())))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per network."""
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench.layouts", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--arguments", action="store_true", help="weights as arguments")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing per network")
    options = parser.parse_args(arguments)
    print(f"{'network':10} {'jax.jit ms':>10} {'as given':>10} {'chosen':>10}  against as given, against jax.jit")
    for name in options.networks:
        times = samples(*sides(name, options.arguments), options.seconds)
        ratios = [median(np.divide(times[side], times["chosen"])) for side in ("as given", "jax.jit")]
        row = " ".join(f"{median(values):10.2f}" for values in times.values())
        print(f"{name:10} {row}  {ratios[0]:.2f}x {ratios[1]:.1f}x", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
