"""Chains of convolutions in one kernel, band by band: against JAX to the last bit, special values included.

Arguments are small integers and every stage but the last one is clipped, so that no sum rounds. All buffers lie between
pages that can't be touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from workloads import Case, Sample, assert_same, sample

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.memory import CodegenError
from tilewright.ir.interp import interpret
from tilewright.ir.loop import buffers
from tilewright.ir.target import Target, detect_target
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, replay
from tilewright.search.banded import banded
from tilewright.search.banded_form import find_chain
from tilewright.search.space import SearchSpace

HOST = detect_target()
SETS = {"avx512": 512, "avx2": 256}
TARGETS = {name: HOST.restricted(name) for name, bits in SETS.items() if HOST.vector_bits >= bits} or {"host": HOST}
QUICK = settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)
FULL = settings(QUICK, max_examples=300)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class Step:
    """A stage: a window, how far it moves, and how many channels it makes; as many as it reads where depthwise."""

    window: tuple[int, int]
    strides: tuple[int, int]
    padding: str | tuple[tuple[int, int], tuple[int, int]]
    features: int
    depthwise: bool


def _windows(depthwise: bool) -> st.SearchStrategy[Step]:
    pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return st.builds(
        Step,
        st.sampled_from(((3, 3), (1, 3), (5, 5), (3, 2))),
        st.sampled_from(((1, 1), (2, 2), (1, 2), (2, 1))),
        st.one_of(st.sampled_from(("SAME", "VALID")), st.tuples(pairs, pairs)),
        st.sampled_from((3, 16, 17)),
        st.just(depthwise),
    )


POINTWISE = st.builds(
    Step, st.just((1, 1)), st.just((1, 1)), st.just("VALID"), st.sampled_from((1, 5, 16, 24, 32, 48)), st.just(False)
)
DEPTHWISE, DENSE = _windows(True), _windows(False)
CHAINS = st.one_of(
    st.tuples(POINTWISE, DEPTHWISE, POINTWISE),
    st.tuples(POINTWISE, DEPTHWISE, POINTWISE),
    st.tuples(POINTWISE, DENSE, POINTWISE),
    st.tuples(DEPTHWISE, POINTWISE),
    st.tuples(POINTWISE, DEPTHWISE),
    st.tuples(POINTWISE, POINTWISE),
    st.tuples(DEPTHWISE, DEPTHWISE, POINTWISE),
)


def chain(steps: tuple[Step, ...], size: tuple[int, int], channels: int, batch: int) -> Case | None:
    """The stages one after the other, each with a bias, and the input added where it has the result's shape.

    None where a window does not fit into what it moves over.
    """
    shapes: list[tuple[int, ...]] = []
    depth = channels
    for step in steps:
        features = depth if step.depthwise else step.features
        shapes += [(*step.window, 1 if step.depthwise else depth, features), (features,)]
        depth = features

    def fn(x, *weights):
        y = x
        for number, step in enumerate(steps):
            kernel, bias = weights[2 * number : 2 * number + 2]
            groups = y.shape[-1] if step.depthwise else 1
            y = lax.conv_general_dilated(
                y, kernel, step.strides, step.padding, dimension_numbers=DIMENSIONS, feature_group_count=groups
            )
            y = y + bias
            if number < len(steps) - 1:
                y = jnp.clip(y, -3, 6)
        return y + x if y.shape == x.shape else y

    image = (batch, *size, channels)
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (image, *shapes)]
    if 0 in jax.eval_shape(fn, *types).shape:
        return None
    return Case(f"{steps} of {image}", fn, (image,), tuple(shapes))


def check(lowered: Sample, target: Target, seed: int, most: int = 2) -> Counter[str]:
    """The default and a few random points of the space, all against JAX; code may be refused but for the default."""
    sketch = banded(lowered.func, target)
    if sketch is None:
        return Counter(none=1)
    space, rng = SearchSpace(lowered.func, target, [sketch]), np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for number, candidate in enumerate([*space.defaults(), *(space.sample(rng) for _ in range(most))]):
        assert candidate is not None
        try:
            scheduled = replay(lowered.func, candidate.trace)
            verify(scheduled)
            kernel = compile_kernel(scheduled, target)
        except (ScheduleError, CodegenError) as error:
            assert number, f"the untuned choice was refused: {lowered.case} {candidate}: {error}"
            counts["refused"] += 1
            continue
        (got,) = run_native(kernel, lowered.arguments(scheduled), 3)
        assert_same(got, lowered.wanted[0], True, f"{lowered.case.name} {candidate} for {target.vector_bits} bits")
        counts["chunks" if dict(candidate.decisions)["chunk"] else "bands"] += 1
    return counts


def test_chunks_of_channels_join_no_rows():
    """A chunk is a part of a row, and what is added up in the cache needs registers that a joined tile fills."""
    steps = (
        Step((1, 1), (1, 1), "VALID", 96, False),
        Step((3, 3), (1, 1), "SAME", 96, True),
        Step((1, 1), (1, 1), "VALID", 20, False),
    )
    case = chain(steps, (12, 12), 20, 1)
    assert case is not None
    sketch = banded(sample(case).func, replace(HOST.restricted("avx2"), threads=2))
    assert sketch is not None and sketch.choices["chunk"][-1] > 0
    joined, plain = (next(t for t in sketch.choices["tile2"] if str(t).endswith("j") == own) for own in (True, False))
    whole, chunks = ({**sketch.default, "chunk": chunk, "tile2": joined} for chunk in sketch.choices["chunk"][:2])
    assert [s.primitive for s in sketch.build(whole)].count("fuse_box") == 3
    assert sketch.build(chunks) == sketch.build({**chunks, "tile2": plain})


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("batch", "size", "features"), [(2, (9, 1), (17, 9)), (3, (28, 3), (48, 9)), (2, (33, 14), (17, 40))]
)
def test_rows_that_bands_cut_are_not_joined(name, batch, size, features):
    """The default was refused: that threads write different rows could not be told any more."""
    steps = tuple(Step((1, 1), (1, 1), "VALID", count, False) for count in features)
    case = chain(steps, size, 16, batch)
    assert case is not None and not check(sample(case), TARGETS[name], 0, 0)["refused"]


@pytest.mark.parametrize("name", TARGETS)
def test_random_chains(name, request):
    counts: Counter[str] = Counter()

    @given(
        steps=CHAINS,
        size=st.tuples(st.integers(1, 12), st.sampled_from((1, 4, 7, 13, 15, 30))),
        channels=st.sampled_from((1, 3, 16, 20)),
        batch=st.integers(1, 2),
        special=st.booleans(),
        seed=st.integers(0, 1000),
    )
    @(FULL if request.config.getoption("--full") else QUICK)
    def run(steps, size, channels, batch, special, seed):
        case = chain(steps, size, channels, batch)
        if case is not None:
            counts.update(check(sample(case, special), TARGETS[name], seed))

    run()
    print(counts)
    assert counts["bands"] > 5 and counts.total() > 4 * counts["refused"], counts


EXPAND = Step((1, 1), (1, 1), "VALID", 32, False)
SPREAD = Step((3, 3), (2, 2), "SAME", 0, True)
NARROW = Step((1, 1), (1, 1), "VALID", 5, False)


@pytest.mark.parametrize("chunk", [0, 16])
@pytest.mark.parametrize("rows", [1, 2])
def test_schedules_are_interpreted_alike(rows, chunk):
    lowered = sample(chain((EXPAND, SPREAD, NARROW), (5, 6), 3, 2), special=True)
    target = replace(HOST, vector_bits=256, threads=3)
    sketch = banded(lowered.func, target)
    assert sketch is not None
    scheduled = replay(lowered.func, sketch.build({**sketch.default, "rows": rows, "chunk": chunk}))
    verify(scheduled)
    lowered.check(interpret(scheduled, lowered.arguments(scheduled)), f"{rows} rows, {chunk} channels")


def test_what_lies_between_stages_stays_in_the_cache():
    lowered = sample(chain((EXPAND, SPREAD, NARROW), (64, 64), 3, 1))
    target = replace(HOST, threads=2, l2_bytes=1 << 18)
    sketch = banded(lowered.func, target)
    assert sketch is not None
    scheduled = replay(lowered.func, sketch.build(sketch.default))
    assert {b.scope for b in buffers(scheduled).values()} <= {"global", "constant", "cache", "register"}
    assert all(b in scheduled.params for b in buffers(scheduled).values() if b.scope == "global")
    assert compile_kernel(scheduled, target).scratch_bytes <= target.l2_bytes


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.nn.softmax(x),  # reductions of rows
        lambda x: x @ x.T,  # a single stage
        lambda x: (x @ x.T) @ (x @ x.T),  # panels that are computed
    ],
)
def test_what_is_no_chain(fn):
    assert find_chain(sample(Case("no chain", fn, ((20, 20),))).func) is None
