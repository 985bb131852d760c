"""LLVM IR of the native driver: what watches a running plan. Nothing, or for a profile a clock at every phase."""

from __future__ import annotations

#: Threads and phases of a call that a recorder has room for; others are not recorded.
RECORDED_THREADS = 64
RECORDED_PHASES = 4096
#: A thread enters a phase, has run its own share of it, and leaves when the phase is over.
MOMENTS = ("enters", "shared", "leaves")

SILENT = """
define internal void @observe(i64 %thread, i64 %number, i64 %moment) alwaysinline {
  ret void
}
"""

RECORDING = """
@tilewright_moments = global [$MOMENT_WORDS x i64] zeroinitializer

; Note the time, in nanoseconds, for one of a thread's moments in the `number`th phase of the call.
define internal void @observe(i64 %thread, i64 %number, i64 %moment) {
entry:
  %few_threads = icmp ult i64 %thread, $RECORDED_THREADS
  %few_phases = icmp ult i64 %number, $RECORDED_PHASES
  %room = and i1 %few_threads, %few_phases
  br i1 %room, label %note, label %done
note:
  %row = mul i64 %thread, $RECORDED_PHASES
  %column = add i64 %row, %number
  %word = mul i64 %column, $MOMENTS
  %index = add i64 %word, %moment
  %place = getelementptr i64, ptr @tilewright_moments, i64 %index
  %time = call i64 @now()
  store i64 %time, ptr %place
  br label %done
done:
  ret void
}
"""

OBSERVER_CONSTANTS = {
    "RECORDED_THREADS": RECORDED_THREADS,
    "RECORDED_PHASES": RECORDED_PHASES,
    "MOMENTS": len(MOMENTS),
    "MOMENT_WORDS": RECORDED_THREADS * RECORDED_PHASES * len(MOMENTS),
    **{moment.upper(): number for number, moment in enumerate(MOMENTS)},
}
