"""The Blocks that `stream` makes: the running maximum with what follows from it, and how partial results are joined."""

from __future__ import annotations

from ..ir.loop import Access, Apply, Block, Buffer, Const, Expr, Iter, Read
from ..ir.monoid import MONOIDS
from ..ir.rescale import same_expr
from .edit import fresh
from .stream_parts import Streamed

LOWEST = float("-inf")


class Joining:
    """One way in which a partial result gets into the result: its own Blocks and buffers, under one suffix.

    Args:
        parts: what is streamed.
        used: names that are taken; grows.
        suffix: of the names of all that is made.
    """

    def __init__(self, parts: Streamed, used: set[str], suffix: str = "") -> None:
        self.parts = parts
        self.used = used
        self.suffix = suffix
        key = parts.buffers[parts.key.write.buffer]
        self.old, self.safe, self.repair = (self.private(f"{key.name}.{n}", key) for n in ("old", "safe", "repair"))
        self.buffers: tuple[Buffer, ...] = (self.old, self.safe, self.repair)

    def name(self, text: str) -> str:
        """A fresh name."""
        found = fresh(text + self.suffix, self.used)
        self.used.add(found)
        return found

    def private(self, name: str, like: Buffer) -> Buffer:
        """A buffer of one thread, of the same shape as another one."""
        return Buffer(self.name(name), like.shape, like.dtype, "cache")

    def maximum(self, new: Expr) -> list[Block]:
        """Take in a partial maximum; then the shift now in use, and what repairs sums that were made with the last.

        The shift is never minus infinity: 0 stands in for it, so that ``exp(x - shift)`` is 0 for what is masked.
        """
        key, dtype = self.parts.key, self.safe.dtype
        index = key.write.index
        both = Apply("max", (Read(key.write.buffer, index, dtype), new), dtype)
        gap = Apply("sub", (Read(self.old.name, index, dtype), Read(self.safe.name, index, dtype)), dtype)
        return [
            self.row("old", self.old, self.shift_of(LOWEST)),
            Block(self.name(f"{key.name}.join"), _data(key), key.write, both),
            self.row("safe", self.safe, self.shift_of(0.0)),
            self.row("repair", self.repair, Apply(self.parts.exp, (gap,), dtype)),
        ]

    def joined(self, block: Block, new: Expr) -> Block:
        """Join a partial result with what was reduced before, repaired if it depends on the maximum."""
        write, dtype = block.write, new.dtype
        old: Expr = Read(write.buffer, write.index, dtype)
        scaled = self.parts.scaled.get(write.buffer)
        if scaled is not None:
            old = Apply("mul", (old, Read(self.repair.name, scaled.row, dtype)), dtype)
        assert block.monoid is not None
        both = Apply(MONOIDS[block.monoid].combine, (old, new), dtype)
        return Block(self.name(f"{block.name}.join"), _data(block), write, both)

    def shift_of(self, lowest: float) -> Expr:
        """What is subtracted from values whose maximum is known so far, ``lowest`` where that is minus infinity."""
        key, dtype = self.parts.key, self.safe.dtype
        maximum = Read(key.write.buffer, key.write.index, dtype)
        if lowest == LOWEST and same_expr(self.parts.shift, maximum):
            return maximum
        none = Apply("eq", (maximum, Const(LOWEST, dtype)), "bool")
        return Apply("select_n", (none, self.parts.shift, Const(lowest, dtype)), dtype)

    def row(self, kind: str, buffer: Buffer, value: Expr) -> Block:
        """A Block that stores a value for each row."""
        key = self.parts.key
        return Block(self.name(f"{key.name}.{kind}"), _data(key), Access(buffer.name, key.write.index), value)


def _data(block: Block) -> tuple[Iter, ...]:
    return tuple(i for i in block.iters if i.kind == "data")
