"""LLVM IR of the native driver, part 1: the processor, the C library, and where threads run (Linux)."""

from __future__ import annotations

# How a processor flushes denormal numbers to zero (as XLA does on its threads) and pauses in a loop that waits.
PROCESSOR = {
    "x86_64": """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()

define internal i64 @flush_denormals() alwaysinline {
  %register = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %register)
  %old = load i32, ptr %register
  %new = or i32 %old, 32832                       ; flush to zero, and denormals are zero
  store i32 %new, ptr %register
  call void @llvm.x86.sse.ldmxcsr(ptr %register)
  %saved = zext i32 %old to i64
  ret i64 %saved
}

define internal void @restore_denormals(i64 %saved) alwaysinline {
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

define internal i64 @flush_denormals() alwaysinline {
  %old = call i64 @llvm.aarch64.get.fpcr()
  %new = or i64 %old, 16777216                    ; flush to zero
  call void @llvm.aarch64.set.fpcr(i64 %new)
  ret i64 %old
}

define internal void @restore_denormals(i64 %saved) alwaysinline {
  call void @llvm.aarch64.set.fpcr(i64 %saved)
  ret void
}

define internal void @pause() alwaysinline {
  call void @llvm.aarch64.hint(i32 1)
  ret void
}
""",
}

DECLARATIONS = """
declare ptr @aligned_alloc(i64, i64)
declare void @free(ptr)
declare i32 @madvise(ptr, i64, i32)
declare i32 @sched_yield()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @clock_gettime(i32, ptr)
"""

PLACEMENT = """
; Nanoseconds of a clock that never goes back.
define internal i64 @now() {
  %time = alloca [2 x i64]
  %ignored = call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %rest_at = getelementptr i64, ptr %time, i64 1
  %rest = load i64, ptr %rest_at
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  ret i64 %now
}

; Leave this processor if there is another one this thread may use; its set of allowed processors stays as it was.
define internal void @move_away(i32 %processor) {
  %old = alloca [16 x i64]
  %new = alloca [16 x i64]
  %size = call i32 @sched_getaffinity(i32 0, i64 128, ptr %old)
  %failed = icmp slt i32 %size, 0
  %beyond = icmp uge i32 %processor, 1024
  %skip = or i1 %failed, %beyond
  br i1 %skip, label %done, label %move
move:
  %allowed = load [16 x i64], ptr %old
  store [16 x i64] %allowed, ptr %new
  %number = zext i32 %processor to i64
  %word_number = lshr i64 %number, 6
  %bit_number = and i64 %number, 63
  %word_at = getelementptr i64, ptr %new, i64 %word_number
  %word = load i64, ptr %word_at
  %bit = shl i64 1, %bit_number
  %mask = xor i64 %bit, -1
  %others = and i64 %word, %mask
  store i64 %others, ptr %word_at
  %refused = call i32 @sched_setaffinity(i32 0, i64 128, ptr %new)     ; fails if no other one is allowed
  %stayed = icmp ne i32 %refused, 0
  br i1 %stayed, label %done, label %restore
restore:
  %ignored = call i32 @sched_setaffinity(i32 0, i64 128, ptr %old)
  br label %done
done:
  ret void
}

; Keep helpers off the caller's processor. A thread woken up is often put on the processor of the thread that woke it,
; and left there for milliseconds while another one is idle; two threads then are no faster than one.
define internal void @stand_apart(ptr %block, i64 %participant) {
  %here = call i32 @sched_getcpu()
  %callers = load atomic i32, ptr Block.processor(%block) monotonic, align 4
  %same = icmp eq i32 %here, %callers
  %is_caller = icmp eq i64 %participant, 0
  br i1 %is_caller, label %caller, label %helper
caller:
  br i1 %same, label %known, label %moved
moved:
  store atomic i32 %here, ptr Block.processor(%block) monotonic, align 4
  br label %known
known:
  call void @let_helpers_in(ptr %block)
  ret void
helper:
  br i1 %same, label %leave, label %apart
leave:
  call void @move_away(i32 %here)
  ret void
apart:
  ret void
}

; Where a helper is still missing after $PATIENCE nanoseconds, it may be queueing behind the caller: yield once, so that
; it can run and leave.
define internal void @let_helpers_in(ptr %block) {
  %started = load i64, ptr Block.started(%block)
  %settled = icmp eq i64 %started, 0
  br i1 %settled, label %done, label %count
count:
  %joined = load atomic i64, ptr Block.tickets(%block) monotonic, align 8
  %team = load i64, ptr Block.participants(%block)
  %complete = icmp uge i64 %joined, %team
  br i1 %complete, label %settle, label %incomplete
incomplete:
  %now = call i64 @now()
  %elapsed = sub i64 %now, %started
  %early = icmp ult i64 %elapsed, $PATIENCE
  br i1 %early, label %done, label %yield
yield:
  %ignored = call i32 @sched_yield()
  br label %settle
settle:
  store i64 0, ptr Block.started(%block)
  br label %done
done:
  ret void
}
"""
