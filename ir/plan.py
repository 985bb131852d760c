"""The execution plan: a maximal native part of a graph as one sequence of kernel calls.

A plan becomes one custom call. Its stages run in order with a barrier after each, and each stage cuts its kernel's
parallel range ``[0, extent)`` into ``chunks`` parts that run on any threads. Intermediates live in one arena per
running call, at offsets that the plan fixes; constants (packed weights) belong to the plan. A run of stages can be
repeated; what differs between repetitions is where arguments begin, which moves by a fixed number of bytes each time.

This is pure data: what the kernels are, and how a plan runs, is the business of a backend.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from . import dtypes

if TYPE_CHECKING:
    from .graph import TensorType

SlotKind = Literal["input", "output", "constant", "arena"]

#: Alignment of arena offsets in bytes: a cache line, and a full vector on every machine.
ARENA_ALIGNMENT = 64

#: Limits that keep `extent * chunks` and the counters of a running call within 64 bits.
MAX_CHUNKS = 1 << 20
MAX_EXTENT = 1 << 40
#: A running call numbers its stages, repetitions counted, with 32 bits.
MAX_EXECUTIONS = 1 << 31


class PlanError(ValueError):
    """A plan contradicts itself."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a slot's memory.

    Args:
        offset: where it begins in the first repetition, in bytes.
        stride: by how many bytes it moves from one repetition of the stage to the next.
    """

    offset: int
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a kernel's argument lives.

    Args:
        kind: which memory.
        index: number of the input, output or constant; for the arena the offset in bytes.
        window: which part of it; None for all.
    """

    kind: SlotKind
    index: int
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """What decides at run time whether a stage runs: a boolean that an earlier stage has written.

    Args:
        slot: where the boolean lives, in the arena.
        wanted: the value with which the stage runs.
    """

    slot: Slot
    wanted: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """One kernel call.

    Args:
        kernel: symbol of the kernel.
        args: one slot per parameter of the kernel, outputs last.
        extent: trip count of the kernel's parallel range; a stage with extent 0 does nothing.
        chunks: into how many parts the range is cut; 1 runs the stage on one thread.
        condition: when it runs; None for always.
    """

    kernel: str
    args: tuple[Slot, ...]
    extent: int
    chunks: int
    condition: Condition | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The arguments, and the condition's boolean behind them."""
        return self.args if self.condition is None else (*self.args, self.condition.slot)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A run of stages that is executed several times.

    Args:
        first: number of its first stage.
        stages: how many stages, at least one.
        count: how often, at least once.
    """

    first: int
    stages: int
    count: int

    @property
    def end(self) -> int:
        """Number of the first stage behind it."""
        return self.first + self.stages


@dataclass(frozen=True, slots=True, eq=False)
class ExecPlan:
    """A sequence of kernel calls from inputs to outputs; plans compare by identity, equal meaning is an equal `digest`.

    Args:
        inputs: types of the arguments.
        outputs: types of the results.
        constants: arrays that the plan owns; never changed after construction.
        arena_bytes: size of the memory for intermediates.
        stages: kernel calls in order.
        repeats: which of them are repeated; in order, without overlaps.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    constants: tuple[np.ndarray, ...]
    arena_bytes: int
    stages: tuple[Stage, ...]
    repeats: tuple[Repeat, ...] = ()
    _digest: list[str] = field(default_factory=list, init=False, repr=False)

    def repetitions(self, number: int) -> int:
        """How often a stage is executed."""
        return next((r.count for r in self.repeats if r.first <= number < r.end), 1)

    @property
    def digest(self) -> str:
        """BLAKE2b over everything, the constants' bytes included, as 32 hexadecimal digits; computed once."""
        if not self._digest:
            self._digest.append(_digest(self))
        return self._digest[0]


def verify_plan(plan: ExecPlan) -> None:
    """Check that a plan is consistent in itself.

    Args:
        plan: the plan.

    Raises:
        PlanError: an unknown element type, a slot out of range or misaligned, impossible extents or chunks, an input
            used as a kernel's destination where the plan can tell, an output that no stage mentions, or repetitions
            that overlap, are empty or too many.
    """
    for kind, types in (("input", plan.inputs), ("output", plan.outputs)):
        for number, tensor in enumerate(types):
            _verify_type(f"{kind} {number}", tensor)
    if plan.arena_bytes < 0:
        raise PlanError(f"the arena's size must not be negative, found {plan.arena_bytes}")
    _verify_repeats(plan)
    for number, stage in enumerate(plan.stages):
        _verify_stage(plan, number, stage)
    mentioned = {slot.index for stage in plan.stages for slot in stage.args if slot.kind == "output"}
    for number, tensor in enumerate(plan.outputs):
        if number not in mentioned and 0 not in tensor.shape:
            raise PlanError(f"output {number} is not an argument of any stage, so nothing would ever be written to it")


