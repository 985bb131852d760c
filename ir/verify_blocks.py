"""Verifier rules about what Blocks mean: who writes what, in which order, and how reductions combine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from . import elementwise
from .loop import GuardMode, reads
from .monoid import MONOIDS
from .sites import Fault, Program


def inputs_are_read_only(p: Program) -> Iterator[Fault]:
    """No Block writes an input or a constant."""
    inputs = {b.name for b in p.func.inputs}
    for site, block in p.blocks():
        if block.write.buffer in inputs:
            yield site.stmt, f"expected a write to an output or allocated buffer, found the input {block.write.buffer}"


def reductions(p: Program) -> Iterator[Fault]:
    """A Block reduces if and only if it has a known monoid that its type allows; it then skips, never zeroes."""
    for site, block in p.blocks():
        if block.guard_mode not in get_args(GuardMode):
            yield site.stmt, f"expected one of {', '.join(get_args(GuardMode))}, found {block.guard_mode}"
        reduced = [i.name for i in block.iters if i.kind == "reduce"]
        if block.monoid is None:
            if reduced:
                yield site.stmt, f"expected a monoid to reduce {', '.join(reduced)} with"
            continue
        if block.monoid not in MONOIDS:
            yield site.stmt, f"expected one of {', '.join(MONOIDS)}, found {block.monoid}"
            continue
        if block.guard and block.guard_mode != "skip":
            yield site.stmt, "expected a guarded reduction to skip, found guard zero"
        dtype = block.value.dtype
        combine = MONOIDS[block.monoid].combine
        try:
            elementwise.check(combine, [dtype, dtype], dtype)
        except ValueError as error:
            yield site.stmt, str(error)


def distinct_elements(p: Program) -> Iterator[Fault]:
    """A Block writes a different element for each value of its data iterators, the same one along reduce iterators."""
    for site, block in p.blocks():
        if p.facts(site).empty:
            continue
        written = {n for e in block.write.index for n in e.variables()}
        for it in block.iters:
            if it.kind == "data" and it.extent > 1 and it.name not in written:
                yield site.stmt, f"expected the data iterator {it.name} in the index of {block.write.buffer}"
            if it.kind == "reduce" and it.name in written:
                yield site.stmt, f"expected the reduce iterator {it.name} not in the index of {block.write.buffer}"


def initialised(p: Program) -> Iterator[Fault]:
    """What is read, or combined into, was written by an earlier Block."""
    written = {b.name for b in p.func.inputs}
    for site, block in p.blocks():
        needed = [r.buffer for r in reads(block.value)]
        if block.monoid is not None:
            needed.append(block.write.buffer)
        for name in needed:
            if name not in written:
                yield site.stmt, f"expected {name} to be written before it is read"
        written.add(block.write.buffer)


def streams(p: Program) -> Iterator[Fault]:
    """What is stored past the caches is neither read nor combined into."""
    streamed = {b.name for b in p.func.outputs if b.scope == "stream"}
    for site, block in p.blocks():
        used = {r.buffer for r in reads(block.value)} | ({block.write.buffer} if block.monoid is not None else set())
        for name in sorted(used & streamed):
            yield site.stmt, f"expected {name}, which is streamed, not to be read"


def outputs_written(p: Program) -> Iterator[Fault]:
    """Every output that has elements is written by some Block."""
    written = {block.write.buffer for _, block in p.blocks()}
    for buffer in p.func.outputs:
        if buffer.name not in written and 0 not in buffer.shape:
            yield buffer, f"expected a Block that writes the output {buffer.name}"
