"""The custom call that XLA sees: checks the call frame, gathers a team from XLA's thread pool and runs the plan.

One handler, `tilewright_handle`, serves every plan; a plan's own entry point is two instructions that add the address
of its table (`ENTRY_IR`, linked once per plan). Nothing here takes Python's interpreter lock.
"""

from __future__ import annotations

from .observer import SILENT
from .runtime import HUGE_PAGE, runtime_ir
from .xla_abi import XlaAbi

#: Rows of the tables `inputs` and `outputs` of a plan: what an array must be, and what to say where it is not.
SPEC_FIELDS = ("dtype", "rank", "dims", "message", "bytes")

#: Results of at least this size are asked to be on huge pages. Their memory mostly is fresh from the system (XLA
#: allocates results anew on each call), and the first touch of a small page costs more than computing what it holds.
_LARGE_RESULT = 4 * HUGE_PAGE

_PREFIX = "XLA_FFI_DataType_"
_DTYPES = {
    "bool": "PRED",
    "int8": "S8",
    "int16": "S16",
    "int32": "S32",
    "int64": "S64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "complex128": "C128",
}


def xla_dtype(abi: XlaAbi, dtype: str) -> int:
    """XLA's number of an element type.

    Raises:
        KeyError: XLA has no such element type.
    """
    return abi.enumerators[_PREFIX + _DTYPES[dtype]]


def handler_ir(abi: XlaAbi, observer: str = SILENT) -> str:
    """The driver together with ``ptr tilewright_handle(ptr frame, ptr plan)``, as an LLVM module."""
    constants = {
        "METADATA": abi.enumerators["XLA_FFI_Extension_Metadata"],
        "EXECUTE": abi.enumerators["XLA_FFI_ExecutionStage_EXECUTE"],
        "ARGUMENT_BUFFER": abi.enumerators["XLA_FFI_ArgType_BUFFER"],
        "RESULT_BUFFER": abi.enumerators["XLA_FFI_RetType_BUFFER"],
        "INVALID_ARGUMENT": abi.enumerators["XLA_FFI_Error_Code_INVALID_ARGUMENT"],
        "RESOURCE_EXHAUSTED": abi.enumerators["XLA_FFI_Error_Code_RESOURCE_EXHAUSTED"],
        "MAJOR": abi.major,
        "MINOR": abi.minor,
        "FRAME_SIZE": abi.sizes["XLA_FFI_CallFrame"],
        "ERROR_CREATE_SIZE": abi.sizes["XLA_FFI_Error_Create_Args"],
        "ERROR_DESTROY_SIZE": abi.sizes["XLA_FFI_Error_Destroy_Args"],
        "NUM_THREADS_SIZE": abi.sizes["XLA_FFI_ThreadPool_NumThreads_Args"],
        "SCHEDULE_SIZE": abi.sizes["XLA_FFI_ThreadPool_Schedule_Args"],
        "SPEC_BYTES": 8 * len(SPEC_FIELDS),
        "LARGE_RESULT": _LARGE_RESULT,
        "HUGE_PAGE_MASK": HUGE_PAGE - 1,
    }
    spec_offsets = {f"Spec.{name}": 8 * number for number, name in enumerate(SPEC_FIELDS)}
    extra = "\n".join((_message_constants(), _METADATA, _ERRORS, _CHECKS, _BUFFERS, _THREADS, _HANDLE))
    return runtime_ir(extra, constants=constants, offsets={**abi.offsets, **spec_offsets}, observer=observer)


ENTRY_IR = """
@tilewright_plan = external global i8

declare ptr @tilewright_handle(ptr, ptr)

define ptr @tilewright_entry(ptr %frame) {
  %error = tail call ptr @tilewright_handle(ptr %frame, ptr @tilewright_plan)
  ret ptr %error
}
"""
"""A plan's entry point: a call of the handler with the plan's table; the linker supplies both addresses."""


_MESSAGES = {
    "wrong_frame": "tilewright: XLA's call frame is smaller than jaxlib's header says",
    "wrong_count": "tilewright: the call has another number of arguments or results than the plan",
    "no_memory": "tilewright: there is no memory for the plan's intermediates",
}


def _message_constants() -> str:
    """The fixed messages as zero-terminated strings."""
    return "\n".join(
        f'@{name} = internal constant [{len(text) + 1} x i8] c"{text}\\00"' for name, text in _MESSAGES.items()
    )


_METADATA = """
; Answer XLA's question which version of the interface this handler was made for.
define internal void @describe(ptr %extension) {
  %metadata = load ptr, ptr XLA_FFI_Metadata_Extension.metadata(%extension)
  store i32 $MAJOR, ptr XLA_FFI_Metadata.api_version.major_version(%metadata)
  store i32 $MINOR, ptr XLA_FFI_Metadata.api_version.minor_version(%metadata)
  store i32 0, ptr XLA_FFI_Metadata.traits(%metadata)
  ret void
}
"""

