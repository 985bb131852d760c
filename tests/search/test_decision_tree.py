"""The tree of decisions: order, open leaves, draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from landscapes import SMALL, space

from tilewright.search.decision_tree import ROOT, DecisionTree, by_influence
from tilewright.search.space import Candidate, SearchSpace


def tree(own: SearchSpace) -> DecisionTree:
    return DecisionTree(own, [tuple(sketch.choices) for sketch in own.sketches])


def test_the_decision_that_changes_predictions_most_comes_first() -> None:
    weights = {"d0": 0.1, "d1": 3.0, "d2": 1.0}

    def rank(candidates: list[Candidate]) -> np.ndarray:
        return np.array([sum(weights[name] * int(value) for name, value in c.decisions) for c in candidates])

    orders = by_influence(space([(4, 4, 4), (2, 9)]), rank)  # type: ignore[arg-type]
    assert orders == (("d1", "d2", "d0"), ("d1", "d0"))


def test_influence_survives_refused_defaults(rng: np.random.Generator) -> None:
    orders = by_influence(space([(3, 3)], refuse={"d0": 0}), lambda candidates: np.zeros(len(candidates)))
    assert orders == (("d0", "d1"),)


def test_paths_lead_to_candidates_and_back(rng: np.random.Generator) -> None:
    own = space(SMALL)
    turned = DecisionTree(own, [tuple(reversed(tuple(sketch.choices))) for sketch in own.sketches])
    for leaf, candidate in turned.leaves():
        assert turned.path(candidate) == leaf
    foreign = Candidate("", (), (), "[]")
    assert turned.path(foreign) is None
    assert len(list(turned.leaves())) == own.size == turned.open(ROOT)


def test_closing_is_counted_on_every_path_above() -> None:
    own = tree(space([(3, 2), (4,)]))
    for leaf in [(0, 1, 0), (0, 1, 1), (0, 1, 1), (1, 3)]:
        own.close(leaf)
    assert own.open(ROOT) == 7 and own.open((0,)) == 4 and own.open((1,)) == 3
    assert own.open((0, 1)) == 0 and own.children((0,)) == [(0, 0), (0, 2)]


def test_draws_are_uniform_over_open_leaves(rng: np.random.Generator) -> None:
    own = tree(space([(2, 3), (2,)]))
    own.close((0, 0, 1))
    drawn = Counter(found[0] for _ in range(3500) if (found := own.draw(ROOT, rng, favoured=0.0)) is not None)
    assert len(drawn) == 7
    assert all(400 < count < 600 for count in drawn.values())


def test_draws_follow_what_is_favoured(rng: np.random.Generator) -> None:
    own = tree(space([(9, 9, 9)]))
    wanted = own.space.make("s0", {"d0": 2, "d1": 5, "d2": 7})
    assert wanted is not None
    assert own.draw((0, 4), rng, favoured=1.0) == ((0, 4, 0, 0), own.candidate((0, 4, 0, 0))), "the default at first"
    own.favour(wanted)
    found = own.draw((0, 4), rng, favoured=1.0)
    assert found is not None and found[0] == (0, 4, 5, 7)
    own.exclude(wanted)
    found = own.draw((0, 2), rng, favoured=1.0)
    assert found is not None and found[0][:3] == (0, 2, 5) and found[0] != (0, 2, 5, 7)


@pytest.mark.parametrize("favoured", [0.0, 0.5])
def test_refused_and_excluded_leaves_are_never_drawn(favoured: float, rng: np.random.Generator) -> None:
    own = tree(space([(4, 4)], refuse={"d1": 2}))
    known = own.space.make("s0", {"d0": 1, "d1": 1})
    assert known is not None
    own.exclude(known)
    seen: set[str] = set()
    while (found := own.draw(ROOT, rng, favoured)) is not None:
        seen.add(found[1].key)
        own.exclude(found[1])
    assert len(seen) == 11 and known.key not in seen
    assert own.open(ROOT) == 0


def test_a_space_that_refuses_everything_ends(rng: np.random.Generator) -> None:
    own = tree(space([(5_000, 1)], refuse={"d1": 0}))
    assert own.draw(ROOT, rng, attempts=50) is None
    assert own.open(ROOT) == 5_000 - 50
