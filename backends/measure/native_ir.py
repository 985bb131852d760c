"""The worker's helper functions in LLVM IR: running ranges, timing samples, and a last word on faults.

Timing must not depend on the interpreter, so the loop over samples is native: every participating thread makes one call
and stays inside, spinning at barriers between executions. As in the plan runtime, a participant first runs its own
share of the chunks (the same in every execution, so that a core finds its data in its own cache) and then what is left
in the others'. Claim counters come in two sets: while one is in use, each owner resets its counter in the other.

The IR is in the notation of `llvm.ir_template`.
"""

from __future__ import annotations

import platform

from ..llvm.ir_template import expand, field_offsets
from .protocol import CRASH_MAGIC

#: Fields of a sample, all int64. ``function`` to ``inner`` are set by the caller, ``elapsed_ns`` by participant 0.
SAMPLE_FIELDS = ("function", "buffers", "scratches", "extent", "chunks", "warmups", "inner", "elapsed_ns")

#: Distance of counters that different threads write, in bytes.
SEPARATION = 128

_CONSTANTS = {
    "SAMPLE_BYTES": 8 * len(SAMPLE_FIELDS),
    "SEPARATION": SEPARATION,
    "SPINS": 20_000,
    "MONOTONIC": 1,
    "MAGIC": int.from_bytes(CRASH_MAGIC, "little"),
    "NOTE_BYTES": 16,
}
# siginfo_t on 64-bit Linux; the crash note of `protocol`.
_OFFSETS = {
    **field_offsets("Sample", SAMPLE_FIELDS),
    **field_offsets("Time", ("seconds", "nanoseconds")),
    "Info.address": 16,
    "Note.magic": 0,
    "Note.signal": 4,
    "Note.address": 8,
}