_ERRORS = """
define internal ptr @make_error(ptr %frame, ptr %message, i32 %code) {
  %api = load ptr, ptr XLA_FFI_CallFrame.api(%frame)
  %create = load ptr, ptr XLA_FFI_Api.XLA_FFI_Error_Create(%api)
  %args = alloca [$ERROR_CREATE_SIZE x i8], align 8
  store i64 $ERROR_CREATE_SIZE, ptr XLA_FFI_Error_Create_Args.struct_size(%args)
  store ptr null, ptr XLA_FFI_Error_Create_Args.extension_start(%args)
  store ptr %message, ptr XLA_FFI_Error_Create_Args.message(%args)
  store i32 %code, ptr XLA_FFI_Error_Create_Args.errc(%args)
  %error = call ptr %create(ptr %args)
  ret ptr %error
}

define internal void @destroy_error(ptr %frame, ptr %error) {
  %api = load ptr, ptr XLA_FFI_CallFrame.api(%frame)
  %destroy = load ptr, ptr XLA_FFI_Api.XLA_FFI_Error_Destroy(%api)
  %args = alloca [$ERROR_DESTROY_SIZE x i8], align 8
  store i64 $ERROR_DESTROY_SIZE, ptr XLA_FFI_Error_Destroy_Args.struct_size(%args)
  store ptr null, ptr XLA_FFI_Error_Destroy_Args.extension_start(%args)
  store ptr %error, ptr XLA_FFI_Error_Destroy_Args.error(%args)
  call void %destroy(ptr %args)
  ret void
}
"""

_CHECKS = """
; Whether a buffer is what its row of the table says.
define internal i1 @matches(ptr %buffer, ptr %spec) {
entry:
  %dtype = load i32, ptr XLA_FFI_Buffer.dtype(%buffer)
  %wanted_dtype64 = load i64, ptr Spec.dtype(%spec)
  %wanted_dtype = trunc i64 %wanted_dtype64 to i32
  %same_dtype = icmp eq i32 %dtype, %wanted_dtype
  %rank = load i64, ptr XLA_FFI_Buffer.rank(%buffer)
  %wanted_rank = load i64, ptr Spec.rank(%spec)
  %same_rank = icmp eq i64 %rank, %wanted_rank
  %comparable = and i1 %same_dtype, %same_rank
  br i1 %comparable, label %axes, label %no
axes:
  %dims = load ptr, ptr XLA_FFI_Buffer.dims(%buffer)
  %wanted_dims = load ptr, ptr Spec.dims(%spec)
  br label %loop
loop:
  %i = phi i64 [ 0, %axes ], [ %next, %axis ]
  %more = icmp ult i64 %i, %rank
  br i1 %more, label %axis, label %yes
axis:
  %dim_at = getelementptr i64, ptr %dims, i64 %i
  %dim = load i64, ptr %dim_at
  %wanted_at = getelementptr i64, ptr %wanted_dims, i64 %i
  %wanted = load i64, ptr %wanted_at
  %same = icmp eq i64 %dim, %wanted
  %next = add i64 %i, 1
  br i1 %same, label %loop, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; The message of the first buffer that is not what the table says; null if all are.
define internal ptr @check_buffers(ptr %buffers, ptr %types, i32 %type, i64 %count, ptr %table) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %compare ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %good
one:
  %at = mul i64 %i, $SPEC_BYTES
  %spec = getelementptr i8, ptr %table, i64 %at
  %type_at = getelementptr i32, ptr %types, i64 %i
  %found_type = load i32, ptr %type_at
  %is_buffer = icmp eq i32 %found_type, %type
  br i1 %is_buffer, label %compare, label %bad
compare:
  %buffer_at = getelementptr ptr, ptr %buffers, i64 %i
  %buffer = load ptr, ptr %buffer_at
  %same = call i1 @matches(ptr %buffer, ptr %spec)
  %next = add i64 %i, 1
  br i1 %same, label %loop, label %bad
bad:
  %message = load ptr, ptr Spec.message(%spec)
  ret ptr %message
good:
  ret ptr null
}

; Why this call can't be executed; null if it can.
define internal ptr @check_call(ptr %frame, ptr %plan) {
  %size = load i64, ptr XLA_FFI_CallFrame.struct_size(%frame)
  %known = icmp uge i64 %size, $FRAME_SIZE
  br i1 %known, label %counts, label %bad_frame
counts:
  %args = load i64, ptr XLA_FFI_CallFrame.args.size(%frame)
  %inputs = load i64, ptr Plan.inputs(%plan)
  %same_args = icmp eq i64 %args, %inputs
  %rets = load i64, ptr XLA_FFI_CallFrame.rets.size(%frame)
  %outputs = load i64, ptr Plan.outputs(%plan)
  %same_rets = icmp eq i64 %rets, %outputs
  %same = and i1 %same_args, %same_rets
  br i1 %same, label %arguments, label %bad_count
arguments:
  %in = load ptr, ptr XLA_FFI_CallFrame.args.args(%frame)
  %in_types = load ptr, ptr XLA_FFI_CallFrame.args.types(%frame)
  %in_table = load ptr, ptr Plan.input_table(%plan)
  %in_fault = call ptr @check_buffers(ptr %in, ptr %in_types, i32 $ARGUMENT_BUFFER, i64 %args, ptr %in_table)
  %in_good = icmp eq ptr %in_fault, null
  br i1 %in_good, label %results, label %bad_argument
results:
  %out = load ptr, ptr XLA_FFI_CallFrame.rets.rets(%frame)
  %out_types = load ptr, ptr XLA_FFI_CallFrame.rets.types(%frame)
  %out_table = load ptr, ptr Plan.output_table(%plan)
  %out_fault = call ptr @check_buffers(ptr %out, ptr %out_types, i32 $RESULT_BUFFER, i64 %rets, ptr %out_table)
  ret ptr %out_fault
bad_argument:
  ret ptr %in_fault
bad_count:
  ret ptr @wrong_count
bad_frame:
  ret ptr @wrong_frame
}
"""

