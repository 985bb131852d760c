"""A plan and its kernels as the memory that the native driver reads (`runtime` says how).

Tables hold addresses of this process: they are never written to disk, and never appear in a compiled program's text.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ...ir import dtypes
from ...ir.plan import ExecPlan, PlanError, Slot, Stage, Window, slot_text, verify_plan
from .kernel import Kernel
from .link import digest, load
from .phases import Group, Phase, groups_of
from .runtime import CLAIMS_OFFSET, HUGE_PAGE, PLAN_FIELDS, POOL_SLOTS, SEPARATION

if TYPE_CHECKING:
    pass

#: In a block's base addresses: 0 for slots with an absolute address, the arena, then inputs and outputs.
FIRST_ARRAY_BASE = 2
_ABSOLUTE_BASE = 0
_ARENA_BASE = 1

_CACHE_LINE = 64
_READ_AHEAD_POINTERS = 2
_WORTH_READING_AHEAD = 16 << 10


class PlanTable:
    """The driver's view of one plan. It must outlive every call of the plan, late helper tasks included.

    Attributes:
        address: where the table is, for the driver.
        participants: most threads that one call uses.
        bases_offset: where a block keeps base addresses (`FIRST_ARRAY_BASE` and up: inputs, then outputs).
    """

    def __init__(
        self,
        plan: ExecPlan,
        kernels: Mapping[str, Kernel],
        max_threads: int,
        signature: Mapping[str, int] | None = None,
    ) -> None:
        """Link the kernels and lay the table out.

        Args:
            plan: the plan.
            kernels: every kernel that the plan names, by symbol.
            max_threads: most threads a call may use.
            signature: further fields of the table, for the checks of an XLA call.

        Raises:
            PlanError: the plan is inconsistent, or does not fit its kernels.
            LinkError: a kernel's object code can't be loaded.
        """
        verify_plan(plan)
        verify_kernels(plan, kernels)
        self._memory: list[object] = []
        groups = groups_of(plan)
        phases = [phase for group in groups for phase in group.phases]
        stages = _stages(groups)
        bases = FIRST_ARRAY_BASE + len(plan.inputs) + len(plan.outputs)
        self.participants = min(max_threads, max((phase.chunks for phase in phases), default=1))
        self.bases_offset = CLAIMS_OFFSET + SEPARATION * self.participants
        bufs_offset = self.bases_offset + 8 * bases
        slots = self._slot_rows(plan, groups)
        fields = {
            "participants": self.participants,
            "groups": len(groups),
            "group_table": self._rows(_group_rows(groups)),
            "phase_table": self._rows(_phase_rows(phases)),
            "stage_table": self._rows(self._stage_rows(stages, kernels)),
            "bufs": len(slots),
            "slot_table": self._rows(slots),
            "block_bytes": _round_up(bufs_offset + 8 * len(slots), SEPARATION),
            "block_pool": self._rows([(0,)] * POOL_SLOTS),
            "bases_offset": self.bases_offset,
            "bufs_offset": bufs_offset,
            "arena_pool": self._rows([(0,)] * POOL_SLOTS),
            **_arena_fields(plan.arena_bytes, stages, kernels, self.participants),
            **(signature or {}),
        }
        self.address = self._rows([tuple(fields.get(name, 0) for name in PLAN_FIELDS)])

    def _slot_rows(self, plan: ExecPlan, groups: Sequence[Group]) -> list[tuple[int, int]]:
        """Every kernel's arguments, then begin and end of what it reads ahead, then its condition's boolean."""
        rows: list[tuple[int, int]] = []
        for stage, ahead in zip(_stages(groups), read_ahead(plan, groups), strict=True):
            own = [self._slot_row(plan, slot) for slot in stage.args]
            size = 0 if ahead is None else _slot_bytes(plan, ahead)
            base, begin = own[0] if ahead is None else self._slot_row(plan, ahead)
            rows += [*own, (base, begin), (base, begin + size)]
            if stage.condition is not None:
                rows.append(self._slot_row(plan, stage.condition.slot))
        return rows

    def _stage_rows(self, stages: Sequence[Stage], kernels: Mapping[str, Kernel]) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        first_buf = 0
        for stage in stages:
            kernel = kernels[stage.kernel]
            bufs = len(stage.args) + _READ_AHEAD_POINTERS
            strides = [0 if slot.window is None else slot.window.stride for slot in stage.args]
            moves = self._rows([(*strides, *[0] * _READ_AHEAD_POINTERS)]) if any(strides) else 0
            tested = (0, 0)
            if stage.condition is not None:  # its slot stands behind all others; 0 is for no condition
                tested = (first_buf + bufs + 1, int(stage.condition.wanted))
            code = load(kernel.object_code).address(kernel.symbol)
            rows.append((code, stage.extent, first_buf, bufs, moves, *tested))
            first_buf += len(stage.slots) + _READ_AHEAD_POINTERS
        return rows

    def _slot_row(self, plan: ExecPlan, slot: Slot) -> tuple[int, int]:
        """Base number and byte offset of a slot, in the first repetition."""
        offset = 0 if slot.window is None else slot.window.offset
        if slot.kind == "constant":
            return _ABSOLUTE_BASE, self._constant(plan.constants[slot.index]) + offset
        if slot.kind == "arena":
            return _ARENA_BASE, slot.index + offset
        first = FIRST_ARRAY_BASE + (len(plan.inputs) if slot.kind == "output" else 0)
        return first + slot.index, offset

    def _constant(self, array: np.ndarray) -> int:
        """Address of a constant's bytes, aligned to a cache line and kept as long as the table."""
        aligned = aligned_constant(array)
        self._memory.append(aligned)
        return aligned.ctypes.data

    def _rows(self, rows: Sequence[tuple[int, ...]]) -> int:
        """Address of rows of 64-bit integers, kept as long as the table."""
        flat = aligned_empty((sum(len(row) for row in rows),), np.dtype(np.int64))
        flat[:] = [value for row in rows for value in row]
        self._memory.append(flat)
        return flat.ctypes.data


