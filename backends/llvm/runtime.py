"""The native driver that runs a plan on several threads, as LLVM IR.

**A running call** is a *block* on the heap: a reference count, the count of finished chunks, one claim word per
participant, the addresses of all buffers, and the arguments of every kernel. The calling thread is participant 0; each
helper task that gets to run takes the next number.

**Phases.** A plan's stages are grouped into phases: a stage cut into chunks is a phase, and so is a whole run of
neighbouring one-chunk stages, which one thread then executes without any barrier. All participants go through the
phases in order. In each they first run the chunks of their own share (the same fraction of the range in every phase,
so that rows written by a core are read by the same core). Then they wait for a moment whether the others finish too
(looking for work in other shares slows their owners down: 0.5 instead of 0.1 microseconds a stage), take chunks that
are left in other shares, and wait until the finished count says that the phase is over.

**No deadlock.** Participants wait only for chunks that a running thread has claimed, never for a task to start. A
helper that starts late joins in the middle or finds every phase over.

**Claim words** hold (phase, chunks claimed) and only ever grow; a word of an earlier phase means "nothing claimed yet".
So no counter is reset between phases and a call needs one cache line per participant, however many stages there are.
The count of finished chunks also runs on over the whole plan: a phase is over when it reaches the chunks of all phases
up to it. Each participant counts phases and chunks for itself, since all go the same way.

**Repeats.** Groups of phases are gone through several times. A participant that runs a stage whose arguments move from
one repetition to the next has the kernel's `bufs` of this repetition on its own stack. A phase of one-chunk stages can
be repeated by itself: then one thread runs all repetitions, and there are no barriers in between.

**Conditions.** A stage may depend on a boolean that an earlier stage has written, so that alternatives share a plan.
Every participant looks at it for itself, after the barrier before the stage: the chunks of a stage that does not run
are claimed and counted like others, and do nothing.

**Placement.** Where the operating system puts a helper on the caller's processor, the helper moves away; a caller that
misses helpers after some microseconds of work yields once, because they may be queueing behind it.

**Memory.** Blocks and arenas are recycled through small per-plan pools: arrays of slots, emptied and filled by atomic
exchange, free of the ABA problem and bounded in what they retain. The caller hands the arena back as soon as all chunks
are finished (no helper touches buffers after that); the block goes back with its last reference.

The IR is in the notation of `ir_template` and stands in `runtime_system`, `runtime_memory` and `runtime_team`; this
module has the layout of the data. `plan_table` makes the `Plan` structure that the code reads.
"""

from __future__ import annotations

import platform

from .ir_template import expand, field_offsets
from .observer import OBSERVER_CONSTANTS, SILENT
from .runtime_memory import CALL_MEMORY, POOLS, RESOLVE
from .runtime_stages import CHUNKS
from .runtime_system import DECLARATIONS, PLACEMENT, PROCESSOR
from .runtime_team import CLAIM, PHASE, TEAM

#: Distance of data written by different threads: two cache lines, because processors prefetch lines in pairs.
SEPARATION = 128

#: How many idle blocks, and how many idle arenas, a plan keeps.
POOL_SLOTS = 16

HUGE_PAGE = 1 << 21

PLAN_FIELDS = (
    "participants",  # most threads one call may use
    "groups",
    "group_table",
    "phase_table",
    "stage_table",
    "bufs",  # kernel arguments of all stages together
    "slot_table",
    "block_bytes",
    "block_pool",
    "bases_offset",  # in a block: addresses that slots are relative to (0, the arena, inputs, outputs)
    "bufs_offset",  # in a block: the kernels' `bufs` arrays, one after the other
    "arena_bytes",  # scratch areas included; 0 for no arena
    "arena_alignment",
    "arena_pool",
    "scratch_offset",  # in an arena: the scratch area of participant 0
    "scratch_stride",  # 0 where no kernel needs scratch memory
    "inputs",
    "input_table",
    "outputs",
    "output_table",
)
GROUP_FIELDS = ("first_phase", "phases", "count")
PHASE_FIELDS = ("first_stage", "stages", "chunks", "count")
STAGE_FIELDS = (
    "kernel",
    "extent",
    "first_buf",
    "bufs",
    "strides",  # of `bufs`, in bytes per repetition; null if nothing moves
    "condition",  # 1 + the number of the buffer that holds the boolean; 0 for none
    "wanted",  # the boolean with which the stage runs
)
SLOT_FIELDS = ("base", "offset")

