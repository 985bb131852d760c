"""What products fetch while they compute: which parts of which parameters, line by line, and never another result."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from guarded_memory import run_native
from hypothesis import given
from hypothesis import strategies as st
from streaming_forms import FORMS, arguments, streamed

from tilewright.backends.llvm import link, toolchain, walks
from tilewright.backends.llvm.access import Scopes
from tilewright.backends.llvm.builder import Builder
from tilewright.backends.llvm.codegen import compile_kernel, kernel_ir
from tilewright.backends.llvm.memory import Memory
from tilewright.ir.affine import constant, var
from tilewright.ir.loop import Buffer, For, LoopFunc, Seq, walk
from tilewright.ir.target import Target, detect_target
from tilewright.ir.text import parse_ir
from tilewright.passes.legalize import legalize
from tilewright.passes.next_parts import Part, next_parts
from tilewright.passes.schedule import replay
from tilewright.search.sketch import sketches

SMALL_CACHES = replace(detect_target(), threads=2, l1_bytes=1 << 10, l2_bytes=1 << 12)
TARGETS = {"host": SMALL_CACHES, "avx2": SMALL_CACHES.restricted("avx2")}
LINE = 64


def product(batch: int, rows: int, steps: int, columns: int, constant: str = "input") -> LoopFunc:
    return parse_ir(f"""tilewright loop ir 1
func product
  input x: float32[{batch}, {rows}, {steps}]
  {constant} w: float32[{batch}, {steps}, {columns}]
  output y: float32[{batch}, {rows}, {columns}]
  alloc t: float32[{batch}, {rows}, {columns}]
    block init [b: 0..{batch}, i: 0..{rows}, j: 0..{columns}]
      t[b, i, j] = 0.0:float32
    block update [b: 0..{batch}, i: 0..{rows}, j: 0..{columns}, k: 0..{steps} reduce]
      t[b, i, j] sum= mul(x[b, i, k], w[b, k, j])
    block store [b: 0..{batch}, i: 0..{rows}, j: 0..{columns}]
      y[b, i, j] = t[b, i, j]
""")


def scheduled(func: LoopFunc, target: Target) -> LoopFunc:
    sketch = sketches(func, target)[0]
    assert sketch.name == "contraction"
    return replay(func, sketch.build(sketch.default))


def parts_of(func: LoopFunc, target: Target) -> dict[str, set[str]]:
    legal = legalize(scheduled(func, target), target.vector_bits // 32)
    found = walks.walked_parts(legal, target.vector_bits // 32, target)
    return {loop: {p.buffer for p in parts} for loop, parts in found.items()}


def test_each_parameter_is_fetched_by_the_outermost_loop_whose_part_is_small():
    target = replace(SMALL_CACHES, l1_bytes=48 << 10, l2_bytes=1 << 20)
    assert parts_of(product(64, 128, 128, 128), target) == {"store.b": {"x", "w", "y"}}
    # A whole matrix is too large a part, and rows of a panel that lie whole pages apart evict each other.
    large = parts_of(product(1, 1024, 1024, 1024), target)
    assert {name for names in large.values() for name in names} == {"x", "y"}
    assert list(large) == ["store.i"]


def test_what_the_second_level_cache_holds_and_constants_are_not_fetched():
    target = replace(SMALL_CACHES, l1_bytes=48 << 10, l2_bytes=1 << 20)
    assert parts_of(product(4, 64, 64, 64), target) == {}
    found = parts_of(product(64, 128, 128, 128, "constant"), target)
    assert {name for names in found.values() for name in names} == {"x", "y"}


@pytest.mark.parametrize(("form", "tiles"), [("masked-inf", {"x1", "x2", "x3"}), ("log-sum-exp", {"x1"})])
def test_tiles_of_a_streamed_axis_are_fetched_one_after_the_other(form, tiles):
    """Also those of a mask: a whole row of them would be gone when its turn comes."""
    target = replace(SMALL_CACHES, l1_bytes=48 << 10, l2_bytes=1 << 20)
    tried = streamed(FORMS[form], arguments(FORMS[form], (512, 4160, 64, 64), 0, False))
    assert tried is not None
    func, lanes = tried.task.workload.func, target.vector_bits // 32
    sketch = sketches(func, target)[0]
    legal = legalize(replay(func, sketch.build(sketch.default)), lanes)
    found = {loop: {p.buffer for p in parts} for loop, parts in walks.walked_parts(legal, lanes, target).items()}
    (streaming,) = (loop for loop in found if loop.startswith("reduce_max"))
    assert found[streaming] == tiles
    assert not any(tiles & buffers for loop, buffers in found.items() if loop != streaming)


_SUMS = """tilewright loop ir 1
func sums
  input x: float32[4, 1024]
  input w: float32[1024, 512]
  output y: float32[4, 512]
  alloc t: float32[4, 512]
    block first [i: 0..4, j: 0..512]
      t[i, j] = 0.0:float32
    for k0 in 0..16
      alloc p: float32[4, 512]
        block init [i: 0..4, j: 0..512]
          p[i, j] = 0.0:float32
        block update [i: 0..4, j: 0..512, k: 0..64 reduce]
          p[i, j] sum= mul(x[i, k + 64*k0], w[k + 64*k0, j])
        block join [i: 0..4, j: 0..512]
          {join}
    block store [i: 0..4, j: 0..512]
      y[i, j] = t[i, j]
