"""Rows that are reduced and rescaled: normalisations and softmax."""

from __future__ import annotations

from dataclasses import replace

from ..ir.lanes import vector_lanes
from ..ir.loop import Access, Block, Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy, shared_rows
from .chains import reduction_loops
from .rows_ahead import fetch_rows, rows_ahead
from .sketch import Decisions, Sketch
from .steps import share, store_choices, stored


def rows(func: LoopFunc, target: Target) -> Sketch | None:
    """One row at a time: every temporary computed at the row, reductions split over vector lanes.

    A reduction of everything to one value is a single row.
    """
    parts = anatomy(func)
    if parts is None or not parts.reductions:
        return None
    leading = shared_rows(parts)
    if (not leading and parts.root.iters) or not all(_along_memory(block) for block in parts.reductions):
        return None
    lanes = vector_lanes(func, target)
    if any(_wide_result(block, leading, lanes) for block in parts.reductions):
        return None
    stores = store_choices(parts, target)
    distance = rows_ahead(parts, leading, target)
    ahead = (distance, 0) if distance else (0,)
    default: Decisions = {"lanes": 4 * lanes, "stores": stores[0], "ahead": distance}
    choices = {"lanes": (lanes, 2 * lanes, 4 * lanes, 8 * lanes), "stores": stores, "ahead": ahead}

    def build(d: Decisions) -> Trace:
        steps = _rows_trace(parts, leading, int(d["lanes"]), lanes, target)
        if d["ahead"]:
            steps += fetch_rows(parts, leading, int(d["ahead"]), steps, target)
        return (*steps, *stored(parts, d))

    return Sketch("rows", choices, default, build)


def _along_memory(reduction: Block) -> bool:
    """Whether the innermost reduced values of an operand are neighbours in memory, so that they fill vectors."""
    last = [i for i in reduction.iters if i.kind == "reduce"][-1:]
    return any(r.index and r.index[-1].coefficient(i.name) == 1 for i in last for r in reads(reduction.value))


def _wide_result(reduction: Block, leading: list[Iter], lanes: int) -> bool:
    """Whether a row has several results of a reduction, whose partial results could not be kept in registers."""
    own = [i for i in reduction.iters if i.kind == "data" and i not in leading and i.extent > 1]
    last = [i for i in reduction.iters if i.kind == "reduce"][-1]
    return bool(own) and last.extent >= lanes


def _rows_trace(parts: Anatomy, leading: list[Iter], wide: int, lanes: int, target: Target) -> list[Step]:
    root = parts.root.name
    steps = [Step("split", root, (it.name, 1)) for it in leading]
    if leading:
        inner = f"{root}.{leading[-1].name}"
        steps += [Step("compute_at", name, (inner,)) for name in reversed(parts.temporaries)]
    names = {i.name for i in leading}
    for block in parts.all_blocks:
        own = [i for i in block.iters if i.name not in names]
        if not own:
            continue
        last = own[-1]
        if block.monoid is not None and last.kind == "reduce":
            steps += _lane_reduction(block, [i for i in own if i.kind == "reduce"], wide, lanes)
        else:
            steps.append(Step("vectorize", block.name, (last.name,)))
    named = [(f"{root}.{it.name}", it.extent, False) for it in leading]
    return [*steps, *(share(named, target.threads) if named else ())]


def _lane_reduction(block: Block, reduce: list[Iter], most: int, lanes: int) -> list[Step]:
    """Partial results in the lanes of a few vectors, as many as divide the range where that is possible."""
    *outer, last = reduce
    most = min(most, last.extent // lanes * lanes)
    if most == 0:
        return []
    wide = next((w for w in range(most, 0, -lanes) if last.extent % w == 0), most)
    lane = f"{last.name}.l"
    partial = replace(block, name=f"{block.name}.p", write=Access(f"{block.write.buffer}.p", block.write.index))
    steps = [
        Step("rfactor", block.name, (last.name, wide)),
        Step("vectorize", f"{block.name}.p_init", (lane,)),
        Step("vectorize", partial.name, (lane,)),
        Step("vectorize", block.name, (lane,)),
        Step("set_scope", partial.write.buffer, ("register",)),
        *reduction_loops(partial, [*outer, replace(last, extent=last.extent // wide)], 1),
    ]
    if last.extent % wide:
        steps.append(Step("vectorize", f"{block.name}.rest", (last.name,)))
    return steps
