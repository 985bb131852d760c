"""Random search: uniform sampling without replacement. The yardstick for every other strategy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..search.space import Candidate, SearchSpace

_ATTEMPTS = 20


class RandomSearch:
    """Proposes every candidate of a space at most once, in random order.

    Args:
        space: what to search.
        rng: the only source of randomness.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self.space = space
        self._rng = rng
        self._seen: set[str] = set()
        self._rest: list[Candidate] | None = None

    def ask(self, count: int) -> list[Candidate]:
        """Up to ``count`` new candidates; fewer if the space is exhausted."""
        out: list[Candidate] = []
        while len(out) < count:
            candidate = self._next()
            if candidate is None:
                break
            self._seen.add(candidate.key)
            out.append(candidate)
        return out

    def tell(self, results: Sequence[tuple[Candidate, float]]) -> None:
        """Note what is known already; random search learns nothing else."""
        self._seen.update(candidate.key for candidate, _ in results)

    def _next(self) -> Candidate | None:
        if not self.space.enumerable:
            drawn = (self.space.sample(self._rng) for _ in range(_ATTEMPTS))
            return next((c for c in drawn if c is not None and c.key not in self._seen), None)
        if self._rest is None:
            everything = list(self.space.enumerate())
            self._rest = [everything[i] for i in self._rng.permutation(len(everything))]
        while self._rest:
            candidate = self._rest.pop()
            if candidate.key not in self._seen:
                return candidate
        return None
