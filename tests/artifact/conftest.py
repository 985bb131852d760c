"""Saved functions in a folder of the test, signed with a key of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import saved_functions

from tilewright.driver import pipeline


@pytest.fixture(autouse=True, scope="session")
def own_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the tests, and the processes they start, away from the user's signing key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def other_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another user: files that were signed before are not theirs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))


@pytest.fixture(autouse=True)
def anything_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small programs are not worth kernels; tests want them all the same."""
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)
    monkeypatch.setattr(pipeline, "WORTHWHILE_SECONDS", 0.0)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, own_key: None) -> saved_functions.Saved:
    """A function with native calls and work for XLA, saved once for all tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)
        patch.setattr(pipeline, "WORTHWHILE_SECONDS", 0.0)
        return saved_functions.save_mixed(tmp_path_factory.mktemp("saved") / "mixed.tw")