def read_ahead(plan: ExecPlan, groups: Sequence[Group]) -> list[Slot | None]:
    """For each stage the constant that it fetches into the cache: the one that the next stage with large ones reads.

    Those in between have little to compute, and none of them would use what was fetched. Stages that run only where a
    condition fails are exceptions, and count as not there. Repeated stages fetch nothing: after the first repetition
    what they would fetch is there.
    """
    stages = _stages(groups)
    once = [group.count == phase.count == 1 for group in groups for phase in group.phases for _ in phase.stages]
    usual = [(n, stage) for n, stage in enumerate(stages) if stage.condition is None or stage.condition.wanted]
    large = [(number, slot) for number, stage in usual if (slot := _largest_constant(plan, stage))]
    ahead: list[Slot | None] = [None] * len(stages)
    for (number, _), (_, slot) in pairwise(large):
        ahead[number] = slot if once[number] else None
    return ahead


def _largest_constant(plan: ExecPlan, stage: Stage) -> Slot | None:
    constants = [slot for slot in stage.args if slot.kind == "constant" and slot.window is None]
    largest = max(constants, key=lambda slot: _slot_bytes(plan, slot), default=None)
    return largest if largest is not None and _slot_bytes(plan, largest) >= _WORTH_READING_AHEAD else None


def verify_kernels(plan: ExecPlan, kernels: Mapping[str, Kernel]) -> None:
    """Check that every stage fits its kernel, and that every output is written.

    Args:
        plan: a plan that passed `verify_plan`.
        kernels: kernels by symbol.

    Raises:
        PlanError: a kernel is missing, has another extent or number of parameters, an argument is smaller or larger
            than the memory of its slot, a kernel would write into an input or a constant, or over an argument that it
            may still read, or an output is never written.
    """
    written: set[int] = set()
    for number, stage in enumerate(plan.stages):
        where = f"stage {number} ({stage.kernel})"
        kernel = kernels.get(stage.kernel)
        if kernel is None:
            raise PlanError(f"{where}: there is no kernel of that name among the {len(kernels)} given")
        _verify_call(plan, where, stage, kernel, plan.repetitions(number))
        _verify_apart(where, stage, kernel, plan.repetitions(number))
        destinations = stage.args[len(stage.args) - kernel.num_outputs :]
        written.update(slot.index for slot in destinations if slot.kind == "output")
    for number, tensor in enumerate(plan.outputs):
        if number not in written and 0 not in tensor.shape:
            raise PlanError(f"no stage writes output {number}")


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised dense array that begins on a cache line."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + _CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + count].view(dtype).reshape(shape)


# Constants by content: plans of the same model share their weights.
_constants: weakref.WeakValueDictionary[tuple[str, int], np.ndarray] = weakref.WeakValueDictionary()


