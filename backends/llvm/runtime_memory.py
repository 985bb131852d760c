"""LLVM IR of the native driver, part 2: pools, blocks, arenas, and the addresses of kernel arguments."""

from __future__ import annotations

POOLS = """
; Take an idle item out of a pool; null if there is none.
define internal ptr @take(ptr %pool) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %skip ]
  %more = icmp ult i64 %i, $POOL_SLOTS
  br i1 %more, label %look, label %none
look:
  %slot = getelementptr ptr, ptr %pool, i64 %i
  %seen = load atomic ptr, ptr %slot monotonic, align 8
  %empty = icmp eq ptr %seen, null
  br i1 %empty, label %skip, label %grab
grab:
  %item = atomicrmw xchg ptr %slot, ptr null acq_rel
  %lost = icmp eq ptr %item, null
  br i1 %lost, label %skip, label %found
skip:
  %next = add i64 %i, 1
  br label %loop
found:
  ret ptr %item
none:
  ret ptr null
}

; Put an item back; free it if the pool is full.
define internal void @give(ptr %pool, ptr %item) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %skip ]
  %more = icmp ult i64 %i, $POOL_SLOTS
  br i1 %more, label %look, label %full
look:
  %slot = getelementptr ptr, ptr %pool, i64 %i
  %seen = load atomic ptr, ptr %slot monotonic, align 8
  %empty = icmp eq ptr %seen, null
  br i1 %empty, label %fill, label %skip
fill:
  %pair = cmpxchg ptr %slot, ptr null, ptr %item acq_rel monotonic
  %filled = extractvalue { ptr, i1 } %pair, 1
  br i1 %filled, label %done, label %skip
skip:
  %next = add i64 %i, 1
  br label %loop
full:
  call void @free(ptr %item)
  br label %done
done:
  ret void
}

; Take an idle item or allocate one; null if memory is exhausted. Large ones ask for huge pages.
define internal ptr @obtain(ptr %pool, i64 %alignment, i64 %bytes) {
  %idle = call ptr @take(ptr %pool)
  %found = icmp ne ptr %idle, null
  br i1 %found, label %reuse, label %allocate
reuse:
  ret ptr %idle
allocate:
  %new = call ptr @aligned_alloc(i64 %alignment, i64 %bytes)
  %failed = icmp eq ptr %new, null
  %small = icmp ult i64 %alignment, $HUGE_PAGE
  %plain = or i1 %failed, %small
  br i1 %plain, label %done, label %advise
advise:
  %ignored = call i32 @madvise(ptr %new, i64 %bytes, i32 14)   ; MADV_HUGEPAGE: a wish, so its failure does not matter
  br label %done
done:
  ret ptr %new
}

define internal void @drain(ptr %pool) {
entry:
  br label %loop
loop:
  %item = call ptr @take(ptr %pool)
  %empty = icmp eq ptr %item, null
  br i1 %empty, label %done, label %release
release:
  call void @free(ptr %item)
  br label %loop
done:
  ret void
}

; Free a plan's idle memory. No call of the plan may be running.
define void @tilewright_drain(ptr %plan) {
  %blocks = load ptr, ptr Plan.block_pool(%plan)
  call void @drain(ptr %blocks)
  %arenas = load ptr, ptr Plan.arena_pool(%plan)
  call void @drain(ptr %arenas)
  ret void
}
"""

