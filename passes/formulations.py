"""The ways to compute a region beside its own kernel, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from ..ir.graph import Graph
from .formulation import Formulation
from .split_axis import split_axis
from .winograd import SIZES, winograd

FORMULATIONS: Mapping[str, Callable[[Graph], Formulation | None]] = {
    f"winograd{size}": functools.partial(winograd, results=size) for size in sorted(SIZES, reverse=True)
} | {"chunks": split_axis}
"""Each makes a formulation of a region, or None where it does not apply; the preferred ones first."""
