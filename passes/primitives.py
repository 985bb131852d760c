"""Every primitive: importing this module registers them all."""

from __future__ import annotations

from . import caching, flatten, in_place, placement, prefetch, reduction, stream, tiling

__all__ = ["caching", "flatten", "in_place", "placement", "prefetch", "reduction", "stream", "tiling"]
