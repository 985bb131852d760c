"""Contests: who holds the title after noise, after a real improvement, and after the last comparison."""

from __future__ import annotations

import numpy as np
import pytest
from search_fakes import TARGET, FakeDatabase, FakeRunner, Latency, bowl, build, factors, sketch, task

from tilewright.costmodel.roofline import RooflineCostModel
from tilewright.ir.loop import Buffer, Pack
from tilewright.ir.measure import MeasureData, TimingProtocol
from tilewright.search.contest import Contest, TuneTask
from tilewright.search.ranking import Ranker
from tilewright.search.space import Candidate, SearchSpace


def contest(latency: Latency = bowl, noise: float = 0.0, seed: int = 0) -> Contest:
    own = task()
    space = SearchSpace(own.func, TARGET, [sketch()])
    return Contest(
        task=own,
        space=space,
        ranker=Ranker(own.func, TARGET, RooflineCostModel()),
        runner=FakeRunner(latency, noise=noise, rng=np.random.default_rng(seed)),
        database=FakeDatabase(),
        build=build,
        timing=TimingProtocol(repeats=9),
        executor=None,
        preferred=space.defaults()[0].key,
    )


def point(own: Contest, outer: int, inner: int) -> Candidate:
    made = own.space.make("tiles", {"outer": outer, "inner": inner})
    assert made is not None
    return made


@pytest.mark.parametrize("seed", range(4))
def test_equal_candidates_do_not_take_the_title(seed: int) -> None:
    own = contest(lambda key: 10e-6, noise=0.4, seed=seed)
    own.compete([*own.space.defaults(), *(c for c in own.space.enumerate() if factors(c.key) != (32, 1))])
    assert not own.replaced


def test_a_real_improvement_takes_it() -> None:
    own = contest(noise=0.05)
    own.compete([point(own, 32, 1), point(own, 8, 8)])
    own.compete([point(own, 4, 16), point(own, 1, 1)])
    assert own.incumbent is not None and factors(own.incumbent.candidate.key) == (4, 16)
    median, low, high = own.settle()
    assert low <= median <= high and low > 2


def test_the_default_returns_if_the_last_comparison_is_lost() -> None:
    own = contest()
    own.compete([point(own, 32, 1), point(own, 4, 16)])
    assert own.replaced
    own.runner = FakeRunner(lambda key: 10e-6, noise=0.1)
    assert own.settle() == (1.0, 1.0, 1.0)
    assert not own.replaced


def test_latencies_are_relative_to_the_incumbent() -> None:
    """The machine becomes twice as slow: what is measured then still compares with what was measured before."""
    own = contest()
    own.compete([point(own, 32, 1)])
    own.runner = FakeRunner(lambda key: 2 * bowl(key))
    ((_, latency),) = own.compete([point(own, 8, 8)])
    assert latency == pytest.approx(bowl(point(own, 8, 8).key))


def test_constants_are_packed_as_the_kernel_wants_them() -> None:
    seen: list[dict[int, np.ndarray]] = []

    class Runner(FakeRunner):
        def measure(self, data, requests, timing):  # type: ignore[no-untyped-def]
            seen.extend(dict(r.constants) for r in requests)
            return super().measure(data, requests, timing)

    def pack(own: TuneTask, candidate: Candidate):  # type: ignore[no-untyped-def]
        kernel = build(own, candidate)
        packed = Buffer("x", (2, 64, 128), "float32", "constant", (Pack(1, 128, 256),))
        return type(kernel)(kernel.symbol, kernel.object_code, (packed, own.func.params[1]))

    own = contest()
    x = np.arange(64 * 256, dtype=np.float32).reshape(64, 256)
    own.task = TuneTask(own.task.key, own.task.func, TARGET, 1.0, MeasureData((x,), (x,), (0.0,), frozenset({0})))
    own.build, own.runner = pack, Runner()
    own.compete([point(own, 1, 1), point(own, 2, 1)])
    assert np.array_equal(seen[0][0], np.stack([x[:, :128], x[:, 128:]]))
    assert seen[0][0] is seen[1][0], "packed once"
