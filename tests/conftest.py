"""Options and fixtures that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long form of sampled tests")
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


def pytest_configure() -> None:
    settings.register_profile("tests", deadline=None)  # no test asserts a time
    settings.load_profile("tests")
    # Shells start background jobs with Ctrl-C ignored, and processes that tests start and interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the tests, and the processes they start, away from the user's tuning database and signing key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def passes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled functions run the optimized graph through XLA, whether or not there are kernels for it."""
    from tilewright.compiler import Compiled

    monkeypatch.setattr(Compiled, "build", lambda self, graph, arguments: PassManager(GRAPH_PASSES).run(graph))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


class Golden:
    """Compares a text with a file beside the test, or refreshes the file under `--update-golden`."""

    def __init__(self, folder: Path, update: bool) -> None:
        self._folder = folder
        self._update = update

    def check(self, name: str, text: str) -> None:
        """Fails with the difference if `text` is not what the file `golden/<name>.txt` holds."""
        path = self._folder / f"{name}.txt"
        if self._update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {path.name}: run pytest with --update-golden"
        assert text == path.read_text()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(Path(request.path).parent / "golden", request.config.getoption("--update-golden"))
