"""Primitives on reductions: rfactor."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dtypes
from ..ir.affine import constant, var
from ..ir.loop import Access, Alloc, Block, Buffer, Const, Iter, LoopFunc, Read, map_indices, seq
from ..ir.monoid import MONOIDS
from .edit import find_block, find_buffer, find_iter, fresh, replace_stmt, used_names
from .schedule import ScheduleError, primitive


@primitive
def rfactor(func: LoopFunc, block: str, iterator: str, factor: int) -> LoopFunc:
    """Split a reduction into ``factor`` independent partial reductions, combined at the end.

    Before ``acc += x[j] over j in 0..N``; after ``p[l] = 0 over l; p[l] += x[factor*o + l] over o, l;
    acc += x[j] over the rest; acc += p[l] over l``. The lanes ``l`` of the partial results can be vectorised; they are
    the first axis of ``p``, the Block's data iterators of more than one value the others.

    Refuses: a Block without a monoid, a data iterator, a range that does not start at a constant, a factor larger
    than the range.
    """
    found = find_block(func, block)
    it = find_iter(found, iterator)
    if found.monoid is None or it.kind != "reduce":
        raise ScheduleError(f"expected a reduce iterator of a reduction, found {block}.{iterator}")
    if not it.lower.is_constant or it.limit is not None or not 1 <= factor <= it.extent:
        raise ScheduleError(f"expected a whole constant range of at least {factor}, found {it.extent} for {iterator}")
    used = used_names(func)
    lane, partial = fresh(f"{iterator}.l", {i.name for i in found.iters}), fresh(f"{found.write.buffer}.p", used)
    data = tuple(i for i in found.iters if i.kind == "data")
    wide = tuple(i for i in data if i.extent > 1 or i.limit is not None)
    shape = (factor, *(i.extent for i in wide))
    place = (var(lane), *(var(i.name) - i.lower for i in wide))
    dtype = _write_dtype(func, found)
    lanes = Iter(lane, constant(0), factor)
    start, trips = it.lower.const, it.extent // factor
    env = {iterator: var(iterator) * factor + var(lane) + start}
    value = map_indices(found.value, lambda e: e.substitute(env))
    guard = tuple(g.substitute(env) for g in found.guard)
    identity = Const(MONOIDS[found.monoid].identity(dtype), dtype)
    others = tuple(replace(it, lower=constant(0), extent=trips) if i is it else i for i in found.iters)
    init = Block(fresh(f"{block}.p_init", used), (*data, lanes), Access(partial, place), identity)
    update = replace(found, name=fresh(f"{block}.p", used), iters=(*others, lanes), value=value, guard=guard)
    update = replace(update, write=Access(partial, place))
    rest = None
    if it.extent % factor:
        tail = replace(it, lower=constant(start + trips * factor), extent=it.extent % factor)
        tails = tuple(tail if i is it else i for i in found.iters)
        rest = replace(found, name=fresh(f"{block}.rest", used), iters=tails)
    final = replace(
        found,
        iters=(*data, replace(lanes, kind="reduce")),
        value=Read(partial, place, dtype),
        guard=(),
    )
    scratch = Buffer(partial, shape, dtype, "cache")
    return replace_stmt(func, found, Alloc(scratch, seq(init, update, rest, final)))


def _write_dtype(func: LoopFunc, block: Block) -> str:
    dtype = find_buffer(func, block.write.buffer).dtype
    if not dtypes.is_known(dtype):
        raise ScheduleError(f"expected a known element type, found {dtype}")
    return dtype
