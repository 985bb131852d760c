"""The unit of native code: one scheduled workload as relocatable object code.

The calling convention every kernel follows, and every caller relies on, is one C function::

    void SYMBOL(void** bufs, int64_t lo, int64_t hi, void* scratch)

- ``bufs`` holds one data pointer per parameter of the workload, in order: inputs and constants first, outputs last. All
  arrays are dense and row-major. Inputs and outputs are aligned to 16 bytes, arena memory and constants to 64. Outputs
  share no memory with each other or with any other array, but for those inputs that `Kernel.in_place` names.
  Two more pointers follow: where memory begins and ends that will be read soon (readable; equal if there is none). A
  kernel may fetch it into the cache, the part of it that ``[lo, hi)`` is of ``[0, extent)``, and nothing else.
- ``[lo, hi)`` is the part of the parallel range ``[0, extent)`` to execute. Any split into parts is legal, and parts
  given to different threads at the same time are disjoint. ``extent`` is 1 for a kernel without a parallel loop.
- ``scratch`` is memory of the executing thread alone, ``scratch_bytes`` long and aligned to 64; null if that is 0.
- A kernel takes no locks, allocates nothing, has no thread-local data, never throws, and calls no external symbol
  except ``memcpy``, ``memmove`` and ``memset``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...ir.loop import Buffer


@dataclass(frozen=True, slots=True)
class Kernel:
    """One compiled workload.

    Args:
        symbol: name of the exported function, unique by content.
        object_code: a relocatable object file that defines ``symbol``.
        extent: trip count of the parallel range.
        scratch_bytes: private memory each executing thread needs.
        params: the workload's parameters in the order of ``bufs``.
        num_outputs: how many of the last parameters are outputs.
        in_place: positions of inputs that may begin where the one output begins (`ir.in_place`).
    """

    symbol: str
    object_code: bytes
    extent: int
    scratch_bytes: int
    params: tuple[Buffer, ...]
    num_outputs: int
    in_place: tuple[int, ...] = ()
