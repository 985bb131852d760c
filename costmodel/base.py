"""What every cost model offers."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class CostModel(Protocol):
    """Ranks candidates from their features."""

    def fit(self, features: np.ndarray, latency: np.ndarray, group: np.ndarray) -> None:
        """Learn from measurements.

        Args:
            features: float32[samples, len(FEATURE_NAMES)].
            latency: seconds, float[samples], infinite for failures.
            group: number of the workload of each sample; latencies are only compared within a group.
        """
        ...

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Binary logarithms of latencies up to a constant per workload, float[samples]; lower is better."""
        ...
