"""Rows that are done, written one by one, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .report import Machine, RowResult, SuiteOptions


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
    key: str
    machine: Machine
    row: RowResult


class Journal:
    """Lines of JSON in a file beside the report.

    A line counts only under the key it was written with: the same options, versions, sources and kind of machine.
    Others, and a line that was not finished, are passed over.

    Args:
        path: The file; it need not exist.
        key: See `run_key`.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    def read(self) -> tuple[Machine | None, dict[str, RowResult]]:
        """The machine as measured when the run began, and the rows that are done, by name."""
        machine, rows = None, {}
        if not self._path.exists():
            return None, {}
        for text in self._path.read_bytes().split(b"\n"):
            try:
                line = _Line.model_validate_json(text)
            except ValidationError:
                continue
            if line.key == self._key:
                machine = machine or line.machine
                rows[line.row.name] = line.row
        return machine, rows

    def add(self, machine: Machine, row: RowResult) -> None:
        """Keep a row, on the disk before this returns."""
        line = _Line(key=self._key, machine=machine, row=row).model_dump_json()
        with self._path.open("ab") as file:
            # A line that a killed run left unfinished must not swallow this one.
            file.write(b"\n" + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget it: the report is written."""
        self._path.unlink(missing_ok=True)


def run_key(options: SuiteOptions, machine: Machine) -> str:
    """What must be equal for rows of an earlier run to be rows of this one.

    The order and the choice of rows don't matter: a row is the same whatever else runs.
    """
    asked = options.model_dump(mode="json", exclude={"rows"})
    facts = asked, machine.versions, machine.sources, machine.fingerprint
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
