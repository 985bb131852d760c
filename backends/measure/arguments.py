"""The arguments of a workload in the worker's memory, and the pointers a candidate gets to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .memory import GuardedBuffer, Layout, Region, close_all

PLAIN_ALIGNMENT = 16
CONSTANT_ALIGNMENT = 64
_LAYOUTS: tuple[Layout, ...] = ("tail", "head")


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Type of an array and where its address may lie."""

    dtype: np.dtype
    shape: tuple[int, ...]
    alignment: int = PLAIN_ALIGNMENT

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


class BufferSet:
    """Every input and output once, between guard pages.

    Args:
        inputs: types of the inputs and constants.
        outputs: types of the outputs.
        layout: which side of each array touches its guard.

    Raises:
        MemoryError: there is not enough memory.
    """

    def __init__(self, inputs: Sequence[ArraySpec], outputs: Sequence[ArraySpec], layout: Layout) -> None:
        """Allocate; inputs are writable until `seal`."""
        self.inputs: list[GuardedBuffer] = []
        self.outputs: list[GuardedBuffer] = []
        self._specs = tuple(outputs)
        try:
            for number, spec in enumerate(inputs):
                self.inputs.append(GuardedBuffer(f"input {number}", spec.size, layout, spec.alignment))
            for number, spec in enumerate(outputs):
                self.outputs.append(GuardedBuffer(f"output {number}", spec.size, layout, spec.alignment))
        except MemoryError:
            self.close()
            raise

    def seal(self) -> None:
        """Let stores to inputs fault from now on."""
        for buffer in self.inputs:
            buffer.make_readonly()

    def poison(self, byte: int) -> None:
        """Fill the outputs with a byte (0xFF is a NaN in every float type)."""
        for buffer in self.outputs:
            buffer.bytes[:] = byte

    def results(self) -> list[np.ndarray]:
        """The outputs as arrays."""
        return [buffer.array(spec.dtype, spec.shape) for buffer, spec in zip(self.outputs, self._specs, strict=True)]

    def regions(self) -> list[Region]:
        """Where everything lies."""
        return [buffer.region for buffer in (*self.inputs, *self.outputs)]

    def pointers(self, constants: Mapping[int, GuardedBuffer]) -> np.ndarray:
        """The kernel's array of data pointers, some constants replaced by a candidate's own; nothing to read ahead."""
        inputs = [constants.get(number, buffer).address for number, buffer in enumerate(self.inputs)]
        outputs = [buffer.address for buffer in self.outputs]
        nothing = outputs[0]
        return np.array([*inputs, *outputs, nothing, nothing], np.int64)

    def close(self) -> None:
        """Unmap everything."""
        close_all((*self.inputs, *self.outputs))


class Arguments:
    """A workload's arguments and what must come out.

    Args:
        inputs: types of the inputs.
        outputs: types of the outputs.
        tolerances: largest absolute error allowed per output.

    Raises:
        MemoryError: there is not enough memory.
    """

    def __init__(self, inputs: Sequence[ArraySpec], outputs: Sequence[ArraySpec], tolerances: Sequence[float]) -> None:
        """Allocate both layouts and the references; all are to be filled."""
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self.tolerances = tuple(tolerances)
        self._rotation: list[BufferSet] = []
        self.sets: dict[Layout, BufferSet] = {}
        try:
            self.references = [np.empty(spec.shape, spec.dtype) for spec in outputs]
            for layout in _LAYOUTS:
                self.sets[layout] = BufferSet(inputs, outputs, layout)
        except MemoryError:
            self.close()
            raise

    def spread(self) -> None:
        """Copy the inputs, which were filled in the first layout, to the other one and seal both."""
        first, *others = (self.sets[layout] for layout in _LAYOUTS)
        for other in others:
            _copy_inputs(first, other)
            other.seal()
        first.seal()

    @property
    def size(self) -> int:
        """Bytes of all inputs and outputs together."""
        return sum(spec.size for spec in (*self._inputs, *self._outputs))

    def rotation(self, count: int) -> list[BufferSet]:
        """At least ``count`` sets with equal inputs, for timing with buffers that are not in the cache."""
        sets = [self.sets["head"], *self._rotation]
        while len(sets) < count:
            another = BufferSet(self._inputs, self._outputs, "head")
            _copy_inputs(self.sets["head"], another)
            another.seal()
            another.poison(0)  # touched now, so that no sample pays for page faults
            self._rotation.append(another)
            sets.append(another)
        return sets

    def regions(self) -> list[Region]:
        """Where everything lies."""
        return [region for buffers in (*self.sets.values(), *self._rotation) for region in buffers.regions()]

    def close(self) -> None:
        """Unmap everything."""
        for buffers in (*self.sets.values(), *self._rotation):
            buffers.close()


def _copy_inputs(source: BufferSet, target: BufferSet) -> None:
    for have, want in zip(source.inputs, target.inputs, strict=True):
        want.bytes[:] = have.bytes
