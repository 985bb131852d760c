"""Plans, object code and the native driver, without XLA."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jaxlib
import llvmlite.binding as llvm
import numpy as np
import pytest
from handwritten import (
    chain,
    float_state,
    increment,
    negative,
    rotate,
    rotated,
    saxpy,
    scale,
    through_scratch,
)

from tilewright.backends.llvm import link, toolchain
from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.native import run_plan_native
from tilewright.backends.llvm.phases import groups_of
from tilewright.backends.llvm.plan_table import PlanTable, aligned_constant, verify_kernels
from tilewright.backends.llvm.runtime import runtime_ir
from tilewright.backends.llvm.xla_abi import XlaAbiError, parse_abi, read_abi
from tilewright.ir.graph import TensorType
from tilewright.ir.loop import Buffer
from tilewright.ir.plan import Condition, ExecPlan, PlanError, Repeat, Slot, Stage, Window, verify_plan

N = 37
F32 = TensorType((N,), "float32")
MOVING = Slot("output", 0, Window(0, 64))
GOOD = Stage("k", (Slot("input", 0), Slot("output", 0)), N, 4)
PLAN = ExecPlan((F32,), (F32,), (), 64, (GOOD,))
x86_only = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 processor")


def _input(n: int = N) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


# ---- plans


def test_a_good_plan_passes() -> None:
    verify_plan(PLAN)
    verify_plan(ExecPlan((), (), (), 0, ()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": (replace(GOOD, chunks=0),)}, r"stage 0 \(k\): the number of chunks must be in 1..1048576, found 0"),
        ({"stages": (replace(GOOD, chunks=38),)}, "a range of 37 can't be cut into 38 chunks"),
        ({"stages": (replace(GOOD, extent=-1, chunks=1),)}, "the extent must be in .*found -1"),
        ({"stages": (replace(GOOD, args=(Slot("input", 1), Slot("output", 0))),)}, "argument 0: the plan has 1 inputs"),
        ({"stages": (replace(GOOD, args=(Slot("constant", 0), Slot("output", 0))),)}, "the plan has 0 constants"),
        ({"stages": (replace(GOOD, args=(Slot("arena", 8), Slot("output", 0))),)}, "8 is not a multiple of 64"),
        ({"stages": (replace(GOOD, args=(Slot("arena", 128), Slot("output", 0))),)}, "outside the arena of 64 bytes"),
        ({"stages": (replace(GOOD, args=(Slot("register", 0), Slot("output", 0))),)}, "found 'register'"),
        ({"stages": ()}, "output 0 is not an argument of any stage"),
        ({"arena_bytes": -1}, "must not be negative, found -1"),
        (
            {"stages": (GOOD, replace(GOOD, condition=Condition(Slot("input", 0), True)))},
            "a condition inside the arena, found input 0",
        ),
        (
            {"stages": (GOOD, replace(GOOD, condition=Condition(Slot("arena", 0), True)))},
            "no earlier stage that surely runs has its condition, arena 0",
        ),
        ({"inputs": (TensorType((N,), "key<fry>"),)}, "input 0: kernels have no element type 'key<fry>'"),
        ({"outputs": (TensorType((-1,), "float32"),)}, "output 0: sizes must not be negative"),
    ],
)
def test_a_bad_plan_is_refused(change: dict[str, object], message: str) -> None:
    fields = {name: getattr(PLAN, name) for name in ("inputs", "outputs", "constants", "arena_bytes", "stages")}
    with pytest.raises(PlanError, match=message):
        verify_plan(ExecPlan(**{**fields, **change}))


def test_the_digest_covers_everything() -> None:
    constant = np.arange(4, dtype=np.float32)
    other = constant.copy()
    other[3] = 7
    base = ExecPlan((F32,), (F32,), (constant,), 64, (GOOD,))
    same = ExecPlan((F32,), (F32,), (constant.copy(),), 64, (GOOD,))
    different = [
        ExecPlan((F32, F32), (F32,), (constant,), 64, (GOOD,)),
        ExecPlan((F32,), (F32.with_dtype("int32"),), (constant,), 64, (GOOD,)),
        ExecPlan((F32,), (F32,), (other,), 64, (GOOD,)),
        ExecPlan((F32,), (F32,), (constant.view(np.int32),), 64, (GOOD,)),
        ExecPlan((F32,), (F32,), (constant,), 128, (GOOD,)),
        ExecPlan((F32,), (F32,), (constant,), 64, (replace(GOOD, chunks=2),)),
        ExecPlan((F32,), (F32,), (constant,), 64, (GOOD, GOOD)),
        ExecPlan((F32,), (F32,), (constant,), 64, (GOOD,), (Repeat(0, 1, 2),)),
        ExecPlan((F32,), (F32,), (constant,), 64, (replace(GOOD, args=(GOOD.args[0], MOVING)),)),
    ]
    assert base.digest == same.digest
    assert len({plan.digest for plan in [base, *different]}) == 1 + len(different)


def test_serial_stages_share_a_phase() -> None:
    serial, empty = replace(GOOD, chunks=1), replace(GOOD, extent=0, chunks=1)
    plan = ExecPlan((F32,), (F32,), (), 64, (serial, serial, GOOD, empty, GOOD, serial, empty))
    (group,) = groups_of(plan)
    assert [(len(phase.stages), phase.chunks) for phase in group.phases] == [(2, 1), (1, 4), (1, 4), (1, 1)]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("other", (Slot("input", 0), Slot("output", 0)), N, 1), "no kernel of that name"),
        (Stage("scale_37_2000", (Slot("input", 0), Slot("output", 0)), N + 1, 1), "range is 37, the plan says 38"),
        (Stage("scale_37_2000", (Slot("output", 0),), N, 1), "takes 2 arguments, the plan gives 1"),
        (
            Stage("scale_37_2000", (Slot("constant", 0), Slot("output", 0)), N, 1),
            "expects 148 bytes, constant 0 has 12",
        ),
        (Stage("scale_37_2000", (Slot("input", 0), Slot("arena", 0)), N, 1), "exceed the arena of 64 bytes"),
        (Stage("scale_37_2000", (Slot("output", 0), Slot("input", 0)), N, 1), "can't write into input 0"),
    ],
)
def test_a_plan_that_does_not_fit_its_kernels_is_refused(stage: Stage, message: str) -> None:
    plan = ExecPlan((F32,), (F32,), (np.zeros(3, np.float32),), 64, (stage,))
    kernel = scale(N)
    with pytest.raises(PlanError, match=message):
        verify_kernels(plan, {kernel.symbol: kernel})


@pytest.mark.parametrize(
    ("source", "result", "in_place", "refused"),
    [
        (Slot("arena", 0), Slot("arena", 192), (), False),
        (Slot("arena", 0), Slot("arena", 128), (), True),
        (Slot("arena", 128), Slot("arena", 0), (), True),
        (Slot("arena", 0), Slot("arena", 0), (), True),
        (Slot("arena", 0), Slot("arena", 0), (0,), False),
        (Slot("arena", 64), Slot("arena", 0), (0,), True),
        (Slot("output", 0), Slot("output", 0), (), True),
        (Slot("output", 0), Slot("output", 0), (0,), False),
        (Slot("output", 0), Slot("output", 1), (), False),
    ],
)
def test_results_are_written_only_over_what_a_kernel_reads_in_time(
    source: Slot, result: Slot, in_place: tuple[int, ...], refused: bool
) -> None:
    kernel = replace(scale(N), in_place=in_place)
    both = [Stage(kernel.symbol, (Slot("input", 0), Slot("output", n)), N, 1) for n in range(2)]
    plan = ExecPlan((F32,), (F32, F32), (), 384, (*both, Stage(kernel.symbol, (source, result), N, 1)))
    if refused:
        with pytest.raises(PlanError, match="written over argument 0"):
            verify_kernels(plan, {kernel.symbol: kernel})
    else:
        verify_kernels(plan, {kernel.symbol: kernel})


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (Window(0, 0), Window(192, 0), False),
        (Window(0, 64), Window(192, 64), False),
        (Window(0, 64), Window(128, 64), True),
        (Window(0, 64), Window(384, 0), True),
        (Window(0, 64), Window(640, 0), False),
        (Window(640, -64), Window(0, 0), False),
        (Window(640, -64), Window(192, 0), True),
        (Window(0, 64), Window(768, -64), True),
        (Window(0, 384), Window(192, 384), False),
    ],
)
def test_windows_that_meet_in_some_repetition_are_refused(first: Window, second: Window, refused: bool) -> None:
    kernel, count = scale(N), 8
    for source, result in ((first, second), (second, first)):
        stages = (
            Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), N, 1),
            Stage(kernel.symbol, (Slot("arena", 0, source), Slot("arena", 0, result)), N, 1),
        )
        plan = ExecPlan((F32,), (F32,), (), 4096, stages, (Repeat(1, 1, count),))
        if refused:
            with pytest.raises(PlanError, match="written over argument 0"):
                verify_kernels(plan, {kernel.symbol: kernel})
        else:
            verify_kernels(plan, {kernel.symbol: kernel})


def test_an_output_that_is_only_read_is_refused() -> None:
    kernel = scale(N)
    stage = Stage(kernel.symbol, (Slot("output", 0), Slot("arena", 0)), N, 1)
    with pytest.raises(PlanError, match="no stage writes output 0"):
        verify_kernels(ExecPlan((), (F32,), (), 192, (stage,)), {kernel.symbol: kernel})


# ---- object code


def test_object_code_is_reproducible_and_needs_valid_ir() -> None:
    text = "define i64 @f() {\n  ret i64 7\n}"
    assert toolchain.object_code(text, features="") == toolchain.object_code(text, features="")
    assert "movl\t$7" in toolchain.assembly(text, features="") or platform.machine() != "x86_64"
    assert "ret i64 7" in toolchain.optimized_ir(text, features="")
    with pytest.raises(toolchain.ToolchainError, match="can't parse"):
        toolchain.object_code("define i64 @f() {", features="")
    with pytest.raises(toolchain.ToolchainError, match="not valid"):
        toolchain.object_code("define i64 @f() {\n br label %a\na:\n %x = phi i64 [0, %a]\n ret i64 %x\n}", features="")


def _mixed(factor: int, count: int = 200) -> str:
    lines = [f"%v{n} = {('mul', 'xor')[n % 2]} i64 %v{n - 1}, {2 * n * factor + 1}" for n in range(1, count)]
    return "\n".join(["define i64 @f(i64 %v0) {", *lines, f"ret i64 %v{count - 1}", "}"])


def test_object_code_is_the_same_from_several_threads() -> None:
    texts = [_mixed(factor) for factor in range(1, 25)]
    alone = [toolchain.object_code(text, features="") for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: toolchain.object_code(text, features=""), texts * 4))
    assert len(set(alone)) == len(texts)
    assert together == alone * 4


def _call(address: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64)(address)()


def test_equal_symbols_of_different_objects_do_not_meet() -> None:
    codes = [toolchain.object_code(f"define i64 @f() {{\n  ret i64 {value}\n}}", features="") for value in (7, 8)]
    assert [_call(link.load(code).address("f")) for code in codes] == [7, 8]
    assert link.load(codes[0]) is link.load(codes[0])
    with pytest.raises(link.LinkError, match="'g'"):
        link.load(codes[0]).address("g")


def test_bad_object_code_is_an_error() -> None:
    with pytest.raises(link.LinkError, match="can't load object code of 7 bytes"):
        link.load(b"garbage")
    needy = toolchain.object_code(
        "declare void @there_is_no_such_function()\n"
        "define void @f() {\n  call void @there_is_no_such_function()\n  ret void\n}",
        features="",
    )
    with pytest.raises(link.LinkError, match="'f'"):
        link.load(needy).address("f")


@pytest.mark.skipif(sys.platform != "linux", reason="reserves address space with Linux's mmap")
def test_code_and_constants_stay_within_reach_of_each_other() -> None:
    script = Path(__file__).with_name("linking_far_apart.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "linked\n", done.stderr


def test_compiling_and_linking_from_many_threads() -> None:
    results: dict[int, int] = {}

    def work(first: int) -> None:
        for value in range(first, 48, 4):
            code = toolchain.object_code(f"define i64 @f() {{\n  ret i64 {value}\n}}", features="")
            results[value] = _call(link.load(code).address("f"))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {value: value for value in range(48)}


def test_the_driver_compiles_for_arm() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(runtime_ir(machine="aarch64"), llvm.create_context())
    module.verify()
    machine = llvm.Target.from_triple("aarch64-linux-gnu").create_target_machine(reloc="pic", codemodel="small")
    assert "msr\tFPCR" in machine.emit_assembly(module)
    with pytest.raises(NotImplementedError, match="found Linux on riscv64"):
        runtime_ir(machine="riscv64")


# ---- running


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunks", [1, 2, 7, 37])
def test_a_chain_of_stages_sees_what_the_stage_before_wrote(chunks: int, threads: int) -> None:
    kernel, x = rotate(N), _input()
    (y,) = run_plan_native(chain(kernel, 60, chunks), {kernel.symbol: kernel}, [x], threads)
    np.testing.assert_array_equal(y, rotated(x, 60))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunks", [1, 7])
@pytest.mark.parametrize("first", [-1.0, 1.0, np.nan])
def test_a_condition_decides_which_stages_run(chunks: int, threads: int, first: float) -> None:
    test, double, triple, more = negative(N), scale(N), scale(N, 3.0), increment(N)
    flag, between, out = Slot("arena", 0), Slot("arena", 64), Slot("output", 0)
    stages = (
        Stage(test.symbol, (Slot("input", 0), flag), 1, 1),
        Stage(double.symbol, (Slot("input", 0), between), N, chunks, Condition(flag, True)),
        Stage(more.symbol, (between, out), N, chunks, Condition(flag, True)),
        Stage(triple.symbol, (Slot("input", 0), out), N, chunks, Condition(flag, False)),
    )
    plan = ExecPlan((F32,), (F32,), (), 64 + 64 * -(-4 * N // 64), stages)
    x = _input()
    x[0] = first
    (y,) = run_plan_native(plan, {k.symbol: k for k in (test, double, triple, more)}, [x], threads)
    np.testing.assert_array_equal(y, x * 2 + 1 if first < 0 else x * 3)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_serial_and_parallel_stages_mix(threads: int) -> None:
    kernel, x = rotate(N), _input()
    chunks = [1, 1, 3, 1, 37, 1, 1, 1, 2, 5, 1]
    (y,) = run_plan_native(chain(kernel, len(chunks), chunks), {kernel.symbol: kernel}, [x], threads)
    np.testing.assert_array_equal(y, rotated(x, len(chunks)))


def _turns(kernel: Kernel, count: int, chunks: tuple[int, int]) -> ExecPlan:
    """Two stages that take turns between an arena and the output, ``count`` times."""
    kind = TensorType((N,), "float32")
    there = Stage(kernel.symbol, (Slot("output", 0), Slot("arena", 0)), N, chunks[0])
    back = Stage(kernel.symbol, (Slot("arena", 0), Slot("output", 0)), N, chunks[1])
    first = replace(back, args=(Slot("input", 0), Slot("output", 0)))
    return ExecPlan((kind,), (kind,), (), 256, (first, there, back, there, back), (Repeat(1, 2, count),))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunks", [(1, 1), (1, 7), (37, 3)])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_stages_are_repeated(count: int, chunks: tuple[int, int], threads: int) -> None:
    kernel, x = rotate(N), _input()
    (y,) = run_plan_native(_turns(kernel, count, chunks), {kernel.symbol: kernel}, [x], threads)
    np.testing.assert_array_equal(y, rotated(x, 2 * count + 3))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunks", [1, 5])
def test_a_condition_is_looked_at_in_every_repetition(chunks: int, threads: int) -> None:
    test, double, more = negative(N), scale(N), increment(N)
    flag, row, out = Slot("arena", 0), Slot("input", 0, Window(0, 4 * N)), Slot("output", 0, Window(0, 4 * N))
    stages = (
        Stage(test.symbol, (row, flag), 1, 1),
        Stage(double.symbol, (row, out), N, chunks, Condition(flag, True)),
        Stage(more.symbol, (row, out), N, chunks, Condition(flag, False)),
    )
    kind = TensorType((6, N), "float32")
    plan = ExecPlan((kind,), (kind,), (), 64, stages, (Repeat(0, 3, 6),))
    x = np.random.default_rng(0).standard_normal((6, N)).astype(np.float32)
    x[:, 0] = [-1, 1, 1, -1, 1, -1]
    (y,) = run_plan_native(plan, {k.symbol: k for k in (test, double, more)}, [x], threads)
    np.testing.assert_array_equal(y, np.where(x[:, :1] < 0, x * 2, x + 1))


def test_a_serial_repeat_is_one_phase() -> None:
    group, repeated, last = groups_of(_turns(rotate(N), 50, (1, 1)))
    assert (repeated.count, [(len(p.stages), p.chunks, p.count) for p in repeated.phases]) == (1, [(2, 1, 50)])
    assert (group.count, last.count) == (1, 1)
    _, repeated, _ = groups_of(_turns(rotate(N), 50, (1, 4)))
    assert (repeated.count, [(p.chunks, p.count) for p in repeated.phases]) == (50, [(1, 1), (4, 1)])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunks", [1, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_windows_move_with_repetitions(reverse: bool, chunks: int, threads: int) -> None:
    kernel, count = rotate(N), 6
    start, stride = ((count - 1) * 4 * N, -4 * N) if reverse else (0, 4 * N)
    args = (Slot("input", 0, Window(start, stride)), Slot("output", 0, Window(0, 4 * N)))
    kind = TensorType((count, N), "float32")
    plan = ExecPlan((kind,), (kind,), (), 0, (Stage(kernel.symbol, args, N, chunks),), (Repeat(0, 1, count),))
    x = np.random.default_rng(0).standard_normal((count, N)).astype(np.float32)
    (y,) = run_plan_native(plan, {kernel.symbol: kernel}, [x], threads)
    np.testing.assert_array_equal(y, np.stack([rotated(row, 1) for row in (x[::-1] if reverse else x)]))
    short = replace(plan, repeats=(Repeat(0, 1, count + 1),))
    with pytest.raises(PlanError, match="exceed the 888 bytes of"):
        run_plan_native(short, {kernel.symbol: kernel}, [x], threads)


def test_repeated_plans_run_in_many_threads_at_once() -> None:
    kernel, wrong = rotate(N), []
    plan = _turns(kernel, 40, (5, 7))

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal(N).astype(np.float32)
        for _ in range(5):
            (y,) = run_plan_native(plan, {kernel.symbol: kernel}, [x], 3)
            if not np.array_equal(y, rotated(x, 83)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("repeats", "message"),
    [
        ((Repeat(0, 2, 3),), "expected repeats of stages in order"),
        ((Repeat(0, 1, 0),), "expected repeats of stages in order"),
        ((Repeat(0, 1, 2), Repeat(0, 1, 2)), "expected repeats of stages in order"),
        ((Repeat(0, 1, 1 << 40),), "expected at most 2147483648 executions"),
    ],
)
def test_impossible_repeats_are_refused(repeats: tuple[Repeat, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        verify_plan(replace(PLAN, repeats=repeats))


def test_every_chunk_runs_exactly_once_with_more_threads_than_processors() -> None:
    kernel = increment(64)
    first = Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), 64, 64)
    again = replace(first, args=(Slot("output", 0), Slot("output", 0)))
    kind = TensorType((64,), "float32")
    plan = ExecPlan((kind,), (kind,), (), 0, (first,) + (again,) * 99)
    for _ in range(5):
        (y,) = run_plan_native(plan, {kernel.symbol: kernel}, [np.zeros(64, np.float32)], 8)
        np.testing.assert_array_equal(y, np.full(64, 100, np.float32))


def test_the_same_plan_runs_in_many_threads_at_once() -> None:
    kernel = rotate(1000)
    plan, wrong = chain(kernel, 20, 8), []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal(1000).astype(np.float32)
        for _ in range(10):
            (y,) = run_plan_native(plan, {kernel.symbol: kernel}, [x], 2)
            if not np.array_equal(y, rotated(x, 20)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_constants_are_dense_aligned_and_shared() -> None:
    kernel, rng = saxpy(N), np.random.default_rng(1)
    strided = rng.standard_normal((N, 3)).astype(np.float32)[:, 1]
    shifted = np.frombuffer(b"x" + rng.standard_normal(N).astype(np.float32).tobytes(), np.float32, N, 1)
    stage = Stage(kernel.symbol, (Slot("constant", 0), Slot("input", 0), Slot("constant", 1), Slot("output", 0)), N, 2)
    plan, x = ExecPlan((F32,), (F32,), (strided, shifted), 0, (stage,)), _input()
    (y,) = run_plan_native(plan, {kernel.symbol: kernel}, [x], 2)
    np.testing.assert_allclose(y, strided * x + shifted, rtol=1e-6)
    assert aligned_constant(strided) is not strided
    kept = aligned_constant(shifted)
    assert kept.ctypes.data % 64 == 0 and not kept.flags.writeable
    assert aligned_constant(shifted.copy()) is kept


@x86_only
def test_scratch_is_private_to_a_thread() -> None:
    kernel = through_scratch(20_000)
    x = _input(20_000)
    stage = Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), 20_000, 50)
    kind = TensorType((20_000,), "float32")
    (y,) = run_plan_native(ExecPlan((kind,), (kind,), (), 0, (stage,)), {kernel.symbol: kernel}, [x], 4)
    np.testing.assert_array_equal(y, x)


@x86_only
def test_denormals_are_flushed_in_kernels_only() -> None:
    kernel = float_state()
    kind = TensorType((1,), "int32")
    plan = ExecPlan((), (kind,), (), 0, (Stage(kernel.symbol, (Slot("output", 0),), 1, 1),))
    state = link.load(kernel.object_code).address(kernel.symbol)

    def read_here() -> int:
        value = ctypes.c_int32()
        bufs = (ctypes.c_void_p * 1)(ctypes.addressof(value))
        kernel_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        kernel_type(state)(bufs, 0, 1, None)
        return value.value & ~0x3F  # without the sticky exception flags

    before = read_here()
    (inside,) = run_plan_native(plan, {kernel.symbol: kernel}, [])
    assert before & 0x8040 == 0
    assert inside[0] & 0x8040 == 0x8040
    assert read_here() == before


def test_plans_without_work() -> None:
    assert run_plan_native(ExecPlan((), (), (), 0, ()), {}, [], 2) == ()
    empty = TensorType((0, 5), "float32")
    (y,) = run_plan_native(ExecPlan((empty,), (empty,), (), 0, ()), {}, [np.zeros((0, 5), np.float32)], 2)
    assert y.shape == (0, 5)
    params = (Buffer("x", (0,), "float32"), Buffer("y", (0,), "float32"))
    kernel = replace(scale(N), extent=0, params=params)
    none = TensorType((0,), "float32")
    plan = ExecPlan((none,), (none,), (), 0, (Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), 0, 1),))
    (y,) = run_plan_native(plan, {kernel.symbol: kernel}, [np.zeros(0, np.float32)], 2)
    assert y.shape == (0,)


def test_wrong_arguments_are_named() -> None:
    kernel = rotate(N)
    plan, kernels = chain(kernel, 2, 2), {kernel.symbol: kernel}
    with pytest.raises(ValueError, match="expected 1 arrays, found 0"):
        run_plan_native(plan, kernels, [])
    with pytest.raises(ValueError, match=r"argument 0: expected float32\[37\], found float32\[36\]"):
        run_plan_native(plan, kernels, [np.zeros(36, np.float32)])
    with pytest.raises(ValueError, match=r"argument 0: expected float32\[37\], found int32\[37\]"):
        run_plan_native(plan, kernels, [np.zeros(N, np.int32)])


def test_arrays_in_any_layout_are_accepted() -> None:
    kernel = rotate(N)
    strided = np.random.default_rng(3).standard_normal((N, 2)).astype(np.float32)[:, 0]
    (y,) = run_plan_native(chain(kernel, 3, 2), {kernel.symbol: kernel}, [strided], 2)
    np.testing.assert_array_equal(y, rotated(strided, 3))


def test_a_large_arena_is_aligned_for_huge_pages() -> None:
    n = 1 << 20
    kernel, x = rotate(n), _input(1 << 20)
    (y,) = run_plan_native(chain(kernel, 4, 16), {kernel.symbol: kernel}, [x], 2)
    np.testing.assert_array_equal(y, rotated(x, 4))


def test_a_kernel_without_its_symbol_is_an_error() -> None:
    kernel = replace(scale(N), symbol="not_there")
    plan = ExecPlan((F32,), (F32,), (), 0, (replace(GOOD, kernel="not_there"),))
    with pytest.raises(link.LinkError, match="'not_there'"):
        PlanTable(plan, {"not_there": kernel}, 2)


# ---- XLA's interface


def test_the_installed_header_is_understood() -> None:
    abi = read_abi(Path(jaxlib.__file__).parent / "include")
    known = {
        "XLA_FFI_CallFrame.args.args": 72,
        "XLA_FFI_CallFrame.rets.rets": 112,
        "XLA_FFI_Buffer.dims": 40,
        "XLA_FFI_Metadata.api_version.major_version": 24,
    }
    assert {name: abi.offsets[name] for name in known} == known
    assert abi.enumerators["XLA_FFI_DataType_F32"] == 11
    if (abi.major, abi.minor) == (0, 3):
        assert abi.sizes["XLA_FFI_CallFrame"] == 168
        assert abi.offsets["XLA_FFI_Api.XLA_FFI_ThreadPool_Schedule"] == 136


def test_a_changed_header_moves_offsets_or_is_refused() -> None:
    path = Path(jaxlib.__file__).parent / "include" / "xla" / "ffi" / "api" / "c_api.h"
    text, old = path.read_text(), "  void* data;\n  int64_t rank;"
    assert old in text
    moved = parse_abi(text.replace(old, "  void* data;\n  int32_t strange;\n  int64_t rank;"))
    assert moved.offsets["XLA_FFI_Buffer.dims"] == 48
    with pytest.raises(XlaAbiError, match="unknown size: Strange"):
        parse_abi(text.replace(old, "  void* data;\n  Strange strange;\n  int64_t rank;"))
    with pytest.raises(XlaAbiError, match="does not define XLA_FFI_Buffer"):
        parse_abi(text.replace("struct XLA_FFI_Buffer {", "struct XLA_FFI_Puffer {"))
    with pytest.raises(XlaAbiError, match="can't read"):
        read_abi(Path("/nonexistent"))
