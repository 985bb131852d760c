"""Every primitive: importing this module registers them all."""

from __future__ import annotations

from . import caching, placement, reduction, stream, tiling

__all__ = ["caching", "placement", "reduction", "stream", "tiling"]
