"""Predicted seconds of a schedule without any data: the features' own arithmetic, read as a cost model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import Trace
from .anatomy import dissect
from .features import FEATURE_NAMES, extract_features

_PREDICTED = FEATURE_NAMES.index("log_predicted")


class RooflineCostModel:
    """A cost model that needs no data: computing at the rate of the register tile, data at the rate of each cache."""

    def fit(self, features: np.ndarray, latency: np.ndarray, group: np.ndarray) -> None:
        """Learns nothing."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Binary logarithm of the predicted seconds, see `CostModel.predict`."""
        return features[:, _PREDICTED].astype(float)


def predict_native(func: LoopFunc, traces: Sequence[Trace], target: Target) -> np.ndarray:
    """Seconds that kernels take, predicted without replaying their schedules.

    Args:
        func: the unscheduled program.
        traces: schedules of it.
        target: the CPU; its peak and bandwidth set the scale.

    Returns:
        float[traces].
    """
    return np.exp2(extract_features(dissect(func), traces, target)[:, _PREDICTED].astype(float))