def aligned_constant(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, dense, read-only and aligned to a cache line; equal bytes in use are stored once."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    key = (hashlib.blake2b(flat.data, digest_size=16).hexdigest(), flat.size)
    found = _constants.get(key)
    if found is not None:
        return found
    copy = aligned_empty((flat.size,), np.dtype(np.uint8))
    copy[:] = flat
    copy.flags.writeable = False
    return _constants.setdefault(key, copy)


def kernels_digest(plan: ExecPlan, kernels: Mapping[str, Kernel]) -> str:
    """Digest of a plan together with the object code of its kernels: what a call of it executes."""
    state = hashlib.blake2b(plan.digest.encode(), digest_size=16)
    for symbol in sorted({stage.kernel for stage in plan.stages}):
        state.update(f"\n{symbol} {digest(kernels[symbol].object_code)}".encode())
    return state.hexdigest()


def _verify_call(plan: ExecPlan, where: str, stage: Stage, kernel: Kernel, count: int) -> None:
    if stage.extent != kernel.extent:
        raise PlanError(f"{where}: the kernel's range is {kernel.extent}, the plan says {stage.extent}")
    if len(stage.args) != len(kernel.params):
        raise PlanError(f"{where}: the kernel takes {len(kernel.params)} arguments, the plan gives {len(stage.args)}")
    first_output = len(kernel.params) - kernel.num_outputs
    for position, (slot, param) in enumerate(zip(stage.args, kernel.params, strict=True)):
        needed = math.prod(param.shape) * dtypes.itemsize(param.dtype)
        there = f"{where}, argument {position} ({param.name})"
        if position >= first_output and slot.kind in ("input", "constant"):
            raise PlanError(f"{there}: a kernel can't write into {slot.kind} {slot.index}")
        if slot.window is not None:
            _verify_window(plan, there, slot, slot.window, needed, count)
        elif slot.kind == "arena":
            if slot.index + needed > plan.arena_bytes:
                raise PlanError(
                    f"{there}: {needed} bytes at offset {slot.index} exceed the arena of {plan.arena_bytes} bytes"
                )
        elif needed != _slot_bytes(plan, slot):
            raise PlanError(
                f"{there}: the kernel expects {needed} bytes, {slot.kind} {slot.index} has {_slot_bytes(plan, slot)}"
            )


def _verify_apart(where: str, stage: Stage, kernel: Kernel, count: int) -> None:
    """Check that a kernel writes over no other argument, but for those that it reads in time."""
    first_output = len(kernel.params) - kernel.num_outputs
    sizes = [math.prod(param.shape) * dtypes.itemsize(param.dtype) for param in kernel.params]
    for position in range(first_output, len(stage.args)):
        for other, slot in enumerate(stage.slots):
            size = sizes[other] if other < len(sizes) else 1  # the condition's boolean
            if other == position or not _overlap(stage.args[position], sizes[position], slot, size, count):
                continue
            if other not in kernel.in_place or slot != stage.args[position]:
                raise PlanError(
                    f"{where}: {slot_text(stage.args[position])} would be written over argument {other} at "
                    f"{slot_text(slot)}, of which kernel {kernel.symbol} may read more later"
                )


def _overlap(one: Slot, one_size: int, other: Slot, other_size: int, count: int) -> bool:
    """Whether two arguments share bytes in any of some repetitions."""
    if one.kind != other.kind or (one.kind != "arena" and one.index != other.index):
        return False
    (start, step), (begin, stride) = _movement(one), _movement(other)
    # They overlap where their distance, which moves evenly, is between -other_size and one_size.
    low, high = -other_size + 1 - (begin - start), one_size - 1 - (begin - start)
    distance = stride - step
    if distance < 0:
        low, high, distance = -high, -low, -distance
    if not one_size or not other_size:
        return False
    if distance == 0:
        return low <= 0 <= high
    return max(0, -(-low // distance)) <= min(count - 1, high // distance)


def _movement(slot: Slot) -> tuple[int, int]:
    """Where an argument begins in its memory, in the first repetition, and how it moves."""
    start = slot.index if slot.kind == "arena" else 0
    return (start, 0) if slot.window is None else (start + slot.window.offset, slot.window.stride)


def _verify_window(plan: ExecPlan, there: str, slot: Slot, window: Window, needed: int, count: int) -> None:
    """Check that a window stays inside its memory in every repetition."""
    available = plan.arena_bytes - slot.index if slot.kind == "arena" else _slot_bytes(plan, slot)
    ends = (window.offset, window.offset + window.stride * (count - 1))
    if min(ends) < 0 or max(ends) + needed > available:
        raise PlanError(
            f"{there}: {needed} bytes at {ends[0]}..{ends[1]} exceed the {available} bytes of {slot_text(slot)}"
        )


def _slot_bytes(plan: ExecPlan, slot: Slot) -> int:
    if slot.kind == "constant":
        return plan.constants[slot.index].nbytes
    return (plan.inputs if slot.kind == "input" else plan.outputs)[slot.index].nbytes


def _stages(groups: Sequence[Group]) -> list[Stage]:
    return [stage for group in groups for phase in group.phases for stage in phase.stages]


def _group_rows(groups: Sequence[Group]) -> list[tuple[int, ...]]:
    firsts = itertools.accumulate((len(group.phases) for group in groups), initial=0)
    return [(first, len(group.phases), group.count) for first, group in zip(firsts, groups, strict=False)]


def _phase_rows(phases: Sequence[Phase]) -> list[tuple[int, ...]]:
    firsts = itertools.accumulate((len(phase.stages) for phase in phases), initial=0)
    return [(first, len(p.stages), p.chunks, p.count) for first, p in zip(firsts, phases, strict=False)]


def _arena_fields(
    arena_bytes: int, stages: Sequence[Stage], kernels: Mapping[str, Kernel], participants: int
) -> dict[str, int]:
    """The plan's arena with a scratch area for each participant behind it."""
    scratch = max((kernels[stage.kernel].scratch_bytes for stage in stages), default=0)
    stride = _round_up(scratch, SEPARATION)
    offset = _round_up(arena_bytes, SEPARATION)
    total = offset + stride * participants
    alignment = HUGE_PAGE if total >= HUGE_PAGE else SEPARATION
    return {
        "arena_bytes": _round_up(total, alignment),
        "arena_alignment": alignment,
        "scratch_offset": offset,
        "scratch_stride": stride,
    }


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
