"""Every primitive: importing this module registers them all."""

from __future__ import annotations

from . import caching, placement, prefetch, reduction, stream, tiling

__all__ = ["caching", "placement", "prefetch", "reduction", "stream", "tiling"]
