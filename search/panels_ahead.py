"""What a product fetches ahead of its panels: the next steps of the reduction while it computes with these."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.target import Target
from ..passes.schedule import Step
from .anatomy import Anatomy, Product
from .steps import buffer_bytes

AHEAD_BYTES = 4096
"""Bytes of a panel between what is fetched and what is read: several times what arrives within the latency of the
last-level cache while a tile computes."""
FEW_ROWS = 4
"""A tile of fewer rows has no time to fetch beside what it reads itself."""


def worth_fetching(parts: Anatomy, match: Product, target: Target) -> bool:
    """Whether panels come from further away than the second-level cache.

    The processor's own prefetchers stop at the end of each page, so that the first tile that reads a panel waits.
    """
    return match.rows >= FEW_ROWS and buffer_bytes(parts.found[match.panel.buffer]) > target.l2_bytes // 2


def fetch_panel(match: Product, steps: Sequence[Step], values: int, ahead: int) -> Step:
    """The step that fetches a packed panel ahead.

    Args:
        match: the product.
        steps: those before it, which split the reduction.
        values: elements of the panel that an iteration of the innermost loop reads.
        ahead: bytes between what is fetched and what is read.
    """
    update, last = match.update.name, match.reduce[-1].name
    splits = sum(s.primitive == "split" and s.target == update and s.args[0] == last for s in steps)
    loop = f"{update}.{last}" + (f".{splits - 1}" if splits > 1 else "")
    return Step("prefetch", update, (match.panel.buffer, loop, max(ahead // (4 * values), 1)))