"""


@pytest.mark.parametrize(("join", "fetched"), [("t[i, j] sum= p[i, j]", set()), ("t[i, j] = p[i, j]", {"x", "w"})])
def test_loops_over_partial_sums_fetch_nothing(join, fetched):
    """What goes on outside reads the same rows again, unless something else is made of each sum."""
    func = parse_ir(_SUMS.format(join=join))
    loops = [s for s in walk(func.body) if isinstance(s, For)]
    found = next_parts(func, loops, 1 << 20)
    assert {p.buffer for parts in found.values() for p in parts} == fetched


def _visited(parts: tuple[Part, ...], buffer: Buffer, trips: int, steps: int, monkeypatch) -> list[list[int]]:
    """Lines that walks fetch in each iteration of a loop, by generated code, as offsets into the buffer."""
    count = {"at": ""}

    def noted(b: Builder, line: str) -> None:
        at = b.effect(f"load i64, ptr {count['at']}")
        b.emit(f"store ptr {line}, ptr {b.effect(f'getelementptr i64, ptr %out, i64 {at}')}")
        b.emit(f"store i64 {b.effect(f'add i64 {at}, 1')}, ptr {count['at']}")

    monkeypatch.setattr(walks, "fetch", noted)
    b = Builder()
    b.begin("f", [("ptr", "%p"), ("ptr", "%next"), ("ptr", "%last"), ("ptr", "%out")])
    count["at"] = b.alloca("i64", 8)
    b.emit(f"store i64 0, ptr {count['at']}")
    scopes, memory = Scopes(b), Memory(b, 16)
    memory.add_parameter(buffer, "%p")
    table = walks.Walks(b, {"i": parts})
    table.begin()
    loop = For("i", (constant(0),), (constant(trips),), Seq(()))
    for n in range(trips):
        scopes.push()
        scopes.registers["i"] = str(n)
        table.iteration(loop, scopes, memory)
        for _ in range(steps):
            table.step()
        scopes.pop()
    b.end()
    out, rest = np.zeros(trips * steps, np.int64), (1 << 30, (1 << 30) + LINE)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(
        link.load(toolchain.object_code(b.module(), features="")).address("f")
    )
    call(1 << 20, *rest, out.ctypes.data)
    return (out - (1 << 20)).reshape(trips, steps).tolist()


@pytest.mark.parametrize(
    ("rows", "row", "stride"), [(1, 4, 4), (1, 1000, 1000), (5, 4, 4), (3, 64, 200), (4, 130, 512), (2, 128, 128)]
)
def test_a_walk_covers_its_part_and_goes_on_to_the_next_one(rows, row, stride, monkeypatch):
    buffer = Buffer("x", (8, 4096), "float32")
    first = Part("x", (var("i"), constant(16)), rows, row, stride)
    second = Part("x", (constant(0), var("i") * 32), 1, 128, 128)
    lines = [rows * -(-row // LINE), 2]
    seen = _visited((first, second), buffer, 3, sum(lines) + 3, monkeypatch)
    for n, visited in enumerate(seen):
        following = (n + 1) % 3
        begin = following * 4 * 4096 + 64
        expected = [begin + r * stride + at for r in range(rows) for at in range(0, row, LINE)]
        assert visited[: lines[0]] == expected
        assert visited[lines[0] : sum(lines)] == [following * 128, following * 128 + LINE]
        # Then what the caller asks for, up to its last line.
        rest = (1 << 30) - (1 << 20)
        assert all(rest <= line <= rest + LINE for line in visited[sum(lines) :])
    assert seen[-1][-1] == rest + LINE


@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70)),
    target=st.sampled_from(sorted(TARGETS)),
    special=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_that_fetch_give_what_numpy_gives(sizes, target, special, seed):
    batch, rows, steps, columns = sizes
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, rows, steps)).astype(np.float32)
    w = rng.standard_normal((batch, steps, columns)).astype(np.float32)
    if special:
        x.flat[rng.integers(x.size)] = np.nan
        w.flat[rng.integers(w.size)] = np.inf
    kernel = compile_kernel(scheduled(product(batch, rows, steps, columns), TARGETS[target]), TARGETS[target])
    with np.errstate(all="ignore"):
        (found,) = run_native(kernel, [x, w], 3)
        expected = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_code_has_one_fetch_per_busy_loop():
    func = scheduled(product(5, 24, 64, 64), SMALL_CACHES)
    lanes = SMALL_CACHES.vector_bits // 32
    busy = [s for s in walk(legalize(func, lanes).body) if isinstance(s, For) and walks.steps(s, lanes)]
    text, _, _ = kernel_ir(func, SMALL_CACHES)
    assert text.count("call void @llvm.prefetch.p0") == len(busy) > 0
