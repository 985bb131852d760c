"""LLVM IR of the native driver, part 4: claims, phases, and the participants of a call."""

from __future__ import annotations

CLAIM = """
define internal ptr @claim_word(ptr %block, i64 %participant) alwaysinline {
  %at = mul i64 %participant, $SEPARATION
  %words = getelementptr i8, ptr Block.claims(%block), i64 0
  %word = getelementptr i8, ptr %words, i64 %at
  ret ptr %word
}

; Claim the next chunk of a share of `size` chunks; -1 when all are claimed.
define internal i64 @claim(ptr %word, i64 %phase_number, i64 %size) {
entry:
  %start = load atomic i64, ptr %word monotonic, align 8
  %base = shl i64 %phase_number, 32
  br label %attempt
attempt:
  %seen = phi i64 [ %start, %entry ], [ %current, %swap ]
  %stale = icmp ult i64 %seen, %base              ; of an earlier phase: nothing is claimed yet
  %state = select i1 %stale, i64 %base, i64 %seen
  %claimed = sub i64 %state, %base                ; beyond any size if the word is of a later phase
  %left = icmp ult i64 %claimed, %size
  br i1 %left, label %swap, label %none
swap:
  %new = add i64 %state, 1
  %pair = cmpxchg ptr %word, i64 %seen, i64 %new monotonic monotonic
  %current = extractvalue { i64, i1 } %pair, 0
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %claimed_one, label %attempt
claimed_one:
  ret i64 %claimed
none:
  ret i64 -1
}

; Where the share of a participant begins: the chunks divided evenly, the first ones to the caller.
define internal i64 @share_start(i64 %participant, i64 %chunks, i64 %team) alwaysinline {
  %product = mul i64 %participant, %chunks
  %less = sub i64 %team, 1
  %up = add i64 %product, %less
  %start = udiv i64 %up, %team
  ret i64 %start
}

; Run what is unclaimed of a participant's share; the number of chunks run.
define internal i64 @run_share(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %number, i64 %of,
                               i64 %team) {
entry:
  %chunks = load i64, ptr Phase.chunks(%phase)
  %first = call i64 @share_start(i64 %of, i64 %chunks, i64 %team)
  %after = add i64 %of, 1
  %end = call i64 @share_start(i64 %after, i64 %chunks, i64 %team)
  %size = sub i64 %end, %first
  %word = call ptr @claim_word(ptr %block, i64 %of)
  br label %loop
loop:
  %ran = phi i64 [ 0, %entry ], [ %next, %one ]
  %claimed = call i64 @claim(ptr %word, i64 %number, i64 %size)
  %none = icmp slt i64 %claimed, 0
  br i1 %none, label %done, label %one
one:
  %chunk = add i64 %first, %claimed
  call void @run_chunk(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %chunk, i64 %chunks)
  %next = add i64 %ran, 1
  br label %loop
done:
  ret i64 %ran
}

; Run what is left of the other participants' shares; the number of chunks run.
define internal i64 @run_others(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %number, i64 %own,
                                i64 %team) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 1, %entry ], [ %next, %share ]
  %ran = phi i64 [ 0, %entry ], [ %total, %share ]
  %more = icmp ult i64 %i, %team
  br i1 %more, label %share, label %done
share:
  %sum = add i64 %own, %i
  %wraps = icmp uge i64 %sum, %team
  %back = select i1 %wraps, i64 %team, i64 0
  %of = sub i64 %sum, %back
  %new = call i64 @run_share(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %number, i64 %of,
                            i64 %team)
  %total = add i64 %ran, %new
  %next = add i64 %i, 1
  br label %loop
done:
  ret i64 %ran
}
"""

PHASE = """
; Watch the count for some turns; whether it has reached `target`.
define internal i1 @watch(ptr %block, i64 %target, i64 %turns) {
entry:
  %counter = getelementptr i8, ptr Block.done(%block), i64 0
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %done = load atomic i64, ptr %counter acquire, align 8
  %over = icmp uge i64 %done, %target
  %last = icmp uge i64 %i, %turns
  %stop = or i1 %over, %last
  br i1 %stop, label %end, label %again
again:
  call void @pause()
  %next = add i64 %i, 1
  br label %loop
end:
  ret i1 %over
}

; Wait until `target` chunks are finished: spin for some microseconds, then let other threads run in between (there may
; be more threads than processors, and the one that is waited for may not be running).
define internal void @wait(ptr %block, i64 %target) {
entry:
  %soon = call i1 @watch(ptr %block, i64 %target, i64 $SPINS)
  br i1 %soon, label %finished, label %yield
yield:
  %ignored = call i32 @sched_yield()
  %over = call i1 @watch(ptr %block, i64 %target, i64 1)
  br i1 %over, label %finished, label %yield
finished:
  ret void
}

define internal void @report(ptr %block, i64 %ran) {
  %nothing = icmp eq i64 %ran, 0
  br i1 %nothing, label %done, label %add
add:
  %old = atomicrmw add ptr Block.done(%block), i64 %ran acq_rel
  br label %done
done:
  ret void
}

; How many turns to watch before taking chunks of others: a few if everybody is here, because looking at their claim
; words slows them down, and they are likely to finish at about the same time.
define internal i64 @courtesy(ptr %block, i64 %team) {
  %joined = load atomic i64, ptr Block.tickets(%block) monotonic, align 8
  %complete = icmp uge i64 %joined, %team
  %turns = select i1 %complete, i64 $COURTESY, i64 0
  ret i64 %turns
}

; Take part in one phase, the `number`th of the call, and return when it is over: when `target` chunks are finished.
define internal void @run_phase(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %number, i64 %target,
                                i64 %own) {
  %team = load i64, ptr Block.participants(%block)
  call void @observe(i64 %own, i64 %number, i64 $ENTERS)
  %missed = call i1 @watch(ptr %block, i64 %target, i64 0)
  br i1 %missed, label %over, label %join
join:
  call void @stand_apart(ptr %block, i64 %own)
  %ran = call i64 @run_share(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %number, i64 %own,
                            i64 %team)
  call void @observe(i64 %own, i64 %number, i64 $SHARED)
  call void @report(ptr %block, i64 %ran)
  %turns = call i64 @courtesy(ptr %block, i64 %team)
  %even = call i1 @watch(ptr %block, i64 %target, i64 %turns)
  br i1 %even, label %over, label %help
help:
  %more = call i64 @run_others(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %number, i64 %own,
                               i64 %team)
  call void @report(ptr %block, i64 %more)
  call void @wait(ptr %block, i64 %target)
  br label %over
over:
  call void @observe(i64 %own, i64 %number, i64 $LEAVES)
  ret void
}
"""

