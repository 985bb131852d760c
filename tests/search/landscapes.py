"""Spaces of several sketches with known latencies, and a model that is partly wrong about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from search_fakes import TARGET, workload

from tilewright.passes.schedule import Step
from tilewright.search.base import SearchStrategy
from tilewright.search.sketch import Decisions, Sketch
from tilewright.search.space import Candidate, SearchSpace

SMALL = ((24, 2, 4), (8, 3, 2), (4,))
LARGE = ((24, 6, 4, 5, 3), (16, 8, 4, 4))


def space(shapes: Sequence[Sequence[int]], refuse: Mapping[str, int] | None = None) -> SearchSpace:
    """One sketch per shape: a decision per number, with that many values.

    Args:
        shapes: of the sketches.
        refuse: by name of a decision, the value that is refused.
    """
    return SearchSpace(workload(), TARGET, [_sketch(f"s{n}", shape, refuse or {}) for n, shape in enumerate(shapes)])


def _sketch(name: str, shape: Sequence[int], refuse: Mapping[str, int]) -> Sketch:
    def build(decisions: Decisions) -> tuple[Step, ...]:
        if any(decisions.get(key) == value for key, value in refuse.items()):
            raise ValueError("expected another value")
        return tuple(Step("set", name, (key, value)) for key, value in decisions.items())

    choices = {f"d{n}": tuple(range(width)) for n, width in enumerate(shape)}
    return Sketch(name, choices, dict.fromkeys(choices, 0), build)


class Landscape:
    """Logarithms of latencies: what each decision adds, and what each pair of decisions adds.

    The model knows them with errors that belong to values of decisions, as a real one that misjudges a kind of tile.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], seed: int, error: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.base = rng.normal(0, 0.5, len(shapes))
        self.terms = [_terms(shape, rng, 1.0) for shape in shapes]
        self.errors = [_terms(shape, rng, error) for shape in shapes]

    def seconds(self, candidate: Candidate) -> float:
        """Its latency."""
        return 1e-5 * 2.0 ** self._sum(self.terms, candidate)

    def model(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """What the model thinks of candidates."""
        return np.array([self._sum(self.terms, c) + self._sum(self.errors, c) for c in candidates])

    def _sum(self, terms: Sequence[Mapping[tuple[int, int], np.ndarray]], candidate: Candidate) -> float:
        number = int(candidate.sketch[1:])
        values = [int(value) for _, value in candidate.decisions]
        return self.base[number] + sum(table[values[i], values[j]] for (i, j), table in terms[number].items())


def _terms(shape: Sequence[int], rng: np.random.Generator, scale: float) -> dict[tuple[int, int], np.ndarray]:
    terms: dict[tuple[int, int], np.ndarray] = {}
    for i, rows in enumerate(shape):
        terms[i, i] = np.diag(rng.normal(0, 0.8 * scale / (1 + i), rows))
        for j, columns in enumerate(shape[:i]):
            terms[i, j] = rng.normal(0, 0.25 * scale, (rows, columns))
    return terms


def search(strategy: SearchStrategy, landscape: Landscape, trials: int, batch: int = 8) -> list[float]:
    """Latencies of a strategy's trials in order."""
    found: list[float] = []
    while len(found) < trials:
        results = [(c, landscape.seconds(c)) for c in strategy.ask(min(batch, trials - len(found)))]
        if not results:
            break
        strategy.tell(results)
        found += [seconds for _, seconds in results]
    return found
