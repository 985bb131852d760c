"""Sketch rules: which family of traces fits a workload.

Each rule looks at a fresh workload and answers with a `Sketch` or None. Rules match structure (a sum of products, a
reduction over channels, rows that are reduced and rescaled), never the name of a network or operation. One module per
family; what they share is in `steps.py`.
"""

from __future__ import annotations

from ..ir.loop import LoopFunc, blocks
from ..ir.target import Target
from ..passes.schedule import Step
from .banded import banded
from .channelwise import channelwise
from .columns import columns
from .contraction import contraction
from .elementwise import elementwise
from .planes import planes
from .rows import rows
from .sketch import Sketch, SketchRule
from .stencil import stencil
from .streaming import streaming
from .tiled import tiled
from .transposed import transposed


def plain(func: LoopFunc, target: Target) -> Sketch | None:
    """No loops moved, only the last axis that is written contiguously vectorised."""
    steps: list[Step] = []
    for block in blocks(func.body):
        name = block.write.index[-1].single_variable() if block.write.index else None
        if name is not None:
            steps.append(Step("vectorize", block.name, (name,)))
    return Sketch("plain", {}, {}, lambda _: tuple(steps))


RULES: tuple[SketchRule, ...] = (
    streaming,
    banded,
    contraction,
    columns,
    channelwise,
    planes,
    rows,
    transposed,
    stencil,
    elementwise,
    tiled,
    plain,
)