CALL_MEMORY = """
; The memory of a call: its block, with an arena if the plan has one; null if memory is exhausted.
; The caller then stores the addresses of inputs and outputs among the block's bases, and opens the block.
define ptr @tilewright_begin(ptr %plan) {
  %blocks = load ptr, ptr Plan.block_pool(%plan)
  %block_bytes = load i64, ptr Plan.block_bytes(%plan)
  %block = call ptr @obtain(ptr %blocks, i64 $SEPARATION, i64 %block_bytes)
  %no_block = icmp eq ptr %block, null
  br i1 %no_block, label %exhausted, label %have_block
have_block:
  %arena_bytes = load i64, ptr Plan.arena_bytes(%plan)
  %no_arena = icmp eq i64 %arena_bytes, 0
  br i1 %no_arena, label %ready, label %get_arena
get_arena:
  %arenas = load ptr, ptr Plan.arena_pool(%plan)
  %alignment = load i64, ptr Plan.arena_alignment(%plan)
  %new = call ptr @obtain(ptr %arenas, i64 %alignment, i64 %arena_bytes)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %undo, label %ready
undo:
  call void @give(ptr %blocks, ptr %block)
  br label %exhausted
exhausted:
  ret ptr null
ready:
  %arena = phi ptr [ null, %have_block ], [ %new, %get_arena ]
  store ptr %plan, ptr Block.plan(%block)
  store ptr %arena, ptr Block.arena(%block)
  %bases_offset = load i64, ptr Plan.bases_offset(%plan)
  %bases = getelementptr i8, ptr %block, i64 %bases_offset
  store i64 0, ptr %bases
  %second = getelementptr i64, ptr %bases, i64 1
  store ptr %arena, ptr %second
  ret ptr %block
}

; Drop one reference to a block; the last one recycles it.
define void @tilewright_drop(ptr %block) {
  %old = atomicrmw sub ptr Block.references(%block), i64 1 acq_rel
  %last = icmp eq i64 %old, 1
  br i1 %last, label %recycle, label %done
recycle:
  %plan = load ptr, ptr Block.plan(%block)
  %blocks = load ptr, ptr Plan.block_pool(%plan)
  call void @give(ptr %blocks, ptr %block)
  br label %done
done:
  ret void
}

define internal void @return_arena(ptr %block) {
  %arena = load ptr, ptr Block.arena(%block)
  %none = icmp eq ptr %arena, null
  br i1 %none, label %done, label %return
return:
  %plan = load ptr, ptr Block.plan(%block)
  %arenas = load ptr, ptr Plan.arena_pool(%plan)
  call void @give(ptr %arenas, ptr %arena)
  br label %done
done:
  ret void
}
"""

RESOLVE = """
; Address of every kernel argument of the plan: base plus offset of its slot.
define internal void @resolve(ptr %block, ptr %plan) {
entry:
  %count = load i64, ptr Plan.bufs(%plan)
  %slots = load ptr, ptr Plan.slot_table(%plan)
  %bases_offset = load i64, ptr Plan.bases_offset(%plan)
  %bases = getelementptr i8, ptr %block, i64 %bases_offset
  %bufs_offset = load i64, ptr Plan.bufs_offset(%plan)
  %bufs = getelementptr i8, ptr %block, i64 %bufs_offset
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %at = mul i64 %i, $SLOT_BYTES
  %slot = getelementptr i8, ptr %slots, i64 %at
  %base = load i64, ptr Slot.base(%slot)
  %offset = load i64, ptr Slot.offset(%slot)
  %from = getelementptr i64, ptr %bases, i64 %base
  %start = load i64, ptr %from
  %address = add i64 %start, %offset
  %to = getelementptr i64, ptr %bufs, i64 %i
  store i64 %address, ptr %to
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}

; Make a block ready for `team` participants, each of which holds one reference.
define void @tilewright_open(ptr %block, i64 %team) {
entry:
  %plan = load ptr, ptr Block.plan(%block)
  call void @resolve(ptr %block, ptr %plan)
  store i64 %team, ptr Block.participants(%block)
  store atomic i64 %team, ptr Block.references(%block) monotonic, align 8
  store atomic i64 1, ptr Block.tickets(%block) monotonic, align 8
  store atomic i64 0, ptr Block.done(%block) monotonic, align 8
  %single = icmp eq i64 %team, 1
  br i1 %single, label %done, label %several
several:
  %here = call i32 @sched_getcpu()
  store atomic i32 %here, ptr Block.processor(%block) monotonic, align 4
  %started = call i64 @now()
  store i64 %started, ptr Block.started(%block)
  br label %loop
loop:
  %i = phi i64 [ 0, %several ], [ %next, %one ]
  %more = icmp ult i64 %i, %team
  br i1 %more, label %one, label %done
one:
  %word = call ptr @claim_word(ptr %block, i64 %i)
  store atomic i64 0, ptr %word monotonic, align 8
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}
"""
