"""Where buffers live while code is generated: pointers for memory, SSA slots for register buffers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ...ir import dtypes
from ...ir.loop import Buffer
from .builder import Builder, VType, vtype

ALIGNMENT = 64


class CodegenError(RuntimeError):
    """A program that code can't be generated for: a bug in a schedule, reported with what was expected."""


@dataclass(slots=True)
class Place:
    """A buffer in memory, or in registers.

    Args:
        buffer: the buffer; for registers with rows padded to whole vectors.
        base: pointer to the first element; empty for registers.
        align: guaranteed alignment of ``base`` in bytes.
        streams: whether whole vectors at multiples of their size are stored past the caches.
        slots: register and type of each element or vector of a register tile, by its offset.
        owner: for each element in a slot, the slot's offset.
    """

    buffer: Buffer
    base: str
    align: int
    streams: bool = False
    slots: dict[int, tuple[str, VType]] = field(default_factory=dict)
    owner: dict[int, int] = field(default_factory=dict)

    @property
    def in_registers(self) -> bool:
        """Whether the buffer is a register tile."""
        return not self.base

    def past_caches(self, t: VType, align: int) -> bool:
        """Whether a whole vector of type ``t`` at an address with that alignment is stored past the caches."""
        return self.streams and t.lanes > 0 and align >= t.lanes * dtypes.itemsize(t.dtype)

    @property
    def element(self) -> str:
        """LLVM type of one element in memory."""
        return vtype(self.buffer.dtype).memory

    def slot(self, builder: Builder, offset: int, t: VType) -> str:
        """The register that holds the element or vector at ``offset``.

        Raises:
            CodegenError: accesses to the buffer overlap or differ in width.
        """
        known = self.slots.get(offset)
        if known is None:
            elements = range(offset, offset + max(t.lanes, 1))
            taken = next((self.owner[e] for e in elements if e in self.owner), None)
            if taken is not None:
                raise self._mixed(self.slots[taken][1], t, offset)
            known = (builder.alloca(t.text, ALIGNMENT), t)
            self.slots[offset] = known
            self.owner.update(dict.fromkeys(elements, offset))
        if known[1] != t:
            raise self._mixed(known[1], t, offset)
        return known[0]

    def _mixed(self, known: VType, found: VType, offset: int) -> CodegenError:
        return CodegenError(
            f"expected accesses of one width to the register buffer {self.buffer.name}, found {known.text} and "
            f"{found.text} at element {offset}: vectorise all Blocks that use it alike, or keep it in the cache"
        )


@dataclass(slots=True)
class Memory:
    """All buffers in scope and the scratch memory they take.

    Args:
        builder: gets the instructions.
        lanes: values per vector.
    """

    builder: Builder
    lanes: int
    places: dict[str, Place] = field(default_factory=dict)
    scratch_bytes: int = 0
    _top: int = 0

    def add_parameter(self, buffer: Buffer, pointer: str, streams: bool = False) -> None:
        """A parameter at ``pointer``, which is aligned if it ``streams``."""
        align = ALIGNMENT if streams or buffer.scope == "constant" else dtypes.itemsize(buffer.dtype)
        self.places[buffer.name] = Place(buffer, pointer, align, streams)

    def allocate(self, buffer: Buffer) -> int:
        """Enter a buffer's lifetime; returns a mark for `release`."""
        mark = self._top
        if buffer.scope == "register":
            shape = buffer.shape
            if shape:
                shape = (*shape[:-1], -(-shape[-1] // self.lanes) * self.lanes)
            self.places[buffer.name] = Place(replace(buffer, shape=shape), "", ALIGNMENT)
            return mark
        size = math.prod(buffer.shape) * dtypes.itemsize(buffer.dtype)
        base = self.builder.gep("i8", "%scratch", mark) if mark else "%scratch"
        self.places[buffer.name] = Place(buffer, base, ALIGNMENT)
        self._top = mark + -(-size // ALIGNMENT) * ALIGNMENT
        self.scratch_bytes = max(self.scratch_bytes, self._top)
        return mark

    def release(self, buffer: Buffer, mark: int) -> None:
        """Leave a buffer's lifetime."""
        del self.places[buffer.name]
        self._top = mark
