"""The points of a space as a tree: first the sketch, then its decisions, the most influential one first.

A *path* is a tuple of numbers: the sketch's, then for each decision the number of its value. Paths that decide
everything are *leaves*. A leaf is closed once it need not be looked at any more; a tree of closed leaves is exhausted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .ranking import Rank
from .sketch import Sketch
from .space import Candidate, SearchSpace

Path = tuple[int, ...]

ROOT: Path = ()
_FAVOURED = 0.5
"""Chance that a decision is completed with the favoured value."""
_ATTEMPTS = 4096
"""Leaves that may turn out to be refused or known before a draw gives up."""


def by_influence(space: SearchSpace, rank: Rank) -> tuple[tuple[str, ...], ...]:
    """The decisions of each sketch, those first that change the predicted latency most.

    Influence is the spread of the predictions when one decision takes each of its values and the others have their
    defaults. What matters is decided near the root, where a measurement tells most about what else is there.

    Returns:
        Names per sketch, in the space's order of sketches.
    """
    return tuple(_ordered(space, sketch, rank) for sketch in space.sketches)


def _ordered(space: SearchSpace, sketch: Sketch, rank: Rank) -> tuple[str, ...]:
    spread: dict[str, float] = {}
    for name, values in sketch.choices.items():
        made = [space.make(sketch.name, {**sketch.default, name: value}) for value in values]
        scores = rank([c for c in made if c is not None])
        spread[name] = float(np.ptp(scores)) if len(scores) else 0.0
    return tuple(sorted(spread, key=lambda name: -spread[name]))


class DecisionTree:
    """Which leaves of a space are still open, and candidates under any path.

    Args:
        space: the points.
        orders: names of each sketch's decisions, in the order in which they are decided.
    """

    def __init__(self, space: SearchSpace, orders: Sequence[Sequence[str]]) -> None:
        self.space = space
        self._orders = [tuple(order) for order in orders]
        self._widths = [
            [len(s.choices[name]) for name in order] for s, order in zip(space.sketches, orders, strict=True)
        ]
        self._sizes = [[math.prod(widths[depth:]) for depth in range(len(widths) + 1)] for widths in self._widths]
        self._numbers = {sketch.name: number for number, sketch in enumerate(space.sketches)}
        self._left: dict[Path, int] = {}
        self._known: set[str] = set()
        self._made: dict[Path, Candidate | None] = {}
        self._favoured = [self._path_of(sketch, sketch.default) for sketch in space.sketches]

    # ---- shape

    def is_leaf(self, path: Path) -> bool:
        """Whether everything is decided."""
        return bool(path) and len(path) == 1 + len(self._orders[path[0]])

    def children(self, path: Path) -> list[Path]:
        """Open paths with one more decision."""
        width = self._widths[path[0]][len(path) - 1] if path else len(self._widths)
        every = ((*path, number) for number in range(width))
        return [child for child in every if self.open(child)]

    def open(self, path: Path) -> int:
        """Number of open leaves at or under a path."""
        left = self._left.get(path)
        if left is not None:
            return left
        return self._sizes[path[0]][len(path) - 1] if path else self.space.size

    def path(self, candidate: Candidate) -> Path | None:
        """The leaf of a candidate; None if no sketch of the space builds it."""
        number = self._numbers.get(candidate.sketch)
        return None if number is None else self._path_of(self.space.sketches[number], dict(candidate.decisions))

    def _path_of(self, sketch: Sketch, decisions: Mapping[str, int | str]) -> Path:
        number = self._numbers[sketch.name]
        return (number, *(sketch.choices[name].index(decisions[name]) for name in self._orders[number]))

    # ---- closing

    def close(self, leaf: Path) -> None:
        """Never look at a leaf again."""
        if not self.open(leaf):
            return
        for depth in range(len(leaf) + 1):
            self._left[leaf[:depth]] = self.open(leaf[:depth]) - 1

    def exclude(self, candidate: Candidate) -> None:
        """Never draw a candidate again, whichever decisions lead to it."""
        self._known.add(candidate.key)
        leaf = self.path(candidate)
        if leaf is not None:
            self.close(leaf)

    def favour(self, candidate: Candidate) -> None:
        """Complete paths of this candidate's sketch with its decisions rather than with the defaults."""
        leaf = self.path(candidate)
        if leaf is not None:
            self._favoured[leaf[0]] = leaf

    # ---- drawing

    def leaves(self, path: Path = ROOT) -> Iterator[tuple[Path, Candidate]]:
        """All open leaves at or under a path with their candidates."""
        if not self.is_leaf(path):
            for child in self.children(path):
                yield from self.leaves(child)
        elif (candidate := self.candidate(path)) is not None:
            yield path, candidate

    def candidate(self, leaf: Path) -> Candidate | None:
        """What a leaf stands for; None, and the leaf is closed, if it is refused or excluded."""
        if leaf not in self._made:
            sketch = self.space.sketches[leaf[0]]
            chosen = zip(self._orders[leaf[0]], leaf[1:], strict=True)
            self._made[leaf] = self.space.make(
                sketch.name, {name: sketch.choices[name][number] for name, number in chosen}
            )
        candidate = self._made[leaf]
        if candidate is None or candidate.key in self._known:
            self.close(leaf)
            return None
        return candidate

    def draw(
        self, path: Path, rng: np.random.Generator, favoured: float = _FAVOURED, attempts: int = _ATTEMPTS
    ) -> tuple[Path, Candidate] | None:
        """An open leaf at or under a path.

        Args:
            path: what is decided already.
            rng: decides the rest.
            favoured: chance of each further decision to take its favoured value; 0 draws uniformly.
            attempts: leaves that may turn out to be refused or known.

        Returns:
            The leaf and its candidate, or None if none was found.
        """
        for _ in range(attempts):
            if not self.open(path):
                return None
            leaf = self._complete(path, rng, favoured)
            candidate = self.candidate(leaf)
            if candidate is not None:
                return leaf, candidate
        return None

    def _complete(self, path: Path, rng: np.random.Generator, favoured: float) -> Path:
        while not self.is_leaf(path):
            wanted = (*path, self._favoured[path[0]][len(path)]) if path else None
            if wanted is not None and self.open(wanted) and rng.random() < favoured:
                path = wanted
            elif path and path not in self._left:  # nothing under it is closed
                path = (*path, int(rng.integers(self._widths[path[0]][len(path) - 1])))
            else:
                path = self._uniform_child(path, rng)
        return path

    def _uniform_child(self, path: Path, rng: np.random.Generator) -> Path:
        """A child in proportion to its open leaves."""
        children = self.children(path)
        left = rng.integers(self.open(path))
        for child in children:
            left -= self.open(child)
            if left < 0:
                return child
        raise AssertionError(f"expected {self.open(path)} open leaves under {path}")
