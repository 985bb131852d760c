"""What the Pallas backend raises."""

from __future__ import annotations


class PallasError(ValueError):
    """A program can't be emitted as Pallas kernels: the message says what was expected and what was found."""
