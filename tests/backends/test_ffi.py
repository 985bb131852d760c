"""Plans as XLA custom calls."""

from __future__ import annotations

import mmap
import os
import platform
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handwritten import chain, copy_bytes, float_state, rotate, rotated, saxpy, scale

from tilewright.backends.llvm import ffi
from tilewright.backends.llvm.ffi import bind_plan, register_plan
from tilewright.ir import dtypes
from tilewright.ir.graph import TensorType
from tilewright.ir.plan import ExecPlan, PlanError, Slot, Stage

N = 37
x86_only = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 processor")


def _input(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def _rotations(n: int, stages: int, chunks: int) -> Callable[[jax.Array], jax.Array]:
    kernel = rotate(n)
    call = bind_plan(chain(kernel, stages, chunks), {kernel.symbol: kernel})
    return lambda x: call(x)[0]


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run work(0), work(1), ... at the same time; the first exception is raised here."""
    barrier, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        try:
            barrier.wait(10)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a call hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("chunks", [1, 2, 7, 37])
def test_a_plan_runs_inside_and_outside_jit(chunks: int) -> None:
    x = _input()
    f = _rotations(N, 30, chunks)
    np.testing.assert_array_equal(f(x), rotated(x, 30))
    np.testing.assert_array_equal(jax.jit(lambda x: f(x * 1) + 0)(x), rotated(x, 30))


def test_several_arguments_results_and_constants() -> None:
    saxpy_kernel, scale_kernel = saxpy(N), scale(N)
    a, x, b = _input(seed=1), _input(seed=2), _input(seed=3)
    kind = TensorType((N,), "float32")
    stages = (
        Stage(saxpy_kernel.symbol, (Slot("input", 1), Slot("constant", 0), Slot("input", 0), Slot("output", 1)), N, 3),
        Stage(scale_kernel.symbol, (Slot("output", 1), Slot("output", 0)), N, 2),
    )
    plan = ExecPlan((kind, kind), (kind, kind), (x,), 0, stages)
    call = bind_plan(plan, {k.symbol: k for k in (saxpy_kernel, scale_kernel)})
    doubled, y = jax.jit(call)(b, a)
    np.testing.assert_allclose(y, a * x + b, rtol=1e-6)
    np.testing.assert_array_equal(doubled, 2 * np.asarray(y))


@pytest.mark.parametrize("dtype", [*dtypes.FLOATS, *dtypes.INTEGERS, dtypes.BOOL, *dtypes.COMPLEX])
def test_every_element_type_passes(dtype: str) -> None:
    kernel = copy_bytes(dtype, 5)
    kind = TensorType((5,), dtype)
    stage = Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), 5, 2)
    x = np.array([0, 1, 1, 0, 1]).astype(dtypes.to_numpy(dtype))
    with jax.enable_x64(True):
        (y,) = jax.jit(bind_plan(ExecPlan((kind,), (kind,), (), 0, (stage,)), {kernel.symbol: kernel}))(x)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(y), x)


def test_plans_without_work() -> None:
    assert bind_plan(ExecPlan((), (), (), 0, ()), {})() == ()
    empty = TensorType((0, 5), "float32")
    (y,) = jax.jit(bind_plan(ExecPlan((empty,), (empty,), (), 0, ()), {}))(jnp.zeros((0, 5)))
    assert y.shape == (0, 5)


def test_a_bad_plan_is_refused_before_anything_is_registered() -> None:
    kernel, before = scale(N), len(ffi._registered)
    with pytest.raises(PlanError, match="no kernel of that name"):
        bind_plan(chain(kernel, 2, 2), {})
    assert len(ffi._registered) == before


# ---- names and wrong calls


def test_targets_are_named_by_content_and_registered_once() -> None:
    kernel = rotate(N)
    first = register_plan(chain(kernel, 5, 2), {kernel.symbol: kernel})
    count = len(ffi._registered)
    again = register_plan(chain(rotate(N), 5, 2), {kernel.symbol: rotate(N), "unused": scale(N)})
    other = register_plan(chain(kernel, 5, 3), {kernel.symbol: kernel})
    assert first == again != other
    assert len(ffi._registered) == count + 1
    assert re.fullmatch("tilewright_[0-9a-f]{32}_[0-9a-f]{8}", first)


def test_the_program_text_is_the_same_in_another_process() -> None:
    code = (
        "import jax, numpy as np\n"
        "from handwritten import chain, rotate\n"
        "from tilewright.backends.llvm.ffi import bind_plan\n"
        "kernel = rotate(37)\n"
        "call = bind_plan(chain(kernel, 5, 2), {kernel.symbol: kernel})\n"
        "print(jax.jit(call).lower(np.zeros(37, np.float32)).as_text())\n"
    )
    runs = [_python(code) for _ in range(2)]
    assert "tilewright_" in runs[0]
    assert runs[0] == runs[1]


def test_wrong_arguments_are_named() -> None:
    f = _rotations(N, 2, 2)
    with pytest.raises(ValueError, match=r"argument 0: expected float32\[37\], found float32\[36\]"):
        f(np.zeros(36, np.float32))
    with pytest.raises(ValueError, match=r"argument 0: expected float32\[37\], found int32\[37\]"):
        jax.jit(f)(np.zeros(N, np.int32))
    with pytest.raises(ValueError, match="expected 1 arrays, found 2"):
        kernel = rotate(N)
        bind_plan(chain(kernel, 2, 2), {kernel.symbol: kernel})(_input(), _input())


@pytest.mark.parametrize(
    ("arguments", "result", "message"),
    [
        ([np.zeros(N, np.int32)], (N,), r"argument 0 of tilewright_\w+ must be float32\[37\]"),
        ([np.zeros((N, 1), np.float32)], (N,), r"argument 0 of tilewright_\w+ must be float32\[37\]"),
        ([np.zeros(N + 1, np.float32)], (N,), r"argument 0 of tilewright_\w+ must be float32\[37\]"),
        ([np.zeros(N, np.float32)], (N - 1,), r"result 0 of tilewright_\w+ must be float32\[37\]"),
        ([], (N,), "another number of arguments or results"),
        ([np.zeros(N, np.float32)] * 2, (N,), "another number of arguments or results"),
    ],
)
def test_the_handler_itself_refuses_a_wrong_call(arguments: list[np.ndarray], result: tuple[int], message: str) -> None:
    kernel = rotate(N)
    target = register_plan(chain(kernel, 2, 2), {kernel.symbol: kernel})
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(result, np.float32))
    with pytest.raises(Exception, match=f"INVALID_ARGUMENT.*{message}"):
        jax.block_until_ready(call(*arguments))


# ---- inside larger programs


def test_inside_scan() -> None:
    f, x = _rotations(200, 3, 4), _input(200)
    y, sums = jax.jit(lambda x: jax.lax.scan(lambda c, _: (f(c), jnp.sum(c)), x, None, length=50))(x)
    np.testing.assert_array_equal(y, rotated(x, 150))
    assert sums.shape == (50,)


def test_with_donated_arguments() -> None:
    step = jax.jit(_rotations(1000, 3, 4), donate_argnums=0)
    start = _input(1000)
    x = jnp.array(start)
    for _ in range(10):
        x = step(x)
    np.testing.assert_array_equal(x, rotated(start, 30))


def test_eight_threads_with_eight_independent_calls_each() -> None:
    plans = [_rotations(500 + k, 12, 4) for k in range(8)]
    program = jax.jit(lambda xs: [f(x) for f, x in zip(plans, xs, strict=True)])

    def work(number: int) -> None:
        xs = [_input(500 + k, number) for k in range(8)]
        wanted = [rotated(x, 12) for x in xs]
        for _ in range(25):
            for y, want in zip(program(xs), wanted, strict=True):
                np.testing.assert_array_equal(y, want)

    _in_threads(8, work)


def test_one_plan_from_many_threads_has_an_arena_for_each() -> None:
    f = jax.jit(_rotations(4000, 20, 8))

    def work(number: int) -> None:
        x = _input(4000, number)
        want = rotated(x, 20)
        for _ in range(40):
            np.testing.assert_array_equal(f(x), want)

    _in_threads(20, work)  # more than a pool keeps


def test_first_calls_at_once() -> None:
    results: dict[int, np.ndarray] = {}
    x = _input(91)

    def work(number: int) -> None:
        results[number] = np.asarray(jax.jit(_rotations(91, 4, 3))(x))

    _in_threads(4, work)
    for result in results.values():
        np.testing.assert_array_equal(result, rotated(x, 4))


def test_next_to_programs_that_keep_the_pool_busy() -> None:
    f, stop = jax.jit(_rotations(3000, 20, 8)), threading.Event()
    busy = jax.jit(lambda a: a @ a)
    a = jnp.full((400, 400), 1e-3)
    x = _input(3000)
    want = rotated(x, 20)

    def work(number: int) -> None:
        if number == 0:
            while not stop.is_set():
                jax.block_until_ready(busy(a))
            return
        try:
            for _ in range(100):
                np.testing.assert_array_equal(f(x), want)
        finally:
            stop.set()

    _in_threads(2, work)


@x86_only
def test_denormals_are_flushed_as_xla_does() -> None:
    kernel = float_state()
    kind = TensorType((1,), "int32")
    plan = ExecPlan((), (kind,), (), 0, (Stage(kernel.symbol, (Slot("output", 0),), 1, 1),))
    (state,) = jax.jit(bind_plan(plan, {kernel.symbol: kernel}))()
    assert int(state[0]) & 0x8040 == 0x8040
    halved = scale(N, 0.5)
    f = jax.jit(bind_plan(chain(halved, 1, 2), {halved.symbol: halved}))
    smallest = np.full(N, np.finfo(np.float32).tiny)
    np.testing.assert_array_equal(f(smallest)[0], np.zeros(N, np.float32))
    assert smallest[0] * np.float32(0.5) != 0  # this thread still computes with denormals


def test_ten_thousand_calls_use_no_more_memory() -> None:
    f = jax.jit(_rotations(20_000, 3, 2))
    x = jnp.asarray(_input(20_000))
    for _ in range(500):
        f(x).block_until_ready()
    before = _resident_bytes()
    for _ in range(10_000):
        f(x).block_until_ready()
    assert _resident_bytes() - before < 8 << 20  # one leaked arena or block per call would be 1.6 GB or 10 MB


def _huge_pages_on_request() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


@pytest.mark.skipif(not _huge_pages_on_request(), reason="the system gives no huge pages")
@pytest.mark.parametrize("size", [1 << 23, (1 << 24) + 12_345])
def test_large_results_are_on_huge_pages(size: int) -> None:
    kernel = scale(size)
    call = bind_plan(chain(kernel, 1, 8), {kernel.symbol: kernel})
    run, plain = jax.jit(lambda x: call(x)[0]), jax.jit(lambda x: x * 2)
    x = jnp.arange(size, dtype=jnp.float32)

    def faults(function: Callable[[jax.Array], jax.Array]) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        function(x).block_until_ready()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    np.testing.assert_array_equal(run(x), plain(x))
    small_pages = 4 * size // mmap.PAGESIZE
    usual, ours = (min(faults(function) for _ in range(5)) for function in (plain, run))
    if usual < small_pages / 2:
        pytest.skip("the allocator keeps its pages")
    assert ours < small_pages / 8


def test_eight_devices_with_a_reduction_between_plans() -> None:
    code = (
        "import jax, numpy as np\n"
        "from jax.sharding import PartitionSpec as P\n"
        "from handwritten import chain, rotate, rotated\n"
        "from tilewright.backends.llvm.ffi import bind_plan\n"
        "kernel = rotate(300)\n"
        "call = bind_plan(chain(kernel, 10, 4), {kernel.symbol: kernel})\n"
        "mesh = jax.sharding.Mesh(np.array(jax.devices()), ('d',))\n"
        "def body(x):\n"
        "    for _ in range(3):\n"
        "        x = jax.lax.psum(call(x[0])[0], 'd')[None] * 0.125\n"
        "    return x\n"
        "f = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P('d'), out_specs=P('d'), check_vma=False))\n"
        "x = np.random.default_rng(0).standard_normal((8, 300)).astype(np.float32)\n"
        "want = x\n"
        "for _ in range(3):\n"
        "    want = np.broadcast_to(np.mean([rotated(row, 10) for row in want], 0), (8, 300))\n"
        "for _ in range(20):\n"
        "    np.testing.assert_allclose(f(x), want, rtol=1e-5)\n"
        "print(len(jax.devices()), 'fine')\n"
    )
    assert _python(code, XLA_FLAGS="--xla_force_host_platform_device_count=8").strip() == "8 fine"


def _python(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter that can import this directory's modules."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