# Fields that hardly ever change stand on a line of their own; so does each counter.
_BLOCK_OFFSETS = {
    "Block.plan": 0,
    "Block.arena": 8,
    "Block.participants": 16,
    "Block.started": 24,  # when the call began, in ns; 0 once helpers have joined or were given the chance
    "Block.processor": 32,  # where the caller runs
    "Block.references": SEPARATION,
    "Block.tickets": SEPARATION + 8,
    "Block.done": 2 * SEPARATION,
    "Block.claims": 3 * SEPARATION,
}
#: Where the claim words of a block begin; they are `SEPARATION` bytes apart.
CLAIMS_OFFSET = _BLOCK_OFFSETS["Block.claims"]

_OFFSETS = {
    **field_offsets("Plan", PLAN_FIELDS),
    **field_offsets("Group", GROUP_FIELDS),
    **field_offsets("Phase", PHASE_FIELDS),
    **field_offsets("Stage", STAGE_FIELDS),
    **field_offsets("Slot", SLOT_FIELDS),
    **_BLOCK_OFFSETS,
}
_CONSTANTS = {
    "SEPARATION": SEPARATION,
    "POOL_SLOTS": POOL_SLOTS,
    "HUGE_PAGE": HUGE_PAGE,
    "GROUP_BYTES": 8 * len(GROUP_FIELDS),
    "PHASE_BYTES": 8 * len(PHASE_FIELDS),
    "STAGE_BYTES": 8 * len(STAGE_FIELDS),
    "SLOT_BYTES": 8 * len(SLOT_FIELDS),
    "SPINS": 2000,  # some tens of microseconds: longer than evenly shared phases differ, shorter than a time slice
    "COURTESY": 50,  # about a microsecond
    "PATIENCE": 20_000,  # nanoseconds: above the usual time until a woken thread runs
    **OBSERVER_CONSTANTS,
}


def runtime_ir(
    extra: str = "",
    *,
    constants: dict[str, int] | None = None,
    offsets: dict[str, int] | None = None,
    machine: str | None = None,
    observer: str = SILENT,
) -> str:
    """The driver as an LLVM module.

    Args:
        extra: more functions, in the notation of `ir_template`, that may call the driver's.
        constants: values of further ``$NAME``s in ``extra``.
        offsets: byte offsets of further ``Struct.field``s in ``extra``.
        machine: architecture, ``x86_64`` or ``aarch64``; by default the host's.
        observer: what watches the phases, see `observer`.

    Returns:
        IR text that defines ``tilewright_begin``, ``_open``, ``_lead``, ``_help``, ``_drop`` and ``_drain``.

    Raises:
        NotImplementedError: the operating system or the architecture is another one.
    """
    machine = machine or {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if platform.system() != "Linux" or machine not in PROCESSOR:
        raise NotImplementedError(
            f"the native runtime needs Linux on {' or '.join(PROCESSOR)}, found {platform.system()} on {machine}"
        )
    system = (PROCESSOR[machine], DECLARATIONS, PLACEMENT)
    parts = (*system, observer, POOLS, CALL_MEMORY, RESOLVE, CHUNKS, CLAIM, PHASE, TEAM, extra)
    return expand("\n".join(parts), {**_CONSTANTS, **(constants or {})}, {**_OFFSETS, **(offsets or {})})
