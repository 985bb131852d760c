"""The measuring worker: correct kernels are timed, anything else becomes a status, and the next request works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tilewright.backends.llvm import link
from tilewright.backends.llvm.toolchain import host_features, object_code
from tilewright.backends.measure import protocol
from tilewright.backends.measure.checking import uneven_ranges
from tilewright.backends.measure.native import Native
from tilewright.backends.measure.process import WorkerProcess
from tilewright.backends.measure.runner import WorkerError, WorkerRunner
from tilewright.ir.measure import MeasureData, MeasureRequest, MeasureResult, TimingProtocol

EXTENT = 1001
QUICK = TimingProtocol(quick_repeats=2, repeats=3, budget_s=0.05, timeout_s=5.0)
HEAD = "define void @k(ptr %bufs, i64 %lo, i64 %hi, ptr %scratch) {\nentry:\n"
# out[i] = 2 * in[i]; BEFORE runs once per call, and INDEX may bend where element %i is stored.
DOUBLE = (
    HEAD
    + """
  %in = load ptr, ptr %bufs
  %out.place = getelementptr ptr, ptr %bufs, i64 1
  %out = load ptr, ptr %out.place
  BEFORE
  %some = icmp slt i64 %lo, %hi
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %from = getelementptr float, ptr %in, i64 %i
  %value = load float, ptr %from
  %double = fmul float %value, FACTOR
  %to = getelementptr float, ptr %out, i64 %i
  store float %double, ptr %to
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %done
done:
  AFTER
  ret void
}
"""
)


@dataclass(frozen=True)
class Code:
    """The part of a kernel that a runner needs."""

    symbol: str
    object_code: bytes
    extent: int = EXTENT
    scratch_bytes: int = 0
    in_place: tuple[int, ...] = ()


def kernel(text: str, *, extent: int = EXTENT, scratch_bytes: int = 0) -> Code:
    return Code("k", object_code(text, features=host_features()), extent, scratch_bytes)


def double(before: str = "", after: str = "", factor: str = "2.0", declarations: str = "", **options: int) -> Code:
    text = DOUBLE.replace("BEFORE", before).replace("AFTER", after).replace("FACTOR", factor)
    return kernel(text + declarations, **options)


def data_for(count: int = EXTENT, tolerance: float = 0.0) -> MeasureData:
    x = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    return MeasureData((x,), (x * np.float32(2),), (tolerance,))


@pytest.fixture(scope="module")
def runner() -> Iterator[WorkerRunner]:
    with WorkerRunner() as shared:
        yield shared


DATA = data_for()


def measure(
    runner: WorkerRunner, code: Code, data: MeasureData = DATA, timing: TimingProtocol = QUICK
) -> MeasureResult:
    (result,) = runner.measure(data, [MeasureRequest(code)], timing)
    return result


def fails(runner: WorkerRunner, code: Code, timing: TimingProtocol = QUICK, data: MeasureData = DATA) -> MeasureResult:
    """Measure a bad kernel, and a good one after it."""
    result = measure(runner, code, data, timing)
    assert result.latencies_s == ()
    assert result.error
    assert measure(runner, double()).status == "ok"
    return result


# ---- what works


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("cache", ["warm", "rotate"])
def test_correct_kernel_is_timed(runner: WorkerRunner, threads: int, cache: str) -> None:
    timing = TimingProtocol(threads=threads, cache=cache, quick_repeats=3, repeats=7)  # type: ignore[arg-type]
    result = measure(runner, double(), timing=timing)
    assert (result.status, result.error, result.max_errors) == ("ok", "", (0.0,))
    assert len(result.latencies_s) == 7
    assert all(0 < latency < 1 for latency in result.latencies_s)


def test_candidates_of_one_request_are_paired_and_slow_ones_leave_early(runner: WorkerRunner) -> None:
    slow = double(before="call void @spin()", declarations=SPIN)
    timing = TimingProtocol(quick_repeats=3, repeats=12, close_ratio=2.0)
    requests = [MeasureRequest(double()), MeasureRequest(slow), MeasureRequest(double(factor="1.0"))]
    fast, left, wrong = runner.measure(DATA, requests, timing)
    assert (fast.status, left.status, wrong.status) == ("ok", "ok", "wrong_result")
    assert len(fast.latencies_s) == 12
    assert len(left.latencies_s) == 3
    assert left.median_s > 5 * fast.median_s


SPIN = """
define internal void @spin() noinline {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %next = add i64 %i, 1
  call void asm sideeffect "", ""()
  %more = icmp slt i64 %next, 200000
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@pytest.mark.parametrize("extent", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("chunks", [0, 1, 5])
def test_small_ranges_and_any_chunks(runner: WorkerRunner, extent: int, chunks: int) -> None:
    request = MeasureRequest(double(extent=extent), chunks=chunks)
    (result,) = runner.measure(data_for(extent), [request], TimingProtocol(threads=2, quick_repeats=1, repeats=1))
    assert result.status == "ok", result.error


def test_every_chunk_runs_exactly_once_per_execution(runner: WorkerRunner) -> None:
    # Adds one to what it finds in each output element, which the worker had set to -1 (all bits) before.
    text = DOUBLE.replace("BEFORE", "").replace("AFTER", "")
    text = text.replace("%value = load float, ptr %from", "").replace("%double = fmul float %value, FACTOR", "")
    text = text.replace("store float %double, ptr %to", "store i32 %added, ptr %to")
    text = text.replace(
        "%to = getelementptr float, ptr %out, i64 %i",
        "%to = getelementptr i32, ptr %out, i64 %i\n  %old = load i32, ptr %to\n  %added = add i32 %old, 1",
    )
    code = kernel(text)
    zeros = MeasureData((DATA.inputs[0],), (np.zeros(EXTENT, np.int32),), (0.0,))
    # The run in uneven ranges starts from another pattern; there, and only there, the kernel must look wrong.
    (result,) = runner.measure(zeros, [MeasureRequest(code, chunks=7)], QUICK)
    assert result.status == "wrong_result"
    assert "uneven ranges" in result.error
    assert f"found {0x5A5A5A5A + 1} " in result.error


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("chunks", [1, 2, 7])
def test_threads_run_each_chunk_exactly_once(threads: int, chunks: int) -> None:
    text = DOUBLE.replace("BEFORE", "").replace("AFTER", "").replace("%value = load float, ptr %from", "")
    text = text.replace("%double = fmul float %value, FACTOR", "")
    text = text.replace("store float %double, ptr %to", "%old = atomicrmw add ptr %to, i32 1 seq_cst")
    function = link.load(kernel(text).object_code).address("k")
    counts, scratches = np.zeros(EXTENT, np.int32), np.zeros(threads, np.int64)
    pointers = np.array([0, counts.ctypes.data], np.int64)
    row = (function, pointers.ctypes.data, scratches.ctypes.data, EXTENT, chunks, 2, 3, 0)
    elapsed = Native().run_samples(np.array([row, row], np.int64), threads, sorted(os.sched_getaffinity(0)))
    assert (counts == 2 * (2 + 3)).all()
    assert (elapsed > 0).all()


def test_denormals_are_flushed(runner: WorkerRunner) -> None:
    tiny = np.full(EXTENT, 1e-40, np.float32)
    (result,) = runner.measure(MeasureData((tiny,), (np.zeros_like(tiny),), (0.0,)), [MeasureRequest(double())], QUICK)
    assert result.status == "ok", result.error


def test_scratch_memory_and_packed_constants(runner: WorkerRunner) -> None:
    # Stores the constant's element 0 to scratch, reads it back and multiplies by it.
    text = (
        DOUBLE.replace("i64 1\n  %out =", "i64 2\n  %out =")
        .replace("AFTER", "")
        .replace(
            "BEFORE",
            """%c.place = getelementptr ptr, ptr %bufs, i64 1
  %c = load ptr, ptr %c.place
  %c.value = load <16 x float>, ptr %c, align 64
  store volatile <16 x float> %c.value, ptr %scratch, align 64
  %factor = load volatile float, ptr %scratch""",
        )
        .replace("FACTOR", "%factor")
    )
    code = kernel(text, scratch_bytes=64)
    x = DATA.inputs[0]
    data = MeasureData((x, np.full(16, 3, np.float32)), (x * np.float32(3),), (0.0,), frozenset({1}))
    timing = TimingProtocol(threads=2, quick_repeats=1, repeats=1)
    assert measure(runner, code, data, timing).status == "ok"
    own = MeasureRequest(code, constants={1: np.full(16, 2, np.float32)})
    (result,) = runner.measure(data, [own], timing)
    assert result.status == "wrong_result"
    assert result.max_errors[0] == pytest.approx(float(np.abs(x).max()))


def test_tolerance_is_absolute(runner: WorkerRunner) -> None:
    code = double(factor="0x4000010000000000")  # a little more than 2
    error = measure(runner, code, data_for(tolerance=0.0))
    assert error.status == "wrong_result"
    assert measure(runner, code, data_for(tolerance=error.max_errors[0])).status == "ok"


def test_no_candidates(runner: WorkerRunner) -> None:
    assert runner.measure(DATA, [], QUICK) == []


# ---- what does not


TRAP = "\ndeclare void @llvm.trap()\n"


def test_illegal_instruction(runner: WorkerRunner) -> None:
    result = fails(runner, double(before="call void @llvm.trap()", declarations=TRAP))
    assert result.status == "crash"
    assert "SIGILL" in result.error


def test_infinite_loop(runner: WorkerRunner) -> None:
    text = HEAD + '  br label %loop\nloop:\n  call void asm sideeffect "", ""()\n  br label %loop\n}\n'
    began = time.monotonic()
    timing = TimingProtocol(quick_repeats=1, repeats=1, timeout_s=0.3)
    assert fails(runner, kernel(text), timing).status == "timeout"
    assert time.monotonic() - began < 5


MALLOC = "\ndeclare ptr @malloc(i64)\n"


def test_terabyte_from_malloc(runner: WorkerRunner) -> None:
    before = "%big = call ptr @malloc(i64 1099511627776)\n  store volatile i8 1, ptr %big"
    result = fails(runner, double(before, declarations=MALLOC))
    assert result.status == "crash"
    assert "memory that was refused" in result.error


def test_terabyte_on_the_stack(runner: WorkerRunner) -> None:
    before = "%big = alloca i8, i64 1099511627776\n  store volatile i8 1, ptr %big"
    result = fails(runner, double(before))
    assert result.status == "crash"
    assert "SIGSEGV" in result.error


def test_terabyte_of_scratch(runner: WorkerRunner) -> None:
    assert fails(runner, double(scratch_bytes=1 << 40)).status == "oom"


def test_data_larger_than_memory() -> None:
    with WorkerRunner(memory_bytes=1 << 30) as small:
        big = np.zeros(64 << 20, np.float32)
        data = MeasureData((big,) * 2, (big,), (0.0,))
        assert measure(small, double(), data).status == "oom"
        assert measure(small, double()).status == "ok"


@pytest.mark.parametrize("count", [1001, 1024])  # 1001 floats leave a gap before the guard page, 1024 don't
def test_store_past_the_end(runner: WorkerRunner, count: int) -> None:
    after = f"%end = getelementptr float, ptr %out, i64 {count}\n  store volatile float 1.0, ptr %end"
    result = fails(runner, double(after=after, extent=count), data=data_for(count))
    if count % 4:
        assert result.status == "wrong_result"
        assert "stored outside output 0" in result.error
    else:
        assert result.status == "crash"
        assert "0 bytes past the end of output 0" in result.error


def test_store_far_past_the_end(runner: WorkerRunner) -> None:
    result = fails(runner, double(after="%end = getelementptr i8, ptr %out, i64 9000\n  store volatile i8 1, ptr %end"))
    assert result.status == "crash"
    assert "past the end of output 0 (4004 bytes)" in result.error


def test_read_past_the_end(runner: WorkerRunner) -> None:
    code = double(before="%end = getelementptr i8, ptr %in, i64 4096\n  %bad = load volatile i8, ptr %end", extent=1024)
    result = fails(runner, code, data=data_for(1024))
    assert result.status == "crash"
    assert "0 bytes past the end of input 0" in result.error


def test_read_before_the_start(runner: WorkerRunner) -> None:
    before = "%front = getelementptr float, ptr %in, i64 -1\n  %bad = load volatile float, ptr %front"
    result = fails(runner, double(before))
    assert result.status == "crash"
    assert "4 bytes before the start of input 0" in result.error


def test_store_past_the_scratch(runner: WorkerRunner) -> None:
    before = "%end = getelementptr i8, ptr %scratch, i64 128\n  store volatile i8 1, ptr %end"
    result = fails(runner, double(before, scratch_bytes=128))
    assert result.status == "crash"
    assert "past the end of scratch of thread 0" in result.error


def test_wrong_last_element(runner: WorkerRunner) -> None:
    after = f"%last = getelementptr float, ptr %out, i64 {EXTENT - 1}\n  store float 7.0, ptr %last"
    result = fails(runner, double(after=after))
    assert result.status == "wrong_result"
    assert f"at [{EXTENT - 1}]" in result.error
    assert f"1 of {EXTENT}" in result.error


def test_last_element_never_written(runner: WorkerRunner) -> None:
    result = fails(runner, double(extent=EXTENT - 1))
    assert result.status == "non_finite"
    assert f"at [{EXTENT - 1}]" in result.error


def test_nan_output(runner: WorkerRunner) -> None:
    result = fails(runner, double(factor="0x7FF8000000000000"))
    assert result.status == "non_finite"
    assert result.max_errors == (float("inf"),)


def test_modified_input(runner: WorkerRunner) -> None:
    result = fails(runner, double(after="store volatile float 0.0, ptr %in"))
    assert result.status == "modified_input"
    assert "input 0 at byte 0" in result.error


def test_wrong_only_when_split(runner: WorkerRunner) -> None:
    # Reads from the start of the input whatever range it is given: right only for the whole range.
    text = DOUBLE.replace("BEFORE", "").replace("AFTER", "").replace("FACTOR", "2.0")
    text = text.replace("%from = getelementptr float, ptr %in, i64 %i", BENT_READ)
    result = fails(runner, kernel(text))
    assert result.status == "wrong_result"
    assert "uneven ranges" in result.error


BENT_READ = """%relative = sub i64 %i, %lo
  %from = getelementptr float, ptr %in, i64 %relative"""


def test_wrong_only_on_several_threads(runner: WorkerRunner) -> None:
    # Counts who is inside at the same time, and multiplies by something else if it is not alone.
    before = """%before = atomicrmw add ptr @inside, i64 1 seq_cst
  call void @spin()
  %company = load atomic i64, ptr @inside seq_cst, align 8
  %alone = icmp eq i64 %company, 1
  %factor = select i1 %alone, float 2.0, float 3.0"""
    declarations = "@inside = internal global i64 0\n" + SPIN.replace("200000", "200000000")
    after = "%rest = atomicrmw sub ptr @inside, i64 1 seq_cst"
    code = double(before, after, "%factor", declarations, extent=2)
    alone, together = TimingProtocol(quick_repeats=1, repeats=1), TimingProtocol(threads=2)
    assert measure(runner, code, data_for(2), alone).status == "ok"
    result = measure(runner, code, data_for(2), together)
    assert result.status == "wrong_result"
    assert "run on 2 threads" in result.error


def test_wrong_only_in_place(runner: WorkerRunner) -> None:
    # Stores something else before it reads the element of the same place.
    place = "%first = getelementptr float, ptr %out, i64 %lo\n  store float 7.0, ptr %first"
    code = double(place)
    assert measure(runner, code).status == "ok"
    assert measure(runner, replace(double(), in_place=(0,))).status == "ok"
    result = fails(runner, replace(code, in_place=(0,)))
    assert result.status == "wrong_result"
    assert "in place" in result.error


def test_garbage_object_code(runner: WorkerRunner) -> None:
    result = fails(runner, Code("k", b"this is not an object file"))
    assert result.status == "compile_error"


def test_missing_symbol(runner: WorkerRunner) -> None:
    code = double()
    result = fails(runner, Code("another", code.object_code))
    assert result.status == "compile_error"
    assert "another" in result.error


def test_unresolved_symbol(runner: WorkerRunner) -> None:
    code = double(before="call void @nowhere_to_be_found()", declarations="\ndeclare void @nowhere_to_be_found()\n")
    result = fails(runner, code)
    assert result.status == "compile_error"


def test_kernel_that_ends_the_process(runner: WorkerRunner) -> None:
    result = fails(runner, double(before="call void @_exit(i32 0)", declarations="\ndeclare void @_exit(i32)\n"))
    assert result.status == "crash"
    assert "exit code 0" in result.error


def test_garbage_on_the_pipe(runner: WorkerRunner) -> None:
    calls = [f"%w{fd} = call i64 @write(i32 {fd}, ptr @text, i64 26)" for fd in range(30)]
    declarations = '\n@text = constant [26 x i8] c"abcdefghijklmnopqrstuvwxyz"\ndeclare i64 @write(i32, ptr, i64)\n'
    result = fails(runner, double("\n  ".join(calls), declarations=declarations))
    assert result.status == "crash"
    assert "garbage" in result.error


def test_well_formed_lies_on_the_pipe(runner: WorkerRunner) -> None:
    frame = protocol.encode({"event": "timed", "index": 5, "latencies": [1e-9]})
    text = "".join(f"\\{byte:02x}" for byte in frame)
    calls = [f"%w{fd} = call i64 @write(i32 {fd}, ptr @text, i64 {len(frame)})" for fd in range(30)]
    declarations = f'\n@text = constant [{len(frame)} x i8] c"{text}"\ndeclare i64 @write(i32, ptr, i64)\n'
    result = fails(runner, double("\n  ".join(calls), declarations=declarations))
    assert result.status == "crash"
    assert "no candidate 5" in result.error


def test_one_bad_candidate_leaves_the_others_alone(runner: WorkerRunner) -> None:
    bad = double(before="call void @llvm.trap()", declarations=TRAP)
    again = double(after="store volatile float 0.0, ptr %in")
    requests = [MeasureRequest(code) for code in (double(), bad, double(), again, double())]
    results = runner.measure(DATA, requests, QUICK)
    assert [result.status for result in results] == ["ok", "crash", "ok", "modified_input", "ok"]


def test_crash_while_timing_finds_the_culprit(runner: WorkerRunner) -> None:
    # Checking calls the kernel a known number of times, so that this one dies in the race.
    dies_late = kernel(
        "@calls = internal global i64 0\n"
        + DOUBLE.replace("AFTER", "").replace("FACTOR", "2.0").replace("BEFORE", LATE_DEATH)
    )
    requests = [MeasureRequest(code) for code in (double(), dies_late, double())]
    results = runner.measure(DATA, requests, QUICK)
    assert [result.status for result in results] == ["ok", "crash", "ok"]
    assert "timing" in results[1].error


LATE_DEATH = f"""%count = atomicrmw add ptr @calls, i64 1 seq_cst
  %late = icmp sge i64 %count, {2 + len(uneven_ranges(EXTENT))}
  %target = select i1 %late, ptr null, ptr %out
  store volatile float 0.0, ptr %target"""


def test_worker_killed_from_outside_while_idle(runner: WorkerRunner) -> None:
    assert measure(runner, double()).status == "ok"
    for pid in runner.worker_pids:
        os.kill(pid, signal.SIGKILL)
    assert measure(runner, double()).status == "ok"


def test_worker_killed_from_outside_while_running(runner: WorkerRunner) -> None:
    assert measure(runner, double()).status == "ok"
    victim = runner.worker_pids[0]
    killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    killer.start()
    text = HEAD + '  br label %loop\nloop:\n  call void asm sideeffect "", ""()\n  br label %loop\n}\n'
    result = fails(runner, kernel(text))
    killer.join()
    assert result.status == "crash"
    assert "killed from outside" in result.error


# ---- the runner's own life


def test_worker_imports_neither_jax_nor_pydantic() -> None:
    program = (
        "import sys; import tilewright.backends.measure.worker;"
        "print([name for name in ('jax', 'jaxlib', 'pydantic', 'sqlalchemy') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_close_ends_the_workers() -> None:
    runner = WorkerRunner()
    pids = runner.worker_pids
    assert len(pids) == 2
    runner.close()
    runner.close()
    assert not any(runs(pid) for pid in pids)


def test_worker_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.backends.measure.process._PROGRAM", "import no_such_module_anywhere")
    with WorkerRunner() as runner, pytest.raises(WorkerError, match="no_such_module_anywhere"):
        runner.measure(DATA, [MeasureRequest(double())], QUICK)


def test_requests_that_do_not_fit_are_refused(runner: WorkerRunner) -> None:
    with pytest.raises(ValueError, match="found one at 0"):
        runner.measure(DATA, [MeasureRequest(double(), constants={0: DATA.inputs[0]})], QUICK)
    with pytest.raises(ValueError, match="not negative"):
        runner.measure(DATA, [MeasureRequest(double(extent=-1))], QUICK)


PARENT = """
    import os, sys, time
    import numpy as np
    from tilewright.backends.measure.runner import WorkerRunner
    from tilewright.ir.measure import MeasureData, MeasureRequest, TimingProtocol
    class Code:
        symbol, extent, scratch_bytes, in_place = "k", 1, 0, ()
        object_code = bytes.fromhex(sys.stdin.readline())
    x = np.zeros(1, np.float32)
    with WorkerRunner() as runner:
        for worker in runner._workers:
            worker.wait_ready()
        print(*runner.worker_pids, flush=True)
        try:
            runner.measure(MeasureData((x,), (x,), (0.0,)), [MeasureRequest(Code())], TimingProtocol(timeout_s=60.0))
        except KeyboardInterrupt:
            print("interrupted", *runner.worker_pids, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number: signal.Signals) -> None:
    text = HEAD + '  br label %loop\nloop:\n  call void asm sideeffect "", ""()\n  br label %loop\n}\n'
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(kernel(text).object_code.hex() + "\n")
    parent.stdin.flush()
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.3)
    parent.send_signal(number)
    rest, _ = parent.communicate(timeout=10)
    assert rest.strip() == ("interrupted" if number == signal.SIGINT else "")
    deadline = time.monotonic() + 5
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(runs(pid) for pid in pids)


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_worker_refuses_garbage_from_its_parent() -> None:
    worker = WorkerProcess(1 << 34)
    worker.wait_ready()
    os.write(worker._requests, b"garbage, and more than a prefix of it")
    code, printed = worker.end()
    assert code == 1
    assert "expected a frame" in printed
