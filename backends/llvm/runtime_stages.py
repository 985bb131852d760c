"""LLVM IR of the native driver, part 3: stages, chunks of phases, and a whole plan on one thread.

`turn` is the number of a repetition: of the group, or of a phase that is repeated by itself.
"""

from __future__ import annotations

CHUNKS = """
; Run part `chunk` of `chunks` of one stage, if its condition holds.
define internal void @run_stage(ptr %block, ptr %plan, ptr %scratch, i64 %number, i64 %turn, i64 %chunk, i64 %chunks) {
entry:
  %stages = load ptr, ptr Plan.stage_table(%plan)
  %at = mul i64 %number, $STAGE_BYTES
  %stage = getelementptr i8, ptr %stages, i64 %at
  %kernel = load ptr, ptr Stage.kernel(%stage)
  %extent = load i64, ptr Stage.extent(%stage)
  %first_buf = load i64, ptr Stage.first_buf(%stage)
  %strides = load ptr, ptr Stage.strides(%stage)
  %bufs_offset = load i64, ptr Plan.bufs_offset(%plan)
  %all_bufs = getelementptr i8, ptr %block, i64 %bufs_offset
  %shared = getelementptr ptr, ptr %all_bufs, i64 %first_buf
  %condition = load i64, ptr Stage.condition(%stage)
  %always = icmp eq i64 %condition, 0
  br i1 %always, label %chosen, label %look
look:
  %tested = sub i64 %condition, 1
  %holder = getelementptr ptr, ptr %all_bufs, i64 %tested
  %boolean = load ptr, ptr %holder
  %byte = load i8, ptr %boolean
  %found = zext i8 %byte to i64
  %wanted = load i64, ptr Stage.wanted(%stage)
  %holds = icmp eq i64 %found, %wanted
  br i1 %holds, label %chosen, label %skipped
skipped:
  ret void
chosen:
  %fixed = icmp eq ptr %strides, null
  br i1 %fixed, label %ready, label %moving
moving:
  %count = load i64, ptr Stage.bufs(%stage)
  %moved = alloca i64, i64 %count
  call void @move_bufs(ptr %moved, ptr %shared, ptr %strides, i64 %count, i64 %turn)
  br label %ready
ready:
  %bufs = phi ptr [ %shared, %chosen ], [ %moved, %moving ]
  %whole = icmp eq i64 %chunks, 1
  br i1 %whole, label %run_whole, label %run_part
run_whole:
  call void %kernel(ptr %bufs, i64 0, i64 %extent, ptr %scratch)
  ret void
run_part:
  %below = mul i64 %extent, %chunk
  %lo = udiv i64 %below, %chunks
  %above = add i64 %below, %extent
  %hi = udiv i64 %above, %chunks
  call void %kernel(ptr %bufs, i64 %lo, i64 %hi, ptr %scratch)
  ret void
}

; Addresses of a stage's arguments in a repetition.
define internal void @move_bufs(ptr %moved, ptr %bufs, ptr %strides, i64 %count, i64 %turn) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %from = getelementptr i64, ptr %bufs, i64 %i
  %start = load i64, ptr %from
  %stride_at = getelementptr i64, ptr %strides, i64 %i
  %stride = load i64, ptr %stride_at
  %distance = mul i64 %stride, %turn
  %address = add i64 %start, %distance
  %to = getelementptr i64, ptr %moved, i64 %i
  store i64 %address, ptr %to
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}

; Run chunk `chunk` of `chunks` of a phase: that part of its one stage, or all stages of a serial run, as often as they
; are repeated.
define internal void @run_chunk(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 %chunk, i64 %chunks) {
entry:
  %first = load i64, ptr Phase.first_stage(%phase)
  %stages = load i64, ptr Phase.stages(%phase)
  %count = load i64, ptr Phase.count(%phase)
  %end = add i64 %first, %stages
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next_i, %again ]
  %repeats = icmp ult i64 %i, %count
  br i1 %repeats, label %each, label %done
each:
  %number = phi i64 [ %first, %loop ], [ %next, %one ]
  %more = icmp ult i64 %number, %end
  br i1 %more, label %one, label %again
one:
  %own_turn = add i64 %turn, %i
  call void @run_stage(ptr %block, ptr %plan, ptr %scratch, i64 %number, i64 %own_turn, i64 %chunk, i64 %chunks)
  %next = add i64 %number, 1
  br label %each
again:
  %next_i = add i64 %i, 1
  br label %loop
done:
  ret void
}

define internal ptr @group_at(ptr %plan, i64 %number) alwaysinline {
  %groups = load ptr, ptr Plan.group_table(%plan)
  %at = mul i64 %number, $GROUP_BYTES
  %group = getelementptr i8, ptr %groups, i64 %at
  ret ptr %group
}

define internal ptr @phase_at(ptr %plan, ptr %group, i64 %number) alwaysinline {
  %phases = load ptr, ptr Plan.phase_table(%plan)
  %first = load i64, ptr Group.first_phase(%group)
  %sum = add i64 %first, %number
  %at = mul i64 %sum, $PHASE_BYTES
  %phase = getelementptr i8, ptr %phases, i64 %at
  ret ptr %phase
}

; Run a group on this thread: no claims, no counters, no cuts. `number` phases came before; returns how many did then.
define internal i64 @run_group_alone(ptr %block, ptr %plan, ptr %scratch, ptr %group, i64 %number) {
entry:
  %phases = load i64, ptr Group.phases(%group)
  %count = load i64, ptr Group.count(%group)
  br label %loop
loop:
  %turn = phi i64 [ 0, %entry ], [ %next_turn, %again ]
  %n = phi i64 [ %number, %entry ], [ %k, %again ]
  %more = icmp ult i64 %turn, %count
  br i1 %more, label %each, label %done
each:
  %p = phi i64 [ 0, %loop ], [ %next_p, %one ]
  %k = phi i64 [ %n, %loop ], [ %next_k, %one ]
  %left = icmp ult i64 %p, %phases
  br i1 %left, label %one, label %again
one:
  %phase = call ptr @phase_at(ptr %plan, ptr %group, i64 %p)
  call void @observe(i64 0, i64 %k, i64 $ENTERS)
  call void @run_chunk(ptr %block, ptr %plan, ptr %scratch, ptr %phase, i64 %turn, i64 0, i64 1)
  call void @observe(i64 0, i64 %k, i64 $SHARED)
  call void @observe(i64 0, i64 %k, i64 $LEAVES)
  %next_p = add i64 %p, 1
  %next_k = add i64 %k, 1
  br label %each
again:
  %next_turn = add i64 %turn, 1
  br label %loop
done:
  ret i64 %n
}

; Run the whole plan on this thread.
define internal void @run_alone(ptr %block, ptr %plan, ptr %scratch) {
entry:
  %count = load i64, ptr Plan.groups(%plan)
  br label %loop
loop:
  %number = phi i64 [ 0, %entry ], [ %next, %one ]
  %phases = phi i64 [ 0, %entry ], [ %so_far, %one ]
  %more = icmp ult i64 %number, %count
  br i1 %more, label %one, label %done
one:
  %group = call ptr @group_at(ptr %plan, i64 %number)
  %so_far = call i64 @run_group_alone(ptr %block, ptr %plan, ptr %scratch, ptr %group, i64 %phases)
  %next = add i64 %number, 1
  br label %loop
done:
  ret void
}
"""