_BUFFERS = """
; Store the data pointers of `count` buffers at `to`.
define internal void @store_addresses(ptr %buffers, i64 %count, ptr %to) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %buffer_at = getelementptr ptr, ptr %buffers, i64 %i
  %buffer = load ptr, ptr %buffer_at
  %data = load ptr, ptr XLA_FFI_Buffer.data(%buffer)
  %base = getelementptr ptr, ptr %to, i64 %i
  store ptr %data, ptr %base
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}

; Ask for huge pages below the large ones of `count` buffers.
define internal void @ask_for_huge_pages(ptr %buffers, i64 %count, ptr %table) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %skip ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %at = mul i64 %i, $SPEC_BYTES
  %spec = getelementptr i8, ptr %table, i64 %at
  %bytes = load i64, ptr Spec.bytes(%spec)
  %large = icmp uge i64 %bytes, $LARGE_RESULT
  br i1 %large, label %ask, label %skip
ask:
  %buffer_at = getelementptr ptr, ptr %buffers, i64 %i
  %buffer = load ptr, ptr %buffer_at
  %data = load i64, ptr XLA_FFI_Buffer.data(%buffer)
  %end = add i64 %data, %bytes
  %up = add i64 %data, $HUGE_PAGE_MASK
  %back = and i64 %up, $HUGE_PAGE_MASK
  %first = sub i64 %up, %back
  %beyond = and i64 %end, $HUGE_PAGE_MASK
  %last = sub i64 %end, %beyond
  %size = sub i64 %last, %first
  %place = inttoptr i64 %first to ptr
  %ignored = call i32 @madvise(ptr %place, i64 %size, i32 14)   ; MADV_HUGEPAGE: a wish, so its failure does not matter
  br label %skip
skip:
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}

; The bases of a block: after 0 and the arena, the inputs, then the outputs.
define internal void @bind_buffers(ptr %frame, ptr %plan, ptr %block) {
  %offset = load i64, ptr Plan.bases_offset(%plan)
  %bases = getelementptr i8, ptr %block, i64 %offset
  %inputs_at = getelementptr ptr, ptr %bases, i64 2
  %in = load ptr, ptr XLA_FFI_CallFrame.args.args(%frame)
  %inputs = load i64, ptr Plan.inputs(%plan)
  call void @store_addresses(ptr %in, i64 %inputs, ptr %inputs_at)
  %outputs_at = getelementptr ptr, ptr %inputs_at, i64 %inputs
  %out = load ptr, ptr XLA_FFI_CallFrame.rets.rets(%frame)
  %outputs = load i64, ptr Plan.outputs(%plan)
  call void @store_addresses(ptr %out, i64 %outputs, ptr %outputs_at)
  %results = load ptr, ptr Plan.output_table(%plan)
  call void @ask_for_huge_pages(ptr %out, i64 %outputs, ptr %results)
  ret void
}
"""

