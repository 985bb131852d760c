"""From a file to a function: `tilewright.load`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.extend.core import ClosedJaxpr

from .archive import Archive, read_archive
from .environment import Environment, difference, environment
from .errors import ArtifactError
from .loaded import Loaded, Program
from .manifest import type_of_text
from .program import trusted_program
from .signing import refusal
from .trees import structure_of

if TYPE_CHECKING:
    from ..database.store import Database


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    database: str | os.PathLike[str] | Database | None = None,
) -> Loaded:
    """Load a function that `Compiled.save` wrote.

    A file that this user saved on this kind of machine, with the same versions of everything, runs at once with the
    object code in it. Any other file is only data: its kernels are built anew from the recorded schedules and checked
    in the measuring worker, and where that fails XLA's code is used. `Loaded.status` says which it was.

    Args:
        path: The file.
        trust: **Executes machine code out of the file**, whoever wrote it, as loading a shared library does. Needed
            only for files from another user or computer of the same kind; use it if you trust their author with
            everything that you may do.
        database: Where failures of rebuilt kernels are kept, as for `compile`.

    Returns:
        A callable that takes and returns what the original did.

    Raises:
        ArtifactError: there is no such file, it is damaged, or it can't be run here; the message says what to do.
    """
    place = Path(path)
    try:
        return _load(read_archive(place), trust, database)
    except ArtifactError as error:
        raise ArtifactError(f"{place}: {error}") from error.__cause__


def _load(archive: Archive, trust: bool, database: Any) -> Loaded:
    manifest = archive.manifest
    if manifest.x64 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ArtifactError(
            "expected JAX with 64-bit types, which the function uses; set JAX_ENABLE_X64=1 in the environment, or call "
            "jax.config.update('jax_enable_x64', True) before loading it"
        )
    inputs, outputs = structure_of(manifest.inputs), structure_of(manifest.outputs)
    jaxpr, status = _program(archive, trust, database, environment())
    results = tuple(map(type_of_text, manifest.results))
    _check_types(archive, jaxpr)
    return Loaded(Program(manifest.name, jaxpr, results), manifest, inputs, outputs, status)


def _program(archive: Archive, trust: bool, database: Any, here: Environment) -> tuple[ClosedJaxpr, str]:
    """The program to run, and how it came to be."""
    manifest = archive.manifest
    distrust = "" if trust else refusal(archive.manifest_bytes, archive.signature)
    why = distrust or difference(manifest, here)
    if not why:
        return trusted_program(archive), "native" if manifest.calls else f"plain JAX: {manifest.reason}"
    from .rebuild import rebuilt_program  # imports the whole compiler

    return rebuilt_program(archive, why, here, database)


def _check_types(archive: Archive, jaxpr: ClosedJaxpr) -> None:
    """Refuse a program that takes or returns other types than the manifest says."""
    manifest = archive.manifest
    for what, texts, avals in (
        ("arguments", [a.type for a in manifest.arguments if a.used], jaxpr.in_avals),
        ("results", list(manifest.results), jaxpr.out_avals),
    ):
        types = [type_of_text(text) for text in texts]
        expected = [(t.shape, t.dtype) for t in types]
        found = [(tuple(aval.shape), aval.dtype.name) for aval in avals]
        if expected != found:
            raise ArtifactError(
                f"its manifest and its program disagree on the {what} ({len(expected)} and {len(found)} of them); "
                "save the function again"
            )
