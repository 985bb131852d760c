"""What object code holds for: the machine, and everything that took part in making it."""

from __future__ import annotations

from dataclasses import dataclass

from ..database.versions import library_versions
from ..driver.kernels import BACKEND
from ..ir.target import Target, detect_target
from ..passes.schedule import SCHEDULE_VERSION
from .manifest import Manifest


@dataclass(frozen=True, slots=True)
class Environment:
    """A machine and what is installed on it."""

    target: Target
    versions: dict[str, str]
    backend: str
    schedule_version: int


def environment() -> Environment:
    """This process's."""
    return Environment(detect_target(), library_versions(), BACKEND, SCHEDULE_VERSION)


def difference(manifest: Manifest, here: Environment) -> str:
    """Why a file's code does not hold here; empty if it does."""
    if manifest.machine.fingerprint != here.target.fingerprint:
        there = f"{manifest.machine.name} with {manifest.machine.threads} threads"
        return f"made for another machine ({there}; here {here.target.name} with {here.target.threads})"
    if (manifest.backend, manifest.schedule_version) != (here.backend, here.schedule_version):
        found = f"{manifest.backend}, schedules {manifest.schedule_version}"
        return f"made by another code generator ({found}; here {here.backend}, schedules {here.schedule_version})"
    for name in sorted(manifest.versions.keys() | here.versions.keys()):
        there, mine = manifest.versions.get(name, "none"), here.versions.get(name, "none")
        if there != mine:
            return f"made with {name} {there} (here {mine})"
    return ""
