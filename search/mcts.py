"""Monte Carlo tree search over the sketch and its decisions, with the cost model as value and as prior.

As in ProTuner (Haj-Ali et al., 2020) only complete schedules are judged: what a partial one is worth is what its best
known completion is predicted to run at. Selection is the PUCT rule of AlphaZero (Silver et al., 2017) with maxima
instead of averages, since a schedule is deterministic and one good leaf is all that is wanted. Measurements enter as
what the model got wrong: a leaf's prediction is corrected by the errors that were measured under the same decisions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .decision_tree import ROOT, DecisionTree, Path, by_influence
from .ranking import Rank
from .space import Candidate, SearchSpace

ROLLOUTS = 512
"""Candidates that are predicted per batch of proposals."""
_AT_ONCE = 64
"""How many of them are predicted together."""
_EXPLORATION = 0.3
"""Weight of the bonus for paths that were tried seldom, in units of relative speed."""
_TEMPERATURE = 0.1
"""Difference in relative speed that makes a path e times as likely a priori."""
_SHRINKAGE = 2.0
"""A path's own measured errors count half against those of the path above once there are so many."""
_ATTEMPTS = 16
"""Refused leaves that a rollout puts up with."""
_FAILURE = 2.0
"""Error that a failed candidate stands for: four times as slow as predicted."""


@dataclass(slots=True)
class _Errors:
    """Measured minus predicted logarithms of latencies, by path."""

    total: defaultdict[Path, float] = field(default_factory=lambda: defaultdict(float))
    count: Counter[Path] = field(default_factory=Counter)
    offset: float = 0.0

    def add(self, leaf: Path, error: float) -> None:
        for depth in range(1, len(leaf) + 1):
            self.total[leaf[:depth]] += error
            self.count[leaf[:depth]] += 1

    def expected(self, leaf: Path) -> float:
        """The error to expect of a leaf: each path's own mean, drawn towards that of the path above it."""
        value = 0.0
        for depth in range(1, len(leaf) + 1):
            path = leaf[:depth]
            value = (self.total.get(path, 0.0) + _SHRINKAGE * value) / (self.count[path] + _SHRINKAGE)
        return self.offset + value


@dataclass(slots=True)
class _Values:
    """What is known in one call of `ask`, while the cost model stays the same.

    Args:
        errors: of the model, as measured.
        trials: measured or proposed candidates by path.
        reference: logarithm of the latency that counts as speed 1.
        speed: predicted speed of the best known open leaf, by path.
        visits: rollouts by path.
    """

    errors: _Errors
    trials: Counter[Path]
    reference: float
    speed: dict[Path, float] = field(default_factory=dict)
    visits: Counter[Path] = field(default_factory=Counter)


