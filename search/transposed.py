"""Elementwise work whose operands and result lie across each other: tiles are transposed in registers."""

from __future__ import annotations

from ..ir import dtypes
from ..ir.lanes import vector_lanes
from ..ir.loop import Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy, stride_of
from .sketch import Decisions, Sketch
from .steps import share, store_choices, stored, trips


def transposed(func: LoopFunc, target: Target) -> Sketch | None:
    """Vectors along the operands' rows, whole squares of them stored along the result's."""
    parts = anatomy(func)
    if parts is None or parts.reductions or parts.temporaries or len(parts.root.iters) < 2:
        return None
    across = _across(parts)
    if across is None:
        return None
    lanes = vector_lanes(func, target)
    stores = store_choices(parts, target)
    # Operands are read in rows, as many at once as pages can be kept track of; results that caches take may be wider.
    rows, columns = (4, 2) if stores[0] == "streamed" else (2, 4)
    default: Decisions = {"rows": rows, "columns": columns, "order": "columns", "stores": stores[0]}
    choices = {"rows": (1, 2, 4), "columns": (1, 2, 4, 8), "order": ("rows", "columns"), "stores": stores}
    return Sketch("transposed", choices, default, lambda d: _transposed_trace(parts, across, d, lanes, target))


def _across(parts: Anatomy) -> Iter | None:
    """The iterator that operands run along where the result strides; None if some operand runs along the result."""
    root = parts.root
    last = root.iters[-1]
    if root.write.index[-1].single_variable() != last.name or root.value.dtype == dtypes.BOOL:
        return None
    moved = [r for r in reads(root.value) if any(last.name in e.variables() for e in r.index)]
    found: set[str] = set()
    for read in reads(root.value):
        shape = parts.found[read.buffer].shape
        along = [i.name for i in root.iters[:-1] if stride_of(read, shape, i.name) == 1]
        if read in moved and not along:
            return None
        found.update(along)
    return next((i for i in root.iters if i.name in found), None) if moved and len(found) == 1 else None


def _transposed_trace(parts: Anatomy, across: Iter, d: Decisions, lanes: int, target: Target) -> Trace:
    root, last = parts.root.name, parts.root.iters[-1]
    sizes = {across: int(d["rows"]) * lanes, last: int(d["columns"]) * lanes}
    inner = [across, last] if d["order"] == "rows" else [last, across]
    loops = [(i, 1) for i in parts.root.iters if i not in sizes] + [(i, min(sizes[i], i.extent)) for i in inner]
    steps = [Step("split", root, (i.name, size)) for i, size in loops]
    steps.append(Step("vectorize", root, (across.name,)))
    named = [(f"{root}.{i.name}", trips(i, size), i.extent % size != 0) for i, size in loops]
    return (*steps, *share(named, target.threads), *stored(parts, d))
