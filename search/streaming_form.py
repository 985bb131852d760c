"""Which workloads can be streamed, and what each of their parts is for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.loop import Apply, Block, Iter, LoopFunc, Read, reads
from ..passes.schedule import ScheduleError, Step, Trace, replay
from ..passes.stream_parts import Streamed, maxima, spread, streamed
from .anatomy import Anatomy, anatomy, axis_of

_FEWEST_ROWS = 8
"""With fewer, most lanes of vectors along the rows would be empty."""


@dataclass(frozen=True, slots=True)
class Form:
    """A workload that is streamed.

    Args:
        parts: the workload.
        axis: what has the streamed axis.
        scores: the product that is streamed.
        query: the operand of the scores that does not move along the axis.
        rows: for each Block that has it, the iterator along the rows that become vectors.
        row_axes: which axis of each temporary that is.
        stored: the Block that writes what the scores become, before anything is reduced.
        result: the product that reduces along the axis; None for a log-sum-exp.
        feature: for each Block that has it, the iterator along the columns of the result.
        prefix: steps that were taken to bring the workload into this form.
    """

    parts: Anatomy
    axis: Streamed
    scores: Block
    query: Read
    rows: dict[str, str]
    row_axes: dict[str, int]
    stored: Block
    result: Block | None
    feature: dict[str, str]
    prefix: Trace = ()

    @property
    def row(self) -> Iter:
        """The root's iterator along the rows that become vectors."""
        found = self.parts.root.iterator(self.rows[self.parts.root.name])
        assert found is not None
        return found


def can_stream(func: LoopFunc) -> bool:
    """Whether `streaming` has a schedule for a workload."""
    return find_form(func) is not None


def find_form(func: LoopFunc) -> Form | None:
    """A workload as what is streamed; None if it is something else."""
    parts = anatomy(func)
    if parts is None:
        return None
    for block, it in maxima(func):
        try:
            found = _matched(func, parts, streamed(func, block.name, it.name))
        except ScheduleError:
            continue
        if found is not None:
            return found
    return None


def _matched(func: LoopFunc, parts: Anatomy, axis: Streamed) -> Form | None:
    products = [b for b in axis.items if isinstance(b, Block) and b.name in axis.along and _is_product(b)]
    scores = [b for b in products if b not in axis.reductions]
    results = [b for b in products if b in axis.reductions]
    if len(scores) != 1 or len(results) > 1:
        return None
    update = scores[0]
    stored = _stored(axis, update)
    if stored is None:
        step = Step("cache_write", update.write.buffer)
        found = find_form(replay(func, (step,)))
        return None if found is None else replace(found, prefix=(step, *found.prefix))
    query, row = _query(axis, update)
    if query is None or row is None:
        return None
    rows, row_axes = spread(list(parts.all_blocks), parts.temporaries, update.name, row.name)
    if axis.key.name not in rows or parts.root.name not in rows:
        return None
    feature: dict[str, str] = {}
    for result in results:
        columns = [i for i in result.iters if i.kind == "data" and i.name not in _read_along(axis, result)]
        if len(columns) != 1 or result.name not in rows:
            return None
        feature = spread(list(parts.all_blocks), parts.temporaries, result.name, columns[0].name)[0]
        if parts.root.name not in feature:
            return None
    return Form(parts, axis, update, query, rows, row_axes, stored, results[0] if results else None, feature)


def _stored(axis: Streamed, update: Block) -> Block | None:
    """The only reader of the scores, if it goes along the axis and writes a buffer."""
    readers = [b for b in axis.items if isinstance(b, Block) and reads_of(b, update.write.buffer) and b is not update]
    found = readers[0] if len(readers) == 1 else None
    plain = found is not None and found.monoid is None and found.name in axis.along
    return found if plain else None


def _query(axis: Streamed, update: Block) -> tuple[Read | None, Iter | None]:
    """The operand of the scores that does not have the axis, and its longest iterator that the other one lacks."""
    along = axis.along[update.name]
    query = [r for r in reads(update.value) if not any(along in e.variables() for e in r.index)]
    if len(query) != 1:
        return None, None
    other = next(r for r in reads(update.value) if r is not query[0])
    data = [i for i in update.iters if i.kind == "data" and i.name != along]
    free = [i for i in data if axis_of(query[0], i.name) is not None and not _uses(other, i)]
    row = max(free, key=lambda i: i.extent) if free else None
    return query[0], row if row is not None and row.extent >= _FEWEST_ROWS else None


def _read_along(axis: Streamed, result: Block) -> set[str]:
    """Iterators of the operand of a result that was made from the scores."""
    return {n for r in reads(result.value) if r.buffer in axis.scaled for e in r.index for n in e.variables()}


def _is_product(block: Block) -> bool:
    value = block.value
    factors = value.args if isinstance(value, Apply) and value.op == "mul" else ()
    reduces = any(i.kind == "reduce" for i in block.iters)
    return block.monoid == "sum" and reduces and len(factors) == 2 and all(isinstance(a, Read) for a in factors)


def _uses(read: Read, it: Iter) -> bool:
    return any(it.name in e.variables() for e in read.index)


def reads_of(block: Block, buffer: str) -> bool:
    """Whether a Block reads a buffer."""
    return any(r.buffer == buffer for r in reads(block.value))