class MctsSearch:
    """Grows a tree of decisions where the model and the measurements promise most.

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
        self._tried: dict[str, tuple[Candidate, float]] = {}

    def ask(self, count: int) -> list[Candidate]:
        """Up to ``count`` new candidates, the most promising first; fewer if the space is exhausted."""
        values = self._recall()
        self._roll_out(values)
        chosen: list[Candidate] = []
        while len(chosen) < count:
            found = self._propose(values)
            if found is None:
                break
            chosen.append(found)
        return chosen

    def tell(self, results: Sequence[tuple[Candidate, float]]) -> None:
        """Learn latencies in seconds, of candidates proposed here or elsewhere. See `SearchStrategy.tell`."""
        for candidate, latency in results:
            self._tree.exclude(candidate)
            self._tried[candidate.key] = (candidate, latency)
        measured = [(latency, c.key, c) for c, latency in self._tried.values() if np.isfinite(latency)]
        for _, _, candidate in sorted(measured, key=lambda entry: entry[:2], reverse=True):
            self._tree.favour(candidate)  # the fastest of each sketch comes last and stays

    # ---- what measurements say

    def _recall(self) -> _Values:
        """Back the measurements up: the model may have learned since the last call, so its errors are new."""
        known = [(path, c, s) for c, s in self._tried.values() if (path := self._tree.path(c)) is not None]
        trials: Counter[Path] = Counter()
        for path, _, _ in known:
            trials.update(path[:depth] for depth in range(len(path) + 1))
        measured = [(path, c, s) for path, c, s in known if not np.isnan(s)]
        seconds = np.array([s for _, _, s in measured])
        scores = self._rank([c for _, c, _ in measured]) if measured else np.zeros(0)
        finite = np.isfinite(seconds)
        errors = np.full(len(measured), _FAILURE)
        offset = reference = 0.0
        if finite.any():
            offset = float(np.median(np.log2(seconds[finite]) - scores[finite]))
            errors[finite] = np.log2(seconds[finite]) - scores[finite] - offset
            reference = float(np.log2(seconds[finite].min()))
        backed = _Errors(offset=offset)
        for (path, _, _), error in zip(measured, errors, strict=True):
            backed.add(path, float(error))
        return _Values(backed, trials, reference if finite.any() else np.nan)

    # ---- what the model says

    def _roll_out(self, values: _Values) -> None:
        """Predict completions, most of them where the tree promises most; all there are if they are few."""
        if self._tree.open(ROOT) <= ROLLOUTS:
            self._predict(values, dict(self._tree.leaves()))
            return
        predicted: Counter[Path] = Counter()
        while predicted[ROOT] < ROLLOUTS:
            batch: dict[Path, Candidate] = {}
            for _ in range(_AT_ONCE):
                if len(batch) < _AT_ONCE:
                    self._select(values, predicted, batch)
            if not batch:
                break
            self._predict(values, batch)

    def _predict(self, values: _Values, batch: dict[Path, Candidate]) -> None:
        """Give predictions to the paths above leaves; further completions resemble the best of each sketch."""
        scores = self._rank(list(batch.values()))
        if np.isnan(values.reference) and len(scores):
            values.reference = float(scores.min())
        for (leaf, candidate), score in zip(batch.items(), scores, strict=True):
            speed = float(np.exp2(values.reference - score - values.errors.expected(leaf)))
            if speed > values.speed.get(leaf[:1], 0.0):
                self._tree.favour(candidate)
            for depth in range(len(leaf) + 1):
                values.speed[leaf[:depth]] = max(values.speed.get(leaf[:depth], 0.0), speed)

    def _select(self, values: _Values, predicted: Counter[Path], batch: dict[Path, Candidate]) -> None:
        """Descend to a path with children that nobody looked at, and complete each of them."""
        path = ROOT
        while not self._tree.is_leaf(path):
            children = [c for c in self._tree.children(path) if predicted[c] < self._tree.open(c)]
            if not children or any(child not in values.speed for child in children):
                break
            path = self._best_child(values, path, children, values.visits)
        for depth in range(len(path) + 1):
            values.visits[path[:depth]] += 1  # also a virtual loss: the next descent of this batch goes elsewhere
        for child in [path] if self._tree.is_leaf(path) else self._tree.children(path):
            drawn = None if child in values.speed else self._tree.draw(child, self._rng, attempts=_ATTEMPTS)
            if drawn is not None and not predicted[drawn[0]]:
                batch[drawn[0]] = drawn[1]
                predicted.update(drawn[0][:depth] for depth in range(len(drawn[0]) + 1))

    def _best_child(self, values: _Values, path: Path, children: list[Path], tried: Counter[Path]) -> Path:
        """The PUCT rule: predicted speed, and a bonus for what is likely to be fast and was tried seldom."""
        speed = np.array([values.speed.get(child, 0.0) for child in children])
        prior = np.exp((speed - speed.max()) / _TEMPERATURE)
        seldom = np.sqrt(1 + tried[path]) / (1 + np.array([tried[child] for child in children]))
        return children[int(np.argmax(speed + _EXPLORATION * prior / prior.sum() * seldom))]

    # ---- what to measure

    def _propose(self, values: _Values) -> Candidate | None:
        """Descend by trials instead of rollouts, take what is there, and count it as tried at once."""
        path = ROOT
        while self._tree.open(ROOT):
            children = [] if self._tree.is_leaf(path) else self._tree.children(path)
            if any(child in values.speed for child in children):
                path = self._best_child(values, path, children, values.trials)
                continue
            drawn = self._tree.draw(path, self._rng)
            if drawn is None:
                if self._tree.open(path):
                    return None  # nearly everything is refused
                path = ROOT
                continue
            leaf, candidate = drawn
            self._tree.exclude(candidate)
            self._tried[candidate.key] = (candidate, np.nan)
            self._forget(values, leaf)
            values.trials.update(leaf[:depth] for depth in range(len(leaf) + 1))
            return candidate
        return None

    def _forget(self, values: _Values, leaf: Path) -> None:
        """A leaf is taken: the paths above it are worth what is left under them."""
        values.speed.pop(leaf, None)
        for depth in range(len(leaf) - 1, -1, -1):
            path = leaf[:depth]
            left = [values.speed[child] for child in self._tree.children(path) if child in values.speed]
            if left:
                values.speed[path] = max(left)
            else:
                values.speed.pop(path, None)
