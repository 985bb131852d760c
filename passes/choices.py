"""Legal arguments of primitives: what search and the property tests draw steps from.

Every primitive has an enumerator, registered with `enumerates`, of steps that may apply to a program. It is generous:
whether a step is legal is the primitive's own decision (`choices` asks it), so that no condition is written twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from ..ir.loop import Alloc, Block, Buffer, For, LoopFunc, Stmt, blocks, reads, walk
from .schedule import ScheduleError, Step, apply_step
from .stream_parts import maxima
from .tiling import MAX_UNROLL

Enumerator = Callable[[LoopFunc], Iterator[Step]]
ENUMERATORS: dict[str, Enumerator] = {}

_ALL_ORDERS = 4
"""Boxes of up to this many iterators are permuted in every way, larger ones by moving one iterator."""
_MAX_LANES = 128


def enumerates(fn: Enumerator) -> Enumerator:
    """Register an enumerator under the name of its primitive, which is its own."""
    ENUMERATORS[fn.__name__] = fn
    return fn


def candidates(func: LoopFunc, name: str) -> Iterator[Step]:
    """Steps of one primitive that may apply.

    Args:
        func: a program at any stage of scheduling.
        name: the primitive.

    Raises:
        ScheduleError: there is no such primitive.
    """
    found = ENUMERATORS.get(name)
    if found is None:
        raise ScheduleError(f"expected one of the primitives {sorted(ENUMERATORS)}, found {name!r}")
    return found(func)


def choices(func: LoopFunc, name: str) -> Iterator[Step]:
    """Steps of one primitive that do apply; each is tried, which takes a fraction of a millisecond."""
    for step in candidates(func, name):
        try:
            apply_step(func, step)
        except ScheduleError:
            continue
        yield step


def factors(extent: int) -> list[int]:
    """Sizes worth trying for a tile of a range: small ones, divisors and powers of two, all smaller than the range."""
    few = set(range(1, min(extent, 9)))
    powers = {1 << n for n in range(extent.bit_length())}
    divisors = {n for k in range(1, int(extent**0.5) + 1) if extent % k == 0 for n in (k, extent // k)}
    return sorted(n for n in few | powers | divisors if n < extent)


# ---- boxes


@enumerates
def split(func: LoopFunc) -> Iterator[Step]:
    """Every iterator by every size worth trying."""
    for block in blocks(func.body):
        for it in block.iters:
            for factor in factors(it.extent):
                yield Step("split", block.name, (it.name, factor))


@enumerates
def reorder(func: LoopFunc) -> Iterator[Step]:
    """Other orders of each box."""
    for block in blocks(func.body):
        names = tuple(i.name for i in block.iters)
        orders = itertools.permutations(names) if len(names) <= _ALL_ORDERS else _moved(names)
        for order in orders:
            if order != names:
                yield Step("reorder", block.name, order)


def _moved(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name in names:
        rest = tuple(n for n in names if n != name)
        for place in range(len(names)):
            yield (*rest[:place], name, *rest[place:])


@enumerates
def vectorize(func: LoopFunc) -> Iterator[Step]:
    """Each iterator that is not vectorised yet."""
    for block in blocks(func.body):
        for it in block.iters:
            if not it.vectorized and it.extent > 1:
                yield Step("vectorize", block.name, (it.name,))


@enumerates
def fuse_box(func: LoopFunc) -> Iterator[Step]:
    """Every pair of neighbours in a box."""
    for block in blocks(func.body):
        for outer, inner in itertools.pairwise(block.iters):
            yield Step("fuse_box", block.name, (outer.name, inner.name))


# ---- loops


def _loops(func: LoopFunc) -> Iterator[For]:
    return (s for s in walk(func.body) if isinstance(s, For))


@enumerates
def unroll(func: LoopFunc) -> Iterator[Step]:
    """Serial loops; the primitive refuses long ones."""
    for loop in _loops(func):
        if loop.kind == "serial" and len(loop.upper) == 1 and loop.upper[0].const <= MAX_UNROLL:
            yield Step("unroll", loop.name)


@enumerates
def parallel(func: LoopFunc) -> Iterator[Step]:
    """The outermost loop."""
    outermost = func.body
    while isinstance(outermost, Alloc):
        outermost = outermost.body
    if isinstance(outermost, For) and outermost.kind != "parallel":
        yield Step("parallel", outermost.name)


@enumerates
def grid(func: LoopFunc) -> Iterator[Step]:
    """Serial loops; the primitive refuses those inside other kinds of loops."""
    return (Step("grid", s.name) for s in _loops(func) if s.kind == "serial")


def _nests(func: LoopFunc) -> Iterator[tuple[str, str]]:
    return ((s.name, s.body.name) for s in _loops(func) if isinstance(s.body, For))


@enumerates
def fuse(func: LoopFunc) -> Iterator[Step]:
    """Perfectly nested pairs."""
    return (Step("fuse", outer, (inner,)) for outer, inner in _nests(func))


@enumerates
def interchange(func: LoopFunc) -> Iterator[Step]:
    """Perfectly nested pairs."""
    return (Step("interchange", outer, (inner,)) for outer, inner in _nests(func))


@enumerates
def partition(func: LoopFunc) -> Iterator[Step]:
    """Loops with a guard inside."""
    for loop in _loops(func):
        if any(b.guard or any(r.guard for r in reads(b.value)) for b in blocks(loop.body)):
            yield Step("partition", loop.name)


# ---- buffers


def _allocated(func: LoopFunc) -> Iterator[Buffer]:
    return (s.buffer for s in walk(func.body) if isinstance(s, Alloc))


def _read_inside(stmt: Stmt) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.buffer for b in blocks(stmt) for r in reads(b.value)))


@enumerates
def compute_at(func: LoopFunc) -> Iterator[Step]:
    """Each allocated buffer at each loop that reads it."""
    allocated = {b.name for b in _allocated(func)}
    for loop in _loops(func):
        for name in _read_inside(loop.body):
            if name in allocated:
                yield Step("compute_at", name, (loop.name,))


@enumerates
def compute_inline(func: LoopFunc) -> Iterator[Step]:
    """Each allocated buffer."""
    return (Step("compute_inline", b.name) for b in _allocated(func))


@enumerates
def set_scope(func: LoopFunc) -> Iterator[Step]:
    """Each allocated buffer in another memory."""
    for buffer in _allocated(func):
        for scope in ("global", "cache", "register"):
            if scope != buffer.scope:
                yield Step("set_scope", buffer.name, (scope,))


@enumerates
def in_place(func: LoopFunc) -> Iterator[Step]:
    """Each allocated buffer over each other one that the Block that writes it reads."""
    allocated = {b.name for b in _allocated(func)}
    for block in blocks(func.body):
        for source in dict.fromkeys(r.buffer for r in reads(block.value)):
            if {block.write.buffer, source} <= allocated:
                yield Step("in_place", block.write.buffer, (source,))


@enumerates
def nontemporal(func: LoopFunc) -> Iterator[Step]:
    """Each output."""
    return (Step("nontemporal", b.name) for b in func.outputs)


@enumerates
def prefetch(func: LoopFunc) -> Iterator[Step]:
    """Each Block inside each loop, and each input that it reads, a few iterations ahead."""
    names = {b.name for b in func.inputs}
    for loop in _loops(func):
        for block in blocks(loop.body):
            for buffer in dict.fromkeys(r.buffer for r in reads(block.value) if r.buffer in names):
                yield from (Step("prefetch", block.name, (buffer, loop.name, n)) for n in (1, 4))


@enumerates
def pack(func: LoopFunc) -> Iterator[Step]:
    """Each axis of constants and allocated buffers by every size worth trying."""
    constants = [b for b in func.params if b.scope == "constant"]
    for buffer in (*constants, *_allocated(func)):
        for axis, extent in enumerate(buffer.shape):
            for factor in factors(min(extent, 2 * _MAX_LANES)):
                yield Step("pack", buffer.name, (axis, factor))


@enumerates
def flatten(func: LoopFunc) -> Iterator[Step]:
    """Each axis of allocated buffers that has one after it."""
    for buffer in _allocated(func):
        for axis in range(len(buffer.shape) - 1):
            yield Step("flatten", buffer.name, (axis,))


@enumerates
def cache_read(func: LoopFunc) -> Iterator[Step]:
    """Each buffer at each loop that reads it, and each way to read it if there are several."""
    for loop in _loops(func):
        for name in _read_inside(loop.body):
            yield Step("cache_read", name, (loop.name,))
            ways = {r.index for b in blocks(loop.body) for r in reads(b.value) if r.buffer == name}
            if len(ways) > 1:
                yield from (Step("cache_read", name, (loop.name, nth)) for nth in range(len(ways)))


@enumerates
def cache_write(func: LoopFunc) -> Iterator[Step]:
    """Each allocated buffer."""
    return (Step("cache_write", b.name) for b in _allocated(func))


@enumerates
def rfactor(func: LoopFunc) -> Iterator[Step]:
    """Each reduce iterator by every size worth trying."""
    for block in _reductions(func):
        for it in block.iters:
            if it.kind == "reduce":
                for factor in factors(it.extent + 1):
                    yield Step("rfactor", block.name, (it.name, factor))


@enumerates
def accumulate(func: LoopFunc) -> Iterator[Step]:
    """Each reduction at each loop around it."""
    for loop in _loops(func):
        for block in blocks(loop.body):
            if block.monoid is not None:
                yield Step("accumulate", block.name, (loop.name,))


@enumerates
def stream(func: LoopFunc) -> Iterator[Step]:
    """Each maximum by every size worth trying."""
    for block, it in maxima(func):
        for factor in factors(it.extent + 1):
            yield Step("stream", block.name, (it.name, factor))


def _reductions(func: LoopFunc) -> Iterator[Block]:
    return (b for b in blocks(func.body) if b.monoid is not None)