def helper_ir(machine: str | None = None) -> str:
    """The helpers as an LLVM module.

    Args:
        machine: architecture, ``x86_64`` or ``aarch64``; by default the host's.

    Returns:
        IR text that defines ``run_range``, ``participate``, ``on_fault`` and the variable ``note_fd``.

    Raises:
        NotImplementedError: the architecture is another one.
    """
    machine = machine or {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if machine not in _PROCESSOR:
        raise NotImplementedError(f"the measuring worker knows {', '.join(_PROCESSOR)}, not {machine!r}")
    return expand("\n".join((_PROCESSOR[machine], _WAITING, _EXECUTION, _ENTRIES, _FAULTS)), _CONSTANTS, _OFFSETS)


# Denormals are flushed as XLA's threads do: MXCSR bits FTZ and DAZ, or FPCR bit FZ.
_PROCESSOR = {
    "x86_64": """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()

define internal i64 @flush_denormals() {
  %register = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %register)
  %old = load i32, ptr %register
  %new = or i32 %old, 32832
  store i32 %new, ptr %register
  call void @llvm.x86.sse.ldmxcsr(ptr %register)
  %saved = zext i32 %old to i64
  ret i64 %saved
}

define internal void @restore_denormals(i64 %saved) {
  %register = alloca i32
  %old = trunc i64 %saved to i32
  store i32 %old, ptr %register
  call void @llvm.x86.sse.ldmxcsr(ptr %register)
  ret void
}

define internal void @pause() alwaysinline {
  call void @llvm.x86.sse2.pause()
  ret void
}
""",
    "aarch64": """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
declare void @llvm.aarch64.hint(i32)

define internal i64 @flush_denormals() {
  %old = call i64 @llvm.aarch64.get.fpcr()
  %new = or i64 %old, 16777216
  call void @llvm.aarch64.set.fpcr(i64 %new)
  ret i64 %old
}

define internal void @restore_denormals(i64 %saved) {
  call void @llvm.aarch64.set.fpcr(i64 %saved)
  ret void
}

define internal void @pause() alwaysinline {
  call void @llvm.aarch64.hint(i32 1)
  ret void
}
""",
}

_WAITING = """
declare i32 @clock_gettime(i32, ptr)
declare i32 @sched_yield()

define internal i64 @now() {
  %time = alloca [2 x i64]
  %status = call i32 @clock_gettime(i32 $MONOTONIC, ptr %time)
  %seconds = load i64, ptr Time.seconds(%time)
  %nanoseconds = load i64, ptr Time.nanoseconds(%time)
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %nanoseconds
  ret i64 %sum
}

; Arrive, and wait until `target` arrivals are counted; yields now and then, as there may be fewer cores than threads.
define internal void @wait(ptr %barrier, i64 %target) {
entry:
  %arrived = atomicrmw add ptr %barrier, i64 1 seq_cst
  br label %check
check:
  %spins = phi i64 [ 0, %entry ], [ %more, %spin ], [ 0, %yield ]
  %count = load atomic i64, ptr %barrier acquire, align 8
  %open = icmp sge i64 %count, %target
  br i1 %open, label %done, label %again
again:
  %more = add i64 %spins, 1
  %patient = icmp slt i64 %more, $SPINS
  br i1 %patient, label %spin, label %yield
spin:
  call void @pause()
  br label %check
yield:
  %ignored = call i32 @sched_yield()
  br label %check
done:
  ret void
}
"""

_EXECUTION = """
; Address of a participant's claim counter; `set` is 0 or 1.
define internal ptr @counter(ptr %claims, i64 %set, i64 %participant, i64 %threads) alwaysinline {
  %skipped = mul i64 %set, %threads
  %index = add i64 %skipped, %participant
  %offset = mul i64 %index, $SEPARATION
  %counter = getelementptr i8, ptr %claims, i64 %offset
  ret ptr %counter
}

define internal void @run_chunk(ptr %sample, i64 %chunk, i64 %me) {
entry:
  %extent = load i64, ptr Sample.extent(%sample)
  %chunks = load i64, ptr Sample.chunks(%sample)
  %lo.scaled = mul i64 %chunk, %extent
  %lo = sdiv i64 %lo.scaled, %chunks
  %after = add i64 %chunk, 1
  %hi.scaled = mul i64 %after, %extent
  %hi = sdiv i64 %hi.scaled, %chunks
  %some = icmp slt i64 %lo, %hi
  br i1 %some, label %run, label %done
run:
  %function = load ptr, ptr Sample.function(%sample)
  %buffers = load ptr, ptr Sample.buffers(%sample)
  %scratches = load ptr, ptr Sample.scratches(%sample)
  %place = getelementptr ptr, ptr %scratches, i64 %me
  %scratch = load ptr, ptr %place
  call void %function(ptr %buffers, i64 %lo, i64 %hi, ptr %scratch)
  br label %done
done:
  ret void
}

; Run what is left of the chunks that belong to `owner`.
define internal void @run_share(ptr %sample, ptr %counter, i64 %owner, i64 %threads, i64 %me) {
entry:
  %chunks = load i64, ptr Sample.chunks(%sample)
  %begin.scaled = mul i64 %owner, %chunks
  %begin = sdiv i64 %begin.scaled, %threads
  %next = add i64 %owner, 1
  %end.scaled = mul i64 %next, %chunks
  %end = sdiv i64 %end.scaled, %threads
  %size = sub i64 %end, %begin
  br label %loop
loop:
  %claimed = atomicrmw add ptr %counter, i64 1 seq_cst
  %inside = icmp slt i64 %claimed, %size
  br i1 %inside, label %run, label %done
run:
  %chunk = add i64 %begin, %claimed
  call void @run_chunk(ptr %sample, i64 %chunk, i64 %me)
  br label %loop
done:
  ret void
}

; One participant's part of one execution, up to but without the barrier after it.
define internal void @execute(ptr %sample, ptr %claims, i64 %set, i64 %me, i64 %threads) {
entry:
  %other = sub i64 1, %set
  %mine = call ptr @counter(ptr %claims, i64 %other, i64 %me, i64 %threads)
  store atomic i64 0, ptr %mine monotonic, align 8
  br label %check
check:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %threads
  br i1 %more, label %body, label %done
body:
  %sum = add i64 %me, %i
  %owner = srem i64 %sum, %threads
  %counter = call ptr @counter(ptr %claims, i64 %set, i64 %owner, i64 %threads)
  call void @run_share(ptr %sample, ptr %counter, i64 %owner, i64 %threads, i64 %me)
  %next = add i64 %i, 1
  br label %check
done:
  ret void
}
"""

# `barrier` points to a zeroed area: the barrier's counter, then two sets of claim counters, SEPARATION bytes apart.
_ENTRIES = """
; Execute a sample some times with a barrier after each; `step` counts the barriers passed so far.
define internal i64 @repeat(ptr %sample, i64 %times, ptr %barrier, i64 %step, i64 %me, i64 %threads) {
entry:
  %claims = getelementptr i8, ptr %barrier, i64 $SEPARATION
  br label %check
check:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %passed = phi i64 [ %step, %entry ], [ %after, %body ]
  %more = icmp slt i64 %i, %times
  br i1 %more, label %body, label %done
body:
  %set = and i64 %passed, 1
  call void @execute(ptr %sample, ptr %claims, i64 %set, i64 %me, i64 %threads)
  %after = add i64 %passed, 1
  %target = mul i64 %after, %threads
  call void @wait(ptr %barrier, i64 %target)
  %next = add i64 %i, 1
  br label %check
done:
  ret i64 %passed
}

; Take part in timing `count` samples.
define void @participate(ptr %samples, i64 %count, ptr %barrier, i64 %me, i64 %threads) {
entry:
  %saved = call i64 @flush_denormals()
  call void @wait(ptr %barrier, i64 %threads)
  br label %check
check:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %step = phi i64 [ 1, %entry ], [ %step.end, %next ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %done
body:
  %offset = mul i64 %i, $SAMPLE_BYTES
  %sample = getelementptr i8, ptr %samples, i64 %offset
  %warmups = load i64, ptr Sample.warmups(%sample)
  %inner = load i64, ptr Sample.inner(%sample)
  %step.warm = call i64 @repeat(ptr %sample, i64 %warmups, ptr %barrier, i64 %step, i64 %me, i64 %threads)
  %begin = call i64 @now()
  %step.end = call i64 @repeat(ptr %sample, i64 %inner, ptr %barrier, i64 %step.warm, i64 %me, i64 %threads)
  %end = call i64 @now()
  %first = icmp eq i64 %me, 0
  br i1 %first, label %record, label %next
record:
  %elapsed = sub i64 %end, %begin
  store i64 %elapsed, ptr Sample.elapsed_ns(%sample)
  br label %next
next:
  %i.next = add i64 %i, 1
  br label %check
done:
  call void @restore_denormals(i64 %saved)
  ret void
}

define void @run_range(ptr %function, ptr %buffers, i64 %lo, i64 %hi, ptr %scratch) {
  %saved = call i64 @flush_denormals()
  call void %function(ptr %buffers, i64 %lo, i64 %hi, ptr %scratch)
  call void @restore_denormals(i64 %saved)
  ret void
}
"""

_FAULTS = """
declare i64 @write(i32, ptr, i64)
@note_fd = global i32 -1

; Signal handler: write a crash note and return, whereupon the instruction faults again and the default action follows.
define void @on_fault(i32 %signal, ptr %info, ptr %context) {
  %note = alloca [2 x i64]
  store i32 $MAGIC, ptr Note.magic(%note)
  store i32 %signal, ptr Note.signal(%note)
  %address = load i64, ptr Info.address(%info)
  store i64 %address, ptr Note.address(%note)
  %fd = load i32, ptr @note_fd
  %written = call i64 @write(i32 %fd, ptr %note, i64 $NOTE_BYTES)
  ret void
}
"""