_THREADS = """
; How many participants this call should have: what the plan can use and the pool has; 1 where there is no pool.
define internal i64 @team_size(ptr %frame, ptr %plan) {
  %most = load i64, ptr Plan.participants(%plan)
  %serial = icmp ule i64 %most, 1
  br i1 %serial, label %one, label %ask
ask:
  %threads = alloca i64
  store i64 1, ptr %threads
  %api = load ptr, ptr XLA_FFI_CallFrame.api(%frame)
  %ctx = load ptr, ptr XLA_FFI_CallFrame.ctx(%frame)
  %num_threads = load ptr, ptr XLA_FFI_Api.XLA_FFI_ThreadPool_NumThreads(%api)
  %args = alloca [$NUM_THREADS_SIZE x i8], align 8
  store i64 $NUM_THREADS_SIZE, ptr XLA_FFI_ThreadPool_NumThreads_Args.struct_size(%args)
  store ptr null, ptr XLA_FFI_ThreadPool_NumThreads_Args.extension_start(%args)
  store ptr %ctx, ptr XLA_FFI_ThreadPool_NumThreads_Args.ctx(%args)
  store ptr %threads, ptr XLA_FFI_ThreadPool_NumThreads_Args.num_threads(%args)
  %error = call ptr %num_threads(ptr %args)
  %fine = icmp eq ptr %error, null
  br i1 %fine, label %choose, label %no_pool
no_pool:
  call void @destroy_error(ptr %frame, ptr %error)
  br label %one
choose:
  %available = load i64, ptr %threads
  %small = icmp slt i64 %available, %most
  %least = select i1 %small, i64 %available, i64 %most
  %positive = icmp sgt i64 %least, 1
  %team = select i1 %positive, i64 %least, i64 1
  ret i64 %team
one:
  ret i64 1
}

; Put `team - 1` helper tasks into XLA's pool. A task that can't be scheduled drops its reference right here.
define internal void @summon(ptr %frame, ptr %block, i64 %team) {
entry:
  %api = load ptr, ptr XLA_FFI_CallFrame.api(%frame)
  %ctx = load ptr, ptr XLA_FFI_CallFrame.ctx(%frame)
  %schedule = load ptr, ptr XLA_FFI_Api.XLA_FFI_ThreadPool_Schedule(%api)
  %args = alloca [$SCHEDULE_SIZE x i8], align 8
  store i64 $SCHEDULE_SIZE, ptr XLA_FFI_ThreadPool_Schedule_Args.struct_size(%args)
  store ptr null, ptr XLA_FFI_ThreadPool_Schedule_Args.extension_start(%args)
  store ptr %ctx, ptr XLA_FFI_ThreadPool_Schedule_Args.ctx(%args)
  store ptr @tilewright_help, ptr XLA_FFI_ThreadPool_Schedule_Args.task(%args)
  store ptr %block, ptr XLA_FFI_ThreadPool_Schedule_Args.data(%args)
  br label %loop
loop:
  %i = phi i64 [ 1, %entry ], [ %next, %scheduled ]
  %more = icmp ult i64 %i, %team
  br i1 %more, label %one, label %done
one:
  %error = call ptr %schedule(ptr %args)
  %fine = icmp eq ptr %error, null
  br i1 %fine, label %scheduled, label %failed
failed:
  call void @destroy_error(ptr %frame, ptr %error)
  call void @tilewright_drop(ptr %block)
  br label %scheduled
scheduled:
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}
"""

_HANDLE = """
define ptr @tilewright_handle(ptr %frame, ptr %plan) {
  %extension = load ptr, ptr XLA_FFI_CallFrame.extension_start(%frame)
  %plain = icmp eq ptr %extension, null
  br i1 %plain, label %call, label %extended
extended:
  %kind = load i32, ptr XLA_FFI_InternalExtension.type(%extension)
  %is_question = icmp eq i32 %kind, $METADATA
  br i1 %is_question, label %question, label %call
question:
  call void @describe(ptr %extension)
  ret ptr null
call:
  %stage = load i32, ptr XLA_FFI_CallFrame.stage(%frame)
  %is_execution = icmp eq i32 %stage, $EXECUTE
  br i1 %is_execution, label %check, label %nothing
nothing:
  ret ptr null
check:
  %fault = call ptr @check_call(ptr %frame, ptr %plan)
  %good = icmp eq ptr %fault, null
  br i1 %good, label %begin, label %refuse
refuse:
  %invalid = call ptr @make_error(ptr %frame, ptr %fault, i32 $INVALID_ARGUMENT)
  ret ptr %invalid
begin:
  %block = call ptr @tilewright_begin(ptr %plan)
  %failed = icmp eq ptr %block, null
  br i1 %failed, label %exhausted, label %run
exhausted:
  %exhaustion = call ptr @make_error(ptr %frame, ptr @no_memory, i32 $RESOURCE_EXHAUSTED)
  ret ptr %exhaustion
run:
  %team = call i64 @team_size(ptr %frame, ptr %plan)
  call void @bind_buffers(ptr %frame, ptr %plan, ptr %block)
  call void @tilewright_open(ptr %block, i64 %team)
  call void @summon(ptr %frame, ptr %block, i64 %team)
  call void @tilewright_lead(ptr %block)
  ret ptr null
}
"""
