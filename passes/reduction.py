"""Primitives on reductions: rfactor, accumulate."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dtypes
from ..ir.affine import constant, var
from ..ir.loop import Access, Alloc, Block, Buffer, Const, For, Iter, LoopFunc, Read, blocks, map_indices, reads, seq
from ..ir.monoid import MONOIDS
from .edit import find_block, find_buffer, find_iter, find_loop, fresh, path_to, replace_in, replace_stmt, used_names
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


@primitive
def accumulate(func: LoopFunc, block: str, loop: str) -> LoopFunc:
    """Reduce each iteration of a loop into a buffer of its own, and add that to the result once per iteration.

    Before ``for o: for i: acc[j] += x[o, i, j] over j``; after ``for o: p[j] = 0 over j;
    for i: p[j] += x[o, i, j] over j; acc[j] += p[j] over j``. Sums in short chains lose less to rounding
    (blocked summation: Higham, Accuracy and Stability of Numerical Algorithms, chapter 4), and ``acc``, touched once
    per iteration, need not be in registers.

    Refuses: a Block without a monoid, a loop that the Block is not inside of, one whose iterations, or those of a loop
    between it and the Block, write different elements, and one inside of which ``acc`` is allocated or used otherwise.
    """
    found, around = find_block(func, block), find_loop(func, loop)
    if found.monoid is None:
        raise ScheduleError(f"expected a reduction, found {block}")
    between = path_to(around, found)
    if between is None:
        raise ScheduleError(f"expected a loop around {block}, found {loop}")
    data = tuple(i for i in found.iters if i.kind == "data")
    ends = [e for i in data for e in (i.lower, i.limit) if e is not None]
    written = frozenset().union(*(e.variables() for e in (*found.write.index, *ends)))
    moving = [s.name for s in between if isinstance(s, For) and s.name in written]
    if moving:
        raise ScheduleError(
            f"expected a loop that {block} is reduced over, found that {moving[0]} moves what is written"
        )
    buffer = found.write.buffer
    if any(isinstance(s, Alloc) and s.buffer.name == buffer for s in between):
        raise ScheduleError(f"expected a loop inside of the allocation of {buffer}, found {loop} around it")
    others = [b.name for b in blocks(around.body) if b is not found and _touches(b, buffer)]
    if others:
        raise ScheduleError(f"expected only {block} to use {buffer} inside {loop}, found {others[0]}")
    used = used_names(func)
    wide = [i for i in data if i.extent > 1 or i.limit is not None]
    wide.sort(key=lambda it: _axis_written(found, it))
    dtype = _write_dtype(func, found)
    chain = Buffer(fresh(f"{buffer}.a", used), tuple(i.extent for i in wide), dtype, "cache")
    place = tuple(var(i.name) - i.lower for i in wide)
    identity = Const(MONOIDS[found.monoid].identity(dtype), dtype)
    init = Block(fresh(f"{block}.a_init", used), data, Access(chain.name, place), identity)
    final = replace(found, name=fresh(f"{block}.a", used), iters=data, value=Read(chain.name, place, dtype), guard=())
    body = replace_in(around.body, found, replace(found, write=Access(chain.name, place)))
    assert body is not None
    return replace_stmt(func, around, replace(around, body=Alloc(chain, seq(init, body, final))))


def _axis_written(block: Block, it: Iter) -> int:
    """The last axis along which an iterator moves what the Block writes: where its neighbours are, if it is packed."""
    axes = [number for number, index in enumerate(block.write.index) if it.name in index.variables()]
    return axes[-1] if axes else len(block.write.index)


def _touches(block: Block, buffer: str) -> bool:
    return block.write.buffer == buffer or any(r.buffer == buffer for r in reads(block.value))


def _write_dtype(func: LoopFunc, block: Block) -> str:
    dtype = find_buffer(func, block.write.buffer).dtype
    if not dtypes.is_known(dtype):
        raise ScheduleError(f"expected a known element type, found {dtype}")
    return dtype
