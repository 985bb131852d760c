"""The loops of a long sum: cut into parts, so that rounding errors stay small."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.loop import Block, Iter
from ..passes.schedule import Step

MAX_CHAIN = 1024
"""Most values added one after the other. The error of a sum grows with the length of its chains, and XLA's products
sum in parts of a few hundred; the accuracy contract allows twice its error."""


def reduction_loops(update: Block, reduce: Sequence[Iter], unroll: int, registers: bool = True) -> list[Step]:
    """Split a reduction into loops, the last one by ``unroll``.

    Where more than `MAX_CHAIN` values are summed, parts of the sum get a buffer of their own and are added to the
    result, which is then kept in the cache.

    Args:
        update: the Block that sums.
        reduce: the reduce iterators that become loops, outermost first.
        unroll: steps of the last iterator that one iteration of the innermost loop makes.
        registers: whether what is summed up is in registers; else it is in the cache.
    """
    if not reduce:
        return []
    *outer, last = reduce
    long = update.monoid == "sum" and math.prod(it.extent for it in reduce) > MAX_CHAIN
    steps = [Step("split", update.name, (it.name, 1)) for it in outer]
    if long and last.extent > MAX_CHAIN:
        steps.append(Step("split", update.name, (last.name, _part(last.extent, unroll))))
    steps.append(Step("split", update.name, (last.name, unroll)))
    if not long:
        return steps
    buffer = update.write.buffer
    steps.append(Step("accumulate", update.name, (f"{update.name}.{_summed(reduce).name}",)))
    if registers:
        steps += [Step("set_scope", f"{buffer}.a", ("register",)), Step("set_scope", buffer, ("cache",))]
    return steps


def _part(extent: int, unroll: int) -> int:
    """The largest tile of an iterator within a chain, one without a remainder if it is not much smaller."""
    even = [n for n in range(MAX_CHAIN, MAX_CHAIN // 4, -1) if extent % n == 0 and n % unroll == 0]
    return even[0] if even else MAX_CHAIN


def _summed(reduce: Sequence[Iter]) -> Iter:
    """The iterator whose loop adds up parts: the outermost one inside of which a chain is short enough."""
    for number, it in enumerate(reduce):
        if math.prod(i.extent for i in reduce[number + 1 :]) <= MAX_CHAIN:
            return it
    return reduce[-1]
