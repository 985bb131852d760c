"""Learned models on frozen measurements, model files, metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tilewright.costmodel.dataset import Sample, TrainingData, from_rows, load_samples, save_samples
from tilewright.costmodel.features import FEATURE_NAMES, FEATURE_VERSION
from tilewright.costmodel.gbdt import GbdtCostModel, ModelVersionError
from tilewright.costmodel.metrics import mean_by_group, spearman, top_score
from tilewright.costmodel.roofline import RooflineCostModel
from tilewright.ir.target import Target

MEASURED = Path(__file__).parent / "measured.json"
TARGET = Target("test", "+avx2,+fma", 256, 2, 32 << 10, 1 << 20, 16 << 20, 100.0, 40.0)


@pytest.fixture(scope="module")
def measured() -> TrainingData:
    """269 candidates of eleven workloads: random search on 2 threads with AVX-512."""
    return load_samples(MEASURED)


def crossed(data: TrainingData, folds: np.ndarray) -> np.ndarray:
    """Predictions for each fold by a model that was trained on the others."""
    scores = np.zeros(len(data.latency))
    for fold in np.unique(folds):
        rest = folds != fold
        model = GbdtCostModel()
        model.fit(data.features[rest], data.latency[rest], data.group[rest])
        assert model.trained
        scores[~rest] = model.predict(data.features[~rest])
    return scores


def test_roofline_ranks(measured: TrainingData) -> None:
    scores = RooflineCostModel().predict(measured.features)
    assert mean_by_group("spearman", scores, measured.latency, measured.group) > 0.5
    assert mean_by_group("top_score", scores, measured.latency, measured.group, 4) > 0.9


def test_training_improves_on_the_roofline(measured: TrainingData) -> None:
    folds = np.random.default_rng(0).integers(4, size=len(measured.latency))
    learned = crossed(measured, folds)
    base = RooflineCostModel().predict(measured.features)
    groups = measured.group, 4
    assert mean_by_group("spearman", learned, measured.latency, measured.group) > 0.6
    assert mean_by_group("top_score", learned, measured.latency, measured.group) > 0.9
    assert mean_by_group("top_score", learned, measured.latency, *groups) >= mean_by_group(
        "top_score", base, measured.latency, *groups
    )


def test_transfers_to_workloads_it_never_saw(measured: TrainingData) -> None:
    scores = crossed(measured, measured.group)
    assert mean_by_group("spearman", scores, measured.latency, measured.group) > 0.5
    assert mean_by_group("top_score", scores, measured.latency, measured.group, 4) > 0.9


def test_untrained_is_the_roofline(measured: TrainingData) -> None:
    model = GbdtCostModel()
    model.fit(measured.features[:5], measured.latency[:5], measured.group[:5])
    assert not model.trained
    assert np.array_equal(model.predict(measured.features), RooflineCostModel().predict(measured.features))


def test_failures_are_left_out(measured: TrainingData) -> None:
    latency = measured.latency.copy()
    latency[::2] = np.inf
    model, reference = GbdtCostModel(), GbdtCostModel()
    model.fit(measured.features, latency, measured.group)
    reference.fit(measured.features[1::2], measured.latency[1::2], measured.group[1::2])
    assert np.array_equal(model.predict(measured.features), reference.predict(measured.features))


def test_only_differences_within_a_workload_matter(measured: TrainingData) -> None:
    model, scaled = GbdtCostModel(), GbdtCostModel()
    model.fit(measured.features, measured.latency, measured.group)
    scaled.fit(measured.features, measured.latency * 2.0**measured.group, measured.group)
    # Not bit for bit: the scaled logarithms round differently.
    assert np.allclose(model.predict(measured.features), scaled.predict(measured.features), atol=1e-3)


def test_training_is_deterministic(measured: TrainingData) -> None:
    models = [GbdtCostModel(3), GbdtCostModel(3)]
    for model in models:
        model.fit(measured.features, measured.latency, measured.group)
    assert np.array_equal(*(model.predict(measured.features) for model in models))


def test_file_round_trip(measured: TrainingData, tmp_path: Path) -> None:
    model = GbdtCostModel()
    model.fit(measured.features, measured.latency, measured.group)
    model.save(tmp_path / "model.json")
    loaded = GbdtCostModel.load(tmp_path / "model.json")
    assert np.array_equal(loaded.predict(measured.features), model.predict(measured.features))


def test_other_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    GbdtCostModel().save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "feature_version": FEATURE_VERSION + 1}))
    with pytest.raises(ModelVersionError, match="train it again"):
        GbdtCostModel.load(path)
    path.write_text(json.dumps({**content, "features": list(FEATURE_NAMES)[::-1]}))
    with pytest.raises(ModelVersionError):
        GbdtCostModel.load(path)
    with pytest.raises(ModelVersionError, match="features per sample"):
        GbdtCostModel().predict(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("text", ["", "[]", '{"format": "something else"}', "\x00"])
def test_files_that_are_no_model_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a"):
        GbdtCostModel.load(path)


@pytest.mark.parametrize("model", [3, "no model"])
def test_damaged_models_are_refused(model: object, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    GbdtCostModel().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": model}))
    with pytest.raises(ValueError, match="expected"):
        GbdtCostModel.load(path)


# ---- data


@dataclass(frozen=True)
class Row:
    workload_digest: str
    features: tuple[float, ...] | None
    feature_version: int | None
    median_s: float


def test_rows_of_other_versions_and_failures_are_left_out() -> None:
    good = tuple(float(i) for i in range(len(FEATURE_NAMES)))
    rows = [
        Row("a", good, FEATURE_VERSION, 1.0),
        Row("b", good, FEATURE_VERSION, 2.0),
        Row("a", good, FEATURE_VERSION, 3.0),
        Row("a", good, FEATURE_VERSION + 1, 4.0),
        Row("a", None, None, 5.0),
        Row("a", good, FEATURE_VERSION, float("inf")),
        Row("a", good[:-1], FEATURE_VERSION, 6.0),
    ]
    data = from_rows(rows)
    assert data.latency.tolist() == [1.0, 2.0, 3.0]
    assert data.group.tolist() == [0, 1, 0]
    assert data.features.shape == (3, len(FEATURE_NAMES))
    assert from_rows([]).features.shape == (0, len(FEATURE_NAMES))


def test_samples_round_trip(measured: TrainingData, tmp_path: Path) -> None:
    group = json.loads(MEASURED.read_text())["groups"][-1]
    samples = [Sample("x", group["workload"], trace, seconds) for trace, seconds in group["samples"]]
    save_samples(tmp_path / "samples.json", samples, TARGET)
    data = load_samples(tmp_path / "samples.json")
    assert data.latency.tolist() == [s.latency_s for s in samples]
    assert set(data.group) == {0}


@pytest.mark.parametrize(
    "change", [{"format": "other"}, {"groups": [{"name": "x"}]}, {"extra": 1}], ids=["format", "group", "extra"]
)
def test_damaged_samples_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    save_samples(path, [], TARGET)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="expected measured candidates"):
        load_samples(path)


# ---- metrics


def test_spearman() -> None:
    latency = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(latency * 7, latency) == pytest.approx(1)
    assert spearman(-latency, latency) == pytest.approx(-1)
    assert spearman(np.zeros(4), latency) == 0
    assert spearman(np.array([1.0, 1.0, 2.0, 2.0]), latency) == pytest.approx(0.894427)


def test_top_score() -> None:
    latency = np.array([4.0, 2.0, 1.0])
    assert top_score(np.array([0.0, 1.0, 2.0]), latency, 1) == 0.25
    assert top_score(np.array([0.0, 1.0, 2.0]), latency, 2) == 0.5
    assert top_score(np.array([0.0, 1.0, 2.0]), latency, 3) == 1.0
