"""Which libraries are installed."""

from __future__ import annotations

import importlib.metadata

_VERSIONED = ("tilewright", "jax", "jaxlib", "llvmlite")


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide what a measurement means (nothing is imported)."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
