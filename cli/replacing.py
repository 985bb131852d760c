"""Writing over files: what a command writes may replace a file of the same kind, never another one."""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError

MODEL, ARRAYS, REPORT, PAGE = "a saved model", "a .npz file", "a report", "a page"
_BEGINNINGS = {MODEL: b"PK", ARRAYS: b"PK", REPORT: b"{", PAGE: b"<!doctype html"}


def check_target(path: Path, kind: str) -> None:
    """See that a result can be written, before minutes are spent on it.

    Args:
        path: Where to.
        kind: What will be written.

    Raises:
        UsageError: there is no such folder, or something else stands there.
    """
    if path.is_dir():
        raise UsageError(f"{path}: expected the path of a file, found a folder", "add a name")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}", "create it first")
    if path.exists() and not _is(path, kind):
        raise UsageError(f"{path}: expected {kind} or nothing there, found another file", "choose another path")


def _is(path: Path, kind: str) -> bool:
    beginning = _BEGINNINGS[kind]
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return False
    return not start or start.lstrip().lower().startswith(beginning.lower())
