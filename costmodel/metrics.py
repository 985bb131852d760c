"""How well a cost model ranks: what counts is which candidate it puts first, never its error."""

from __future__ import annotations

import numpy as np


def spearman(scores: np.ndarray, latency: np.ndarray) -> float:
    """Rank correlation of scores and latencies (lower is better in both), -1 to 1; 0 where either is constant."""
    a, b = _ranks(scores), _ranks(latency)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def top_score(scores: np.ndarray, latency: np.ndarray, count: int) -> float:
    """The best latency divided by the best among the ``count`` best scored candidates, 0 to 1 (TenSet's peak@k)."""
    chosen = np.argsort(scores, kind="stable")[:count]
    return float(latency.min() / latency[chosen].min())


def mean_by_group(metric: str, scores: np.ndarray, latency: np.ndarray, group: np.ndarray, count: int = 1) -> float:
    """The mean of a metric over workloads.

    Args:
        metric: ``spearman`` or ``top_score``.
        scores: float[samples], lower is better.
        latency: seconds, float[samples].
        group: number of the workload of each sample.
        count: for ``top_score``.
    """
    values = []
    for number in np.unique(group):
        own = group == number
        if metric == "spearman":
            values.append(spearman(scores[own], latency[own]))
        else:
            values.append(top_score(scores[own], latency[own], count))
    return float(np.mean(values))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2.0)[inverse]
