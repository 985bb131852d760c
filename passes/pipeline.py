"""The default sequence of graph passes, on one screen."""

from __future__ import annotations

from .expand_splits import ExpandSplits
from .fold import FoldConstants, MergeEqual, RemoveDead
from .fold_scale import FoldScales
from .half_tanh import HalfTanh
from .loops import SimplifyLoops
from .manager import Pass
from .pick_late import PickLate
from .simplify import Simplify

_PASSES: tuple[Pass, ...] = (
    RemoveDead(),
    ExpandSplits(),
    FoldConstants(),
    Simplify(),
    FoldConstants(name="fold-constants-again"),
    FoldScales(),
    PickLate(),
    Simplify(name="simplify-again"),
    MergeEqual(),
    HalfTanh(),
    RemoveDead(name="remove-dead-again"),
)

GRAPH_PASSES: tuple[Pass, ...] = (*_PASSES, SimplifyLoops(_PASSES))
"""Every pass keeps meaning: bit for bit, except `FoldScales`, which rounds constants once instead of results twice,
`PickLate`, which sums single elements of a product in another order, and `HalfTanh`, which takes another function."""
