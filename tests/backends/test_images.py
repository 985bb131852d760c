"""Convolutions and pooling of images stored channel by channel, or pixel by pixel: kernels against JAX.

Arguments are small integers, so that results are equal to the last bit whatever the order of a sum. All buffers lie
between pages that can't be touched: padding and strides must not read beside them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from workloads import Case, assert_same, sample

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.memory import CodegenError
from tilewright.ir.target import Target, detect_target
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, replay
from tilewright.search.predict import predicted_choices
from tilewright.search.space import SearchSpace

HOST = detect_target()
SETS = {"avx512": 512, "avx2": 256}
TARGETS = {name: HOST.restricted(name) for name, bits in SETS.items() if HOST.vector_bits >= bits} or {"host": HOST}
LAYOUTS = {"channels": ("NCHW", "OIHW", "NCHW"), "pixels": ("NHWC", "HWIO", "NHWC")}


@dataclass(frozen=True)
class Window:
    """What convolutions and pooling have in common."""

    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def fits(self) -> bool:
        """Whether a window lies inside the padded image at least once."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        sizes = [n + sum(p) for n, p in zip((self.height, self.width), self.padding, strict=True)]
        return all(size >= span for size, span in zip(sizes, spans, strict=True))


def _pairs(values: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(values, values)


WINDOWS = st.builds(
    Window,
    st.integers(1, 9),
    st.sampled_from((1, 2, 5, 7, 14, 15, 17, 30, 35, 56)),
    _pairs(st.integers(1, 4)),
    _pairs(st.integers(1, 3)),
    _pairs(st.integers(1, 2)),
    _pairs(_pairs(st.integers(0, 5))),
).filter(lambda w: w.fits)


def run_candidates(case: Case, target: Target, seed: int, special: bool, most: int = 2) -> Counter[str]:
    """Run the untuned choice, what comes after it, and a few random points of the space, all against JAX."""
    lowered = sample(case, special)
    rng = np.random.default_rng(seed)
    space = SearchSpace(lowered.func, target)
    found = predicted_choices(lowered.func, target)
    candidates = [*found[:1], *found[-1:], *(space.sample(rng) for _ in range(most))]
    counts: Counter[str] = Counter()
    for number, candidate in enumerate(c for c in candidates if c is not None):
        try:
            scheduled = replay(lowered.func, candidate.trace)
            verify(scheduled)
            kernel = compile_kernel(scheduled, target)
        except (ScheduleError, CodegenError) as error:
            assert number, f"the untuned choice was refused: {case} {candidate}: {error}"
            counts["refused"] += 1
            continue
        outputs = run_native(kernel, lowered.arguments(scheduled), 3)
        for got, want in zip(outputs, lowered.wanted, strict=True):
            assert_same(got, want, True, f"{case} {candidate} for {target.vector_bits} bits")
        counts[candidate.sketch] += 1
    return counts


QUICK = settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)
FULL = settings(QUICK, max_examples=400)


def convolution(window: Window, layout: str, groups: int, depth: int, features: int, batch: int, bias: bool) -> Case:
    """A convolution of ``groups * depth`` channels with ``groups * features`` outputs, with a clamp behind it."""
    dims = LAYOUTS[layout]
    x = {"N": batch, "C": groups * depth, "H": window.height, "W": window.width}
    w = {"O": groups * features, "I": depth, "H": window.kernel[0], "W": window.kernel[1]}

    def fn(image, weights, shift):
        y = lax.conv_general_dilated(
            image,
            weights,
            window.strides,
            window.padding,
            rhs_dilation=window.dilation,
            dimension_numbers=dims,
            feature_group_count=groups,
        )
        return jnp.clip(y + shift.reshape((-1, 1, 1) if layout == "channels" else (-1,)), -20, 20) if bias else y

    shapes = tuple(x[a] for a in dims[0]), tuple(w[a] for a in dims[1])
    return Case(f"{layout} {window} {groups}x{depth}->{features}", fn, shapes[:1], (shapes[1], (groups * features,)))


