"""The learned cost model: gradient-boosted trees that correct the roofline.

The trees learn what is left of the logarithm of the latency, relative to the workload's mean, after the roofline's
prediction. So the model starts as the roofline, needs few samples to become better, and never compares different
workloads. Selecting by error would be wrong (a model with a terrible error may rank well, see TenSet), hence
everything is relative to the workload and judged by rank.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .features import FEATURE_NAMES, FEATURE_VERSION

FORMAT = "tilewright cost model 1"
MIN_SAMPLES = 24
_PREDICTED = FEATURE_NAMES.index("log_predicted")
_MAX_RESIDUAL = 4.0
_PARAMETERS: dict[str, Any] = {
    "objective": "huber",
    "alpha": 0.5,
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 4,
    "min_data_in_bin": 1,
    "lambda_l2": 1.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # its own threads would go on spinning and disturb what is timed next
    "verbosity": -1,
}
_ROUNDS = 80


class ModelVersionError(ValueError):
    """A saved model was trained on other features than this version computes."""


class GbdtCostModel:
    """LightGBM on top of the roofline; with fewer than `MIN_SAMPLES` samples it is the roofline.

    Args:
        seed: of the random choices that training makes.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._booster: Any = None

    @property
    def trained(self) -> bool:
        """Whether it has learned anything."""
        return self._booster is not None

    def fit(self, features: np.ndarray, latency: np.ndarray, group: np.ndarray) -> None:
        """Train anew on all samples; failures are left out. See `CostModel.fit`."""
        _check(features)
        usable = np.isfinite(latency) & (latency > 0)
        features, latency, group = features[usable], latency[usable], group[usable]
        if len(latency) < MIN_SAMPLES:
            return
        import lightgbm

        residual = np.log2(latency) - features[:, _PREDICTED]
        target = np.empty(len(residual))
        for number in np.unique(group):
            own = group == number
            target[own] = residual[own] - np.median(residual[own])
        data = lightgbm.Dataset(
            features,
            target.clip(-_MAX_RESIDUAL, _MAX_RESIDUAL),
            feature_name=list(FEATURE_NAMES),
            params={"verbosity": -1, "min_data_in_bin": 1},
        )
        self._booster = lightgbm.train({**_PARAMETERS, "seed": self._seed}, data, num_boost_round=_ROUNDS)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """See `CostModel.predict`."""
        _check(features)
        predicted = features[:, _PREDICTED].astype(float)
        if self._booster is None or not len(features):
            return predicted
        return predicted + np.asarray(self._booster.predict(features, num_threads=1))

    # ---- files

    def save(self, path: Path) -> None:
        """Write the model as JSON with the version of the features it understands."""
        model = self._booster.model_to_string() if self._booster is not None else ""
        names = list(FEATURE_NAMES)
        path.write_text(
            json.dumps({"format": FORMAT, "feature_version": FEATURE_VERSION, "features": names, "model": model})
        )

    @classmethod
    def load(cls, path: Path) -> GbdtCostModel:
        """Read a model that `save` wrote.

        Raises:
            ModelVersionError: it was trained on other features.
            ValueError: the file is no model.
        """
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: expected a cost model as JSON, found something else: {error}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path}: expected a file of format {FORMAT!r}")
        found = (content.get("feature_version"), content.get("features"))
        if found != (FEATURE_VERSION, list(FEATURE_NAMES)):
            raise ModelVersionError(
                f"{path}: expected features of version {FEATURE_VERSION}, found version {found[0]}; train it again"
            )
        text = content.get("model")
        if not isinstance(text, str):
            raise ValueError(f"{path}: expected the model as text, found {type(text).__name__}")
        loaded = cls()
        if text:
            import lightgbm

            try:
                loaded._booster = lightgbm.Booster(model_str=text)
            except lightgbm.basic.LightGBMError as error:
                raise ValueError(f"{path}: expected a LightGBM model, found something else: {error}") from None
        return loaded


def _check(features: np.ndarray) -> None:
    if features.ndim != 2 or features.shape[1] != len(FEATURE_NAMES):
        raise ModelVersionError(f"expected {len(FEATURE_NAMES)} features per sample, found an array {features.shape}")
