"""Strategies: determinism, no repetitions, and that evolution beats chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from search_fakes import TARGET, bowl, factors, sketch, workload

from tilewright.search.base import SearchStrategy
from tilewright.search.evolutionary import EvolutionarySearch
from tilewright.search.random_search import RandomSearch
from tilewright.search.space import Candidate, SearchSpace

LARGE = tuple(range(1, 101))


def space(sizes: Sequence[int] = (1, 2, 4, 8, 16, 32)) -> SearchSpace:
    return SearchSpace(workload(), TARGET, [sketch(sizes)])


def no_idea(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.zeros(len(candidates))


def oracle(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.log2([bowl(c.key) for c in candidates])


def make(name: str, own: SearchSpace, seed: int = 0) -> SearchStrategy:
    rng = np.random.default_rng(seed)
    return RandomSearch(own, rng) if name == "random" else EvolutionarySearch(own, no_idea, rng)


@pytest.mark.parametrize("name", ["random", "evolutionary"])
@pytest.mark.parametrize("sizes", [(1, 2, 4, 8, 16, 32), LARGE], ids=["small", "large"])
def test_same_seed_same_candidates(name: str, sizes: Sequence[int]) -> None:
    runs = []
    for _ in range(2):
        strategy = make(name, space(sizes))
        seen = []
        for _ in range(3):
            batch = strategy.ask(6)
            strategy.tell([(c, bowl(c.key)) for c in batch])
            seen += [c.key for c in batch]
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0]) == 18


@pytest.mark.parametrize("name", ["random", "evolutionary"])
def test_exhausts_a_small_space_without_repetition(name: str) -> None:
    strategy = make(name, space())
    asked = [c.key for _ in range(8) for c in strategy.ask(7)]
    assert len(asked) == len(set(asked)) == 36
    assert strategy.ask(1) == []


@pytest.mark.parametrize("name", ["random", "evolutionary"])
def test_what_was_told_is_not_proposed(name: str) -> None:
    own = space()
    strategy = make(name, own)
    known = list(own.enumerate())[:30]
    strategy.tell([(c, float("inf")) for c in known])
    assert {c.key for c in strategy.ask(20)} == {c.key for c in own.enumerate()} - {c.key for c in known}


def test_the_model_decides_the_order() -> None:
    strategy = EvolutionarySearch(space(), oracle, np.random.default_rng(0))
    assert factors(strategy.ask(1)[0].key) == (4, 16)


def test_evolution_improves_without_a_model() -> None:
    def best(name: str, seed: int) -> float:
        strategy, found = make(name, space(LARGE), seed), float("inf")
        for _ in range(10):
            results = [(c, bowl(c.key)) for c in strategy.ask(8)]
            strategy.tell(results)
            found = min(found, *(latency for _, latency in results))
        return found

    def with_model(seed: int) -> float:
        strategy = EvolutionarySearch(space(LARGE), oracle, np.random.default_rng(seed))
        return min(bowl(c.key) for c in strategy.ask(8))

    assert np.mean([with_model(s) for s in range(5)]) < np.mean([best("random", s) for s in range(5)])