@pytest.mark.parametrize("name", TARGETS)
def test_transposed_convolutions(name, request):
    counts: Counter[str] = Counter()

    @given(
        size=st.tuples(st.integers(1, 5), st.sampled_from((1, 3, 14, 31))),
        kernel=_pairs(st.integers(1, 5)),
        stride=st.integers(2, 3),
        depth=st.integers(1, 5),
        features=st.sampled_from((1, 5, 16, 33)),
        special=st.booleans(),
        seed=st.integers(0, 1000),
    )
    @(FULL if request.config.getoption("--full") else QUICK)
    def run(size, kernel, stride, depth, features, special, seed):
        def fn(image, weights):
            steps = (stride, stride)
            return jnp.abs(lax.conv_transpose(image, weights, steps, "SAME", dimension_numbers=LAYOUTS["pixels"]))

        case = Case(f"{size} {kernel} {stride}", fn, ((1, *size, depth),), ((*kernel, depth, features),))
        counts.update(run_candidates(case, TARGETS[name], seed, special))

    run()
    assert counts["contraction"] > 3, counts


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolutions(name, layout, request):
    counts: Counter[str] = Counter()

    @given(
        window=WINDOWS,
        groups=st.sampled_from((1, 1, 1, 2, 3, 9)),
        depth=st.integers(1, 5),
        features=st.sampled_from((1, 2, 5, 16, 19, 33)),
        batch=st.integers(1, 2),
        bias=st.booleans(),
        special=st.booleans(),
        seed=st.integers(0, 1000),
    )
    @(FULL if request.config.getoption("--full") else QUICK)
    def run(window, groups, depth, features, batch, bias, special, seed):
        case = convolution(window, layout, groups, depth, features, batch, bias)
        counts.update(run_candidates(case, TARGETS[name], seed, special))

    run()
    assert counts["contraction"] and counts.total() > 4 * counts["refused"], counts


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_depthwise_convolutions(name, layout, request):
    counts: Counter[str] = Counter()

    @given(window=WINDOWS, channels=st.sampled_from((2, 3, 16, 21)), special=st.booleans(), seed=st.integers(0, 1000))
    @(FULL if request.config.getoption("--full") else QUICK)
    def run(window, channels, special, seed):
        case = convolution(window, layout, channels, 1, 1, 1, True)
        counts.update(run_candidates(case, TARGETS[name], seed, special))

    run()
    assert counts["planes" if layout == "channels" else "channelwise"], counts


POOLS = {
    ("max", "float32"): (lax.max, -np.inf),
    ("min", "float32"): (lax.min, np.inf),
    ("sum", "float32"): (lax.add, 0.0),
    ("max", "int32"): (lax.max, -(2**31)),
    ("sum", "int32"): (lax.add, 0),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooling(name, layout, request):
    counts: Counter[str] = Counter()

    @given(
        window=WINDOWS,
        channels=st.sampled_from((1, 3, 18)),
        kind=st.sampled_from(list(POOLS)),
        special=st.booleans(),
        seed=st.integers(0, 1000),
    )
    @(FULL if request.config.getoption("--full") else QUICK)
    def run(window, channels, kind, special, seed):
        op, start = POOLS[kind]
        sizes = {"N": 1, "C": channels, "H": window.height, "W": window.width}
        axes = LAYOUTS[layout][0]

        def spread(pair, rest):
            along = {"H": pair[0], "W": pair[1]}
            return tuple(along.get(a, rest) for a in axes)

        def fn(image):
            return lax.reduce_window(
                image,
                np.dtype(kind[1]).type(start),
                op,
                spread(window.kernel, 1),
                spread(window.strides, 1),
                spread(window.padding, (0, 0)),
                window_dilation=spread(window.dilation, 1),
            )

        shape = tuple(sizes[a] for a in axes)
        whole = np.random.default_rng(seed).integers(-9, 10, shape, dtype=np.int32)
        case = Case(f"{kind} {layout} {window}", fn, (shape if kind[1] == "float32" else whole,))
        counts.update(run_candidates(case, TARGETS[name], seed, special))

    run()
    assert counts["planes" if layout == "channels" else "channelwise"], counts


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("height", "width"), [(3, 7), (2, 19)])
def test_sums_that_are_long_enough_to_be_cut(height, width, name):
    window = Window(height, width, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    case = convolution(window, "channels", 1, 130, 33, 1, True)
    assert run_candidates(case, TARGETS[name], 0, False)["refused"] == 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (1, 3, 1, 1), (2, 1, 1, 40), (1, 40, 1, 1), (1, 1, 16, 16)])
def test_small_and_empty_images(name, shape):
    weights = (20, shape[1], 3, 3)
    case = Case("small", lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME"), (shape,), (weights,))
    run_candidates(case, TARGETS[name], 0, False)


def test_no_region_of_a_network_is_refused():
    """A network as written for PyTorch: every workload has a schedule that code is generated for."""

    def block(x, w, stride):
        y = lax.conv_general_dilated(x, w, (stride, stride), "SAME")
        return jax.nn.relu(y + x if y.shape == x.shape else y)

    def net(x, stem, a, b, dense):
        x = jax.nn.relu(lax.conv_general_dilated(x, stem, (2, 2), [(3, 3), (3, 3)]))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0), (0, 0), (1, 1), (1, 1)])
        x = block(block(x, a, 1), b, 2)
        return x.mean((2, 3)) @ dense

    from workloads import graph_of

    from tilewright.driver.kernels import build_kernel
    from tilewright.driver.planning import partition

    constants = [np.ones(s, np.float32) for s in ((8, 3, 7, 7), (8, 8, 3, 3), (16, 8, 3, 3), (16, 10))]
    graph = graph_of(lambda x: net(x, *constants), (np.ones((1, 3, 32, 32), np.float32),))
    tasks = partition(graph).tasks
    assert len(tasks) >= 6
    for key, task in tasks.items():
        best = predicted_choices(task.workload.func, HOST)[0]
        build_kernel(key, task.workload.func, best.trace, HOST)
