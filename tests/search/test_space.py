"""Spaces: candidates, mutation, crossover, encoding, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from search_fakes import TARGET, sketch, workload

from tilewright.passes.schedule import replay
from tilewright.search.sketch import Sketch
from tilewright.search.space import SearchSpace


def space(refuse: int = 0) -> SearchSpace:
    return SearchSpace(workload(), TARGET, [sketch(refuse=refuse)])


def test_enumerates_every_point_once() -> None:
    candidates = list(space().enumerate())
    assert len(candidates) == len({c.key for c in candidates}) == space().size == 36


def test_refused_decisions_are_counted_and_left_out(rng: np.random.Generator) -> None:
    refusing = space(refuse=8)
    assert len(list(refusing.enumerate())) == 30
    assert refusing.rejections == {"tiles: expected another factor": 6}
    assert all(c is None or dict(c.decisions)["outer"] != 8 for c in (refusing.sample(rng) for _ in range(50)))
    assert refusing.rejections.total() == 6, "a refusal is counted once per point"


def test_same_seed_same_samples() -> None:
    first, second = ([space().sample(np.random.default_rng(3)) for _ in range(5)] for _ in range(2))
    assert first == second


def test_mutation_changes_exactly_one_decision(rng: np.random.Generator) -> None:
    own = space()
    parent = own.defaults()[0]
    for _ in range(30):
        child = own.mutate(parent, rng)
        assert child is not None
        assert sum(a != b for a, b in zip(parent.decisions, child.decisions, strict=True)) == 1


def test_crossover_takes_every_decision_from_a_parent(rng: np.random.Generator) -> None:
    own = space()
    first, second = own.make("tiles", {"outer": 1, "inner": 2}), own.make("tiles", {"outer": 4, "inner": 8})
    assert first is not None and second is not None
    children = {own.crossover(first, second, rng) for _ in range(40)}
    found = {tuple(dict(c.decisions).values()) for c in children if c is not None}
    assert found == {(1, 2), (1, 8), (4, 2), (4, 8)}


def test_matrix_round_trip(rng: np.random.Generator) -> None:
    own = space()
    candidates = [c for c in (own.sample(rng) for _ in range(20)) if c is not None]
    matrix = own.encode(candidates)
    assert matrix.shape == (20, 3)
    assert [own.decode(row) for row in matrix] == candidates


def test_known_traces_are_located_and_foreign_ones_kept(rng: np.random.Generator) -> None:
    own = space()
    known = own.make("tiles", {"outer": 2, "inner": 4})
    assert known is not None
    foreign = known.trace[:1]
    first, second = own.locate([known.trace, foreign])
    assert first == known
    assert second.trace == foreign and second.sketch == ""
    assert own.mutate(second, rng) is None
    assert own.decode(own.encode([second])[0]) is None


def test_the_plain_sketch_is_only_a_last_resort() -> None:
    plain = Sketch("plain", {}, {}, lambda _: ())
    assert [s.name for s in SearchSpace(workload(), TARGET, [sketch(), plain]).sketches] == ["tiles"]
    assert [s.name for s in SearchSpace(workload(), TARGET, [plain]).sketches] == ["plain"]


def test_needs_a_sketch() -> None:
    with pytest.raises(ValueError, match="at least one sketch"):
        SearchSpace(workload(), TARGET, [])


def test_rules_give_replayable_defaults() -> None:
    func = workload(100, 1000)
    own = SearchSpace(func, TARGET)
    assert own.defaults()
    for candidate in own.defaults():
        replay(func, candidate.trace)
