"""What the tests of the command line share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tilewright.cli import app

FOLDER = Path(__file__).parent
SAMPLES = FOLDER / "sample_models.py"


@dataclass(frozen=True)
class Typed:
    """What a command that was typed did."""

    code: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        """Standard output as the one JSON value that it has to be."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The only line of standard error, which has to be an error."""
        (line,) = self.stderr.splitlines()
        assert line.startswith("error: "), line
        return line.removeprefix("error: ")


Type = Callable[..., Typed]


def type_in_process(*arguments: object) -> Typed:
    """Runs a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Typed(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def cli() -> Type:
    return type_in_process


@pytest.fixture(autouse=True)
def in_samples_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands are typed in the folder of the sample models, and leave nothing behind in this process."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in {"broken", "incomplete", "model", "sample_models", "script"} - known:
        sys.modules.pop(name, None)
