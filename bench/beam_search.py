"""Beam search over the sketch and its decisions, in the order of their influence.

Each round decides one thing more and keeps the most promising partial schedules, as in the autoschedulers of Halide
(Adams et al., 2019) and Tiramisu. A partial schedule is judged by its best completion, not by itself. Nothing but the
cost model learns from measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..search.decision_tree import ROOT, DecisionTree, Path, by_influence
from ..search.ranking import Rank
from ..search.space import Candidate, SearchSpace

WIDTH = 8
"""Partial schedules that are kept per round."""
COMPLETIONS = 4
"""Completions that a partial schedule is judged by."""
EPSILON = 0.15
"""Share of a batch that is drawn at random, so that the model also learns where it is wrong."""
_ATTEMPTS = 16
"""Refused leaves that a completion puts up with."""


class BeamSearch:
    """Proposes the best completions that a beam comes across.

    Args:
        space: what to search.
        rank: the cost model's scores.
        rng: the only source of randomness.
    """

    def __init__(self, space: SearchSpace, rank: Rank, rng: np.random.Generator) -> None:
        self.space = space
        self._rank = rank
        self._rng = rng
        self._tree = DecisionTree(space, by_influence(space, rank))
        self._latency: dict[str, float] = {}

    def ask(self, count: int) -> list[Candidate]:
        """Up to ``count`` new candidates, the most promising first, then some random ones."""
        found = self._completions()
        greedy = max(1, round(count * (1 - EPSILON)))
        chosen: list[Candidate] = []
        for candidate, _ in sorted(found.values(), key=lambda entry: entry[1]):
            if len(chosen) == min(greedy, count):
                break
            if candidate.key not in {c.key for c in chosen}:
                chosen.append(candidate)
                self._tree.exclude(candidate)
        while len(chosen) < count and (drawn := self._tree.draw(ROOT, self._rng, favoured=0.0)) is not None:
            chosen.append(drawn[1])
            self._tree.exclude(drawn[1])
        return chosen

    def tell(self, results: Sequence[tuple[Candidate, float]]) -> None:
        """Learn latencies in seconds; see `SearchStrategy.tell`."""
        for candidate, latency in results:
            self._tree.exclude(candidate)
            if latency < self._latency.get(candidate.sketch, np.inf):
                self._latency[candidate.sketch] = latency
                self._tree.favour(candidate)

    def _completions(self) -> dict[Path, tuple[Candidate, float]]:
        """Every complete candidate that the beam looked at, with its score."""
        found: dict[Path, tuple[Candidate, float]] = {}
        beam = [ROOT]
        while beam:
            children = [child for path in beam if not self._tree.is_leaf(path) for child in self._tree.children(path)]
            drawn = {child: self._drawn(child) for child in children}
            new = {leaf: c for leaves in drawn.values() for leaf, c in leaves.items() if leaf not in found}
            scores = self._rank(list(new.values()))
            found.update((leaf, (c, float(s))) for (leaf, c), s in zip(new.items(), scores, strict=True))
            judged = {child: min(found[leaf][1] for leaf in leaves) for child, leaves in drawn.items() if leaves}
            beam = sorted(judged, key=lambda child: judged[child])[:WIDTH]
        return found

    def _drawn(self, path: Path) -> dict[Path, Candidate]:
        """A few completions: one like the best that is known, the others random."""
        chances = [1.0, *[0.5] * (COMPLETIONS - 1)]
        drawn = (self._tree.draw(path, self._rng, chance, _ATTEMPTS) for chance in chances)
        return dict(entry for entry in drawn if entry is not None)