TEAM = """
define internal ptr @scratch_of(ptr %block, ptr %plan, i64 %participant) alwaysinline {
  %arena = load ptr, ptr Block.arena(%block)
  %offset = load i64, ptr Plan.scratch_offset(%plan)
  %stride = load i64, ptr Plan.scratch_stride(%plan)
  %none = icmp eq i64 %stride, 0
  %at = mul i64 %stride, %participant
  %sum = add i64 %offset, %at
  %place = getelementptr i8, ptr %arena, i64 %sum
  %scratch = select i1 %none, ptr null, ptr %place
  ret ptr %scratch
}

; Take part in all phases of a group, as often as it is repeated. `number` phases and `finished` chunks came before;
; returns how many there are then.
define internal { i64, i64 } @run_group(ptr %block, ptr %plan, ptr %scratch, ptr %group, i64 %number, i64 %finished,
                                        i64 %own) {
entry:
  %phases = load i64, ptr Group.phases(%group)
  %count = load i64, ptr Group.count(%group)
  br label %loop
loop:
  %turn = phi i64 [ 0, %entry ], [ %next_turn, %again ]
  %n = phi i64 [ %number, %entry ], [ %k, %again ]
  %before = phi i64 [ %finished, %entry ], [ %sum, %again ]
  %more = icmp ult i64 %turn, %count
  br i1 %more, label %each, label %done
each:
  %p = phi i64 [ 0, %loop ], [ %next_p, %one ]
  %k = phi i64 [ %n, %loop ], [ %next_k, %one ]
  %sum = phi i64 [ %before, %loop ], [ %target, %one ]
  %left = icmp ult i64 %p, %phases
  br i1 %left, label %one, label %again
one:
  %phase = call ptr @phase_at(ptr %plan, ptr %group, i64 %p)
  %chunks = load i64, ptr Phase.chunks(%phase)
  %target = add i64 %sum, %chunks
  call void @run_phase(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %k, i64 %target, i64 %own)
  %next_p = add i64 %p, 1
  %next_k = add i64 %k, 1
  br label %each
again:
  %next_turn = add i64 %turn, 1
  br label %loop
done:
  %first = insertvalue { i64, i64 } undef, i64 %n, 0
  %both = insertvalue { i64, i64 } %first, i64 %before, 1
  ret { i64, i64 } %both
}

; Run the plan as one of its participants; returns when every chunk is finished.
define internal void @participate(ptr %block, i64 %participant) {
entry:
  %plan = load ptr, ptr Block.plan(%block)
  %team = load i64, ptr Block.participants(%block)
  %scratch = call ptr @scratch_of(ptr %block, ptr %plan, i64 %participant)
  %saved = call i64 @flush_denormals()
  %single = icmp eq i64 %team, 1
  br i1 %single, label %alone, label %together
alone:
  call void @run_alone(ptr %block, ptr %plan, ptr %scratch)
  br label %done
together:
  %groups = load i64, ptr Plan.groups(%plan)
  br label %loop
loop:
  %i = phi i64 [ 0, %together ], [ %next, %one ]
  %number = phi i64 [ 0, %together ], [ %number_after, %one ]
  %finished = phi i64 [ 0, %together ], [ %finished_after, %one ]
  %more = icmp ult i64 %i, %groups
  br i1 %more, label %one, label %done
one:
  %group = call ptr @group_at(ptr %plan, i64 %i)
  %after = call { i64, i64 } @run_group(ptr %block, ptr %plan, ptr %scratch, ptr %group, i64 %number, i64 %finished,
                                        i64 %participant)
  %number_after = extractvalue { i64, i64 } %after, 0
  %finished_after = extractvalue { i64, i64 } %after, 1
  %next = add i64 %i, 1
  br label %loop
done:
  call void @restore_denormals(i64 %saved)
  ret void
}

; The calling thread's part: run the plan, hand the arena back, drop the reference.
define void @tilewright_lead(ptr %block) {
  call void @participate(ptr %block, i64 0)
  call void @return_arena(ptr %block)
  call void @tilewright_drop(ptr %block)
  ret void
}

; A helper task's part. It may start late, even after the call has returned.
define void @tilewright_help(ptr %block) {
  %ticket = atomicrmw add ptr Block.tickets(%block), i64 1 monotonic
  call void @participate(ptr %block, i64 %ticket)
  call void @tilewright_drop(ptr %block)
  ret void
}
"""
