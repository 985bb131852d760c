"""Elementwise work: long runs of vectors."""

from __future__ import annotations

from ..ir.lanes import vector_lanes
from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy
from .sketch import Decisions, Sketch
from .stencil import stencil
from .steps import MIN_CHUNKS_PER_THREAD, same_axes, share, store_choices, stored, trips


def elementwise(func: LoopFunc, target: Target) -> Sketch | None:
    """Long runs of vectors, shared among threads."""
    parts = anatomy(func)
    if parts is None or parts.reductions or not parts.root.iters or not same_axes(parts):
        return None
    if stencil(func, target) is not None:
        return None
    lanes = vector_lanes(func, target)
    last = parts.root.iters[-1]
    wide = min(4 * lanes, last.extent)
    grain = max(wide, min(16384, last.extent // (2 * MIN_CHUNKS_PER_THREAD * target.threads) // wide * wide))
    stores = store_choices(parts, target)
    default: Decisions = {"grain": grain, "vectors": 4, "stores": stores[0]}
    grains = tuple(sorted({grain, wide, 2 * grain, 4 * grain}))
    choices = {"grain": grains, "vectors": (1, 2, 4, 8), "stores": stores}
    return Sketch("elementwise", choices, default, lambda d: _elementwise_trace(parts, d, lanes, target))


def _elementwise_trace(parts: Anatomy, d: Decisions, lanes: int, target: Target) -> Trace:
    root = parts.root.name
    *outer, last = parts.root.iters
    wide = min(int(d["vectors"]) * lanes, last.extent)
    loops = [(i, 1) for i in outer]
    grain = min(int(d["grain"]), last.extent)
    grain -= grain % wide
    steps = [Step("split", root, (i.name, 1)) for i in outer]
    named = [(f"{root}.{i.name}", i.extent, False) for i, _ in loops]
    if not outer and grain > wide:
        steps.append(Step("split", root, (last.name, grain)))
        named.append((f"{root}.{last.name}", trips(last, grain), last.extent % grain != 0))
    elif not outer:
        steps.append(Step("split", root, (last.name, wide)))
        named.append((f"{root}.{last.name}", trips(last, wide), last.extent % wide != 0))
    inner = named[-1][0]
    steps += [Step("compute_at", name, (inner,)) for name in reversed(parts.temporaries)]
    steps += [Step("vectorize", b.name, (last.name,)) for b in parts.all_blocks]
    return (*steps, *share(named, target.threads), *stored(parts, d))
