"""Ranking candidates without building them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..costmodel.anatomy import dissect
from ..costmodel.base import CostModel
from ..costmodel.features import FEATURE_NAMES, FeatureExtractor
from ..ir.loop import LoopFunc
from ..ir.target import Target
from .space import Candidate

Rank = Callable[[Sequence[Candidate]], np.ndarray]
"""Scores of candidates, float[candidates]: binary logarithms of predicted latencies up to a constant."""


class Ranker:
    """Scores candidates of one workload with a cost model that is shared by all workloads.

    Args:
        func: the unscheduled program.
        target: the CPU.
        model: the cost model.
    """

    def __init__(self, func: LoopFunc, target: Target, model: CostModel) -> None:
        self.model = model
        self._extract = FeatureExtractor(dissect(func), target)
        self._known: dict[str, np.ndarray] = {}

    def features(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Features, float32[candidates, len(FEATURE_NAMES)]; computed once per candidate."""
        new = {c.key: c.trace for c in candidates if c.key not in self._known}
        self._known.update(zip(new, self._extract(list(new.values())), strict=True))
        if not candidates:
            return np.zeros((0, len(FEATURE_NAMES)), np.float32)
        return np.stack([self._known[c.key] for c in candidates])

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Scores, float[candidates]: binary logarithms of predicted latencies up to a constant, lower is better."""
        return self.model.predict(self.features(candidates))
