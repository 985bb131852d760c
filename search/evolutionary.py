"""Evolutionary search: many proposals from the best measured candidates, ranked by the cost model before measuring.

The scheme is Ansor's (Zheng et al., OSDI 2020): mutation and crossover of the measured best, fitness from the learned
model, and a share of each batch drawn at random so that the model also learns where it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .ranking import Rank
from .space import Candidate, SearchSpace

POPULATION = 24
GENERATIONS = 4
PROPOSALS = 256
EPSILON = 0.15
"""Share of a batch that is drawn at random."""
_CROSSOVER = 0.3


class EvolutionarySearch:
    """Breeds candidates from the best measured ones.

    Where the space is small enough to be listed, the pool that is ranked is everything that was not measured yet.

    Args:
        space: what to search.
        rank: the cost model's scores.
        rng: the only source of randomness.
    """

    def __init__(self, space: SearchSpace, rank: Rank, rng: np.random.Generator) -> None:
        self.space = space
        self._rank = rank
        self._rng = rng
        self._latency: dict[str, float] = {}
        self._measured: dict[str, Candidate] = {}
        self._seen: set[str] = set()
        self._all: list[Candidate] | None = None

    def ask(self, count: int) -> list[Candidate]:
        """Up to ``count`` new candidates, the most promising first, then some random ones."""
        pool = self._pool()
        if not pool:
            return []
        order = np.argsort(self._rank(pool), kind="stable")
        greedy = max(1, round(count * (1 - EPSILON)))
        chosen = [pool[i] for i in order[:greedy]]
        rest = [pool[i] for i in order[greedy:]]
        drawn = self._rng.permutation(len(rest))[: count - len(chosen)]
        chosen += [rest[i] for i in drawn]
        self._seen.update(c.key for c in chosen)
        return chosen[:count]

    def tell(self, results: Sequence[tuple[Candidate, float]]) -> None:
        """Learn latencies in seconds; infinite for failures."""
        for candidate, latency in results:
            self._seen.add(candidate.key)
            if np.isfinite(latency):
                self._measured[candidate.key] = candidate
                self._latency[candidate.key] = latency

    # ---- the pool

    def _pool(self) -> list[Candidate]:
        """Candidates that were never proposed, without repetitions."""
        if self.space.enumerable:
            if self._all is None:
                self._all = list(_distinct(self.space.enumerate()))
            self._all = [c for c in self._all if c.key not in self._seen]
            return self._all
        found = {c.key: c for c in self._samples(PROPOSALS)}
        parents = self._best()
        for _ in range(GENERATIONS):
            found.update((c.key, c) for c in self._children([*parents, *self._fittest(found.values())]))
        return [c for c in found.values() if c.key not in self._seen]

    def _samples(self, count: int) -> Iterable[Candidate]:
        drawn = (self.space.sample(self._rng) for _ in range(count))
        return (c for c in drawn if c is not None)

    def _best(self) -> list[Candidate]:
        keys = sorted(self._latency, key=lambda key: (self._latency[key], key))
        return [self._measured[key] for key in keys[:POPULATION]]

    def _fittest(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        found = list(candidates)
        return [found[i] for i in np.argsort(self._rank(found), kind="stable")[:POPULATION]] if found else []

    def _children(self, parents: Sequence[Candidate]) -> Iterable[Candidate]:
        for _ in range(PROPOSALS // GENERATIONS if parents else 0):
            first, second = (parents[int(i)] for i in self._rng.integers(len(parents), size=2))
            child = self.space.crossover(first, second, self._rng) if self._rng.random() < _CROSSOVER else None
            child = child or self.space.mutate(first, self._rng)
            if child is not None:
                yield child


def _distinct(candidates: Iterable[Candidate]) -> Iterable[Candidate]:
    return {c.key: c for c in candidates}.values()
