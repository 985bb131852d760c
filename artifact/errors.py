"""What goes wrong with saved functions."""

from __future__ import annotations


class ArtifactError(ValueError):
    """A function can't be saved, or a file can't be loaded; one line says what was expected, found, and what to do."""