def _verify_type(what: str, tensor: TensorType) -> None:
    if not dtypes.is_known(tensor.dtype):
        raise PlanError(f"{what}: kernels have no element type {tensor.dtype!r}")
    if any(size < 0 for size in tensor.shape):
        raise PlanError(f"{what}: sizes must not be negative, found shape {tuple(tensor.shape)}")


def _verify_repeats(plan: ExecPlan) -> None:
    behind = 0
    for repeat in plan.repeats:
        if repeat.first < behind or repeat.stages < 1 or repeat.count < 1 or repeat.end > len(plan.stages):
            raise PlanError(f"expected repeats of stages in order, at least once each, found {repeat}")
        behind = repeat.end
    executions = len(plan.stages) + sum(r.stages * (r.count - 1) for r in plan.repeats)
    if executions > MAX_EXECUTIONS:
        raise PlanError(f"expected at most {MAX_EXECUTIONS} executions of stages, found {executions}")


def _verify_stage(plan: ExecPlan, number: int, stage: Stage) -> None:
    where = f"stage {number} ({stage.kernel})"
    if not 0 <= stage.extent <= MAX_EXTENT:
        raise PlanError(f"{where}: the extent must be in 0..{MAX_EXTENT}, found {stage.extent}")
    if not 1 <= stage.chunks <= MAX_CHUNKS:
        raise PlanError(f"{where}: the number of chunks must be in 1..{MAX_CHUNKS}, found {stage.chunks}")
    if stage.chunks > max(stage.extent, 1):
        raise PlanError(f"{where}: a range of {stage.extent} can't be cut into {stage.chunks} chunks")
    for position, slot in enumerate(stage.args):
        _verify_slot(plan, f"{where}, argument {position}", slot)
    if stage.condition is not None:
        slot = stage.condition.slot
        if slot.kind != "arena" or slot.index >= plan.arena_bytes:
            raise PlanError(f"{where}: expected a condition inside the arena, found {slot.kind} {slot.index}")
        if not any(slot in earlier.args for earlier in plan.stages[:number] if earlier.condition is None):
            raise PlanError(f"{where}: no earlier stage that surely runs has its condition, {slot.kind} {slot.index}")
        _verify_slot(plan, f"{where}, condition", slot)


def _verify_slot(plan: ExecPlan, where: str, slot: Slot) -> None:
    if slot.kind not in get_args(SlotKind):
        raise PlanError(f"{where}: expected one of {', '.join(get_args(SlotKind))}, found {slot.kind!r}")
    if slot.kind == "arena":
        if slot.index % ARENA_ALIGNMENT:
            raise PlanError(f"{where}: arena offset {slot.index} is not a multiple of {ARENA_ALIGNMENT}")
        if not 0 <= slot.index <= plan.arena_bytes:
            raise PlanError(f"{where}: offset {slot.index} is outside the arena of {plan.arena_bytes} bytes")
        return
    count = len({"input": plan.inputs, "output": plan.outputs, "constant": plan.constants}[slot.kind])
    if not 0 <= slot.index < count:
        raise PlanError(f"{where}: the plan has {count} {slot.kind}s, found number {slot.index}")


def _digest(plan: ExecPlan) -> str:
    parts = [
        "inputs " + _type_text(plan.inputs),
        "outputs " + _type_text(plan.outputs),
        "constants " + " ".join(f"{array.dtype.name}{list(array.shape)}" for array in plan.constants),
        f"arena {plan.arena_bytes}",
        *(_stage_text(stage) for stage in plan.stages),
        *(f"repeat {repeat.first}+{repeat.stages} {repeat.count}" for repeat in plan.repeats),
    ]
    state = hashlib.blake2b("\n".join(parts).encode(), digest_size=16)
    for array in plan.constants:
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _type_text(types: tuple[TensorType, ...]) -> str:
    return " ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in types)


def _stage_text(stage: Stage) -> str:
    slots = " ".join(map(slot_text, stage.args))
    condition = stage.condition
    when = "" if condition is None else f" if {slot_text(condition.slot)} is {condition.wanted}"
    return f"stage {stage.kernel} {stage.extent}/{stage.chunks} {slots}{when}"


def slot_text(slot: Slot) -> str:
    """A slot in words: ``input:0``, or ``input:0@64+16`` for a window that begins at byte 64 and moves by 16."""
    window = "" if slot.window is None else f"@{slot.window.offset}{slot.window.stride:+d}"
    return f"{slot.kind}:{slot.index}{window}"
