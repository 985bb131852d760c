"""Strategies: determinism, no repetitions, refusals, foreign candidates, and that they beat chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from landscapes import LARGE, SMALL, Landscape, search
from landscapes import space as wide_space
from search_fakes import TARGET, bowl, factors, sketch, workload

from tilewright.bench.search_contestants import CONTESTANTS
from tilewright.driver.options import make_options
from tilewright.search.base import SearchStrategy
from tilewright.search.evolutionary import EvolutionarySearch
from tilewright.search.mcts import MctsSearch
from tilewright.search.space import Candidate, SearchSpace
from tilewright.search.strategies import DEFAULT_STRATEGY, STRATEGIES, strategy_named

FINE = tuple(range(1, 101))
Rank = Callable[[Sequence[Candidate]], np.ndarray]


def space(sizes: Sequence[int] = (1, 2, 4, 8, 16, 32), refuse: int = 0) -> SearchSpace:
    return SearchSpace(workload(), TARGET, [sketch(sizes, refuse)])


def no_idea(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.zeros(len(candidates))


def oracle(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.log2([bowl(c.key) for c in candidates])


def make(name: str, own: SearchSpace, seed: int = 0, rank: Rank = no_idea) -> SearchStrategy:
    return CONTESTANTS[name](own, rank, np.random.default_rng(seed))


every = pytest.mark.parametrize("name", list(CONTESTANTS))
guided = pytest.mark.parametrize("name", [name for name in CONTESTANTS if name != "random"])


@every
@pytest.mark.parametrize("sizes", [(1, 2, 4, 8, 16, 32), FINE], ids=["small", "large"])
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


@every
@pytest.mark.parametrize("told", [True, False], ids=["told", "in flight"])
def test_exhausts_a_small_space_without_repetition(name: str, told: bool) -> None:
    strategy = make(name, space())
    asked = []
    for _ in range(8):
        batch = strategy.ask(7)
        asked += [c.key for c in batch]
        if told:
            strategy.tell([(c, bowl(c.key)) for c in batch])
    assert len(asked) == len(set(asked)) == 36
    assert strategy.ask(1) == []


@every
def test_refusals_end_nothing(name: str) -> None:
    own = space(refuse=8)
    strategy = make(name, own)
    asked = [c.key for _ in range(8) for c in strategy.ask(7)]
    assert len(asked) == len(set(asked)) == 30
    assert own.rejections.total() == 6


@every
def test_a_space_that_refuses_everything_gives_nothing(name: str) -> None:
    assert make(name, wide_space([(50, 50, 50), (3, 1)], refuse={"d1": 0, "d0": 0})).ask(0) == []
    assert make(name, wide_space([(7, 1)], refuse={"d1": 0})).ask(4) == []


@every
def test_failures_are_not_proposed_again(name: str) -> None:
    strategy = make(name, space())
    asked = []
    while batch := strategy.ask(5):
        strategy.tell([(c, float("inf")) for c in batch])
        asked += [c.key for c in batch]
    assert len(asked) == len(set(asked)) == 36


@every
def test_what_was_told_is_not_proposed(name: str) -> None:
    own = space()
    strategy = make(name, own)
    known = list(own.enumerate())[:30]
    strategy.tell([(c, float("nan")) for c in known])
    assert {c.key for c in strategy.ask(20)} == {c.key for c in own.enumerate()} - {c.key for c in known}


@every
def test_candidates_that_no_sketch_builds_are_told_without_harm(name: str) -> None:
    own = space()
    known = own.make("tiles", {"outer": 4, "inner": 16})
    assert known is not None
    stranger = Candidate("", (), known.trace[:1], "stranger")
    twin = replace(known, sketch="", decisions=())
    strategy = make(name, own)
    strategy.tell([(stranger, 1e-6), (twin, 2e-6)])
    asked = [c.key for _ in range(6) for c in strategy.ask(7)]
    assert len(asked) == 35 and known.key not in asked


@every
def test_equal_traces_of_different_decisions_are_proposed_once(name: str) -> None:
    own = sketch()
    same = replace(own, choices={**own.choices, "ignored": (1, 2, 3)}, default={**own.default, "ignored": 1})
    strategy = make(name, SearchSpace(workload(), TARGET, [same]))
    asked = []
    while batch := strategy.ask(7):
        asked += [c.key for c in batch]
        strategy.tell([(c, bowl(c.key)) for c in batch])
    assert len(asked) == len(set(asked)) == 36


@guided
def test_the_model_decides_the_order(name: str) -> None:
    assert factors(make(name, space(), rank=oracle).ask(1)[0].key) == (4, 16)


@guided
@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["small", "large"])
def test_beats_chance_with_a_model_that_is_partly_wrong(name: str, shapes: Sequence[Sequence[int]]) -> None:
    def best(chosen: str, seed: int) -> float:
        landscape = Landscape(shapes, seed, error=0.6)
        own = wide_space(shapes)
        return np.log2(min(search(make(chosen, own, seed, landscape.model), landscape, 32)))

    gains = [best("random", seed) - best(name, seed) for seed in range(12)]
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains)), "significantly better"
    assert np.mean(gains) > 0.2, "in factors of two"


def test_tree_search_beats_chance_by_measurements_alone() -> None:
    shapes = ((16, 8, 6),)

    def best(chosen: str, seed: int) -> float:
        landscape = Landscape(shapes, seed)
        return np.log2(min(search(make(chosen, wide_space(shapes), seed), landscape, 48)))

    gains = [best("random", seed) - best("mcts", seed) for seed in range(16)]
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


def test_tree_search_learns_where_the_model_is_wrong() -> None:
    """The model likes the half of the space that is slow; what is measured there turns the search to the other."""
    own = wide_space([(2, 12, 12)])

    def model(candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([2.0 * int(dict(c.decisions)["d0"]) for c in candidates])

    other = own.make("s0", {"d0": 1, "d1": 0, "d2": 0})
    assert other is not None
    strategy = MctsSearch(own, model, np.random.default_rng(0))
    believed = strategy.ask(8)
    assert {dict(c.decisions)["d0"] for c in believed} == {0}
    strategy.tell([*((c, 16e-5) for c in believed), (other, 1e-5)])
    assert {dict(c.decisions)["d0"] for c in strategy.ask(8)} == {1}


def test_measurements_of_others_guide_tree_search() -> None:
    own = wide_space([(12, 12)])
    landscape = Landscape([(12, 12)], 0, error=0.0)
    ranked = sorted(own.enumerate(), key=landscape.seconds)

    def mean_rank(known: Sequence[Candidate]) -> float:
        strategy = MctsSearch(own, no_idea, np.random.default_rng(0))
        strategy.tell([(c, landscape.seconds(c)) for c in known])
        return float(np.mean([ranked.index(c) for c in strategy.ask(12)]))

    assert mean_rank(ranked[1::6]) < 0.6 * mean_rank([])


def test_the_default_evolves() -> None:
    assert isinstance(make("evolutionary", space()), EvolutionarySearch)
    assert DEFAULT_STRATEGY in STRATEGIES


def test_unknown_strategies_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"strategy: expected one of .*'mcts'.*, found 'genetic'"):
        strategy_named("genetic")


def test_compile_takes_the_name_of_a_strategy() -> None:
    assert make_options(None, 1, None, "cpu", 0, False).strategy == DEFAULT_STRATEGY
    assert make_options(None, 1, None, "cpu", 0, False, "mcts").strategy == "mcts"
    with pytest.raises(ValueError, match="strategy: expected one of"):
        make_options(None, 1, None, "cpu", 0, False, "genetic")
    with pytest.raises(TypeError, match="strategy: expected the name"):
        make_options(None, 1, None, "cpu", 0, False, 3)
