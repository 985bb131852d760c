"""Generated code against the interpreter: random traces, sketches, tails, guards, and memory that is not to be touched.

Every buffer ends right before a page that can't be read (and begins right after one), so that a vector that reaches
too far ends the process instead of going unnoticed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from guarded_memory import run_native
from traces import Traces
from workloads import CASES, Case, Sample, assert_same, sample, samples

from tilewright.backends.llvm.codegen import compile_kernel, kernel_ir
from tilewright.backends.llvm.memory import CodegenError
from tilewright.ir.affine import constant, var
from tilewright.ir.interp import interpret
from tilewright.ir.loop import (
    Access,
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    For,
    If,
    IndexValue,
    Iter,
    LoopFunc,
    Read,
    map_expr,
    seq,
)
from tilewright.ir.monoid import MONOIDS
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.schedule import ScheduleError, Step, Trace, replay
from tilewright.search.sketch import Sketch, sketches

HOST = detect_target()


def _targets():
    found = {}
    for name in ("avx512", "avx2", "sse2"):
        try:
            found[name] = HOST.restricted(name)
        except ValueError:
            continue
    return found or {"host": HOST}


TARGETS = _targets()
WIDE = next(iter(TARGETS.values()))


def check(func: LoopFunc, arrays: list[np.ndarray], exact: bool, what: str, target=WIDE, parts: int = 3) -> None:
    """Compile, run, and compare with the interpreter; then in place wherever the kernel says that it may."""
    kernel = compile_kernel(func, target)
    found = run_native(kernel, arrays, parts)
    for got, want in zip(found, interpret(func, arrays), strict=True):
        assert_same(got, want, exact, what)
    for position in kernel.in_place:
        (again,) = run_native(kernel, arrays, parts, position)
        np.testing.assert_array_equal(again, found[0], f"{what}, in place of parameter {position}")


def text(trace: Trace) -> str:
    return ", ".join(map(str, trace))


# ---- random traces

ROUNDS = {"avx512": 2, "avx2": 1, "sse2": 1, "host": 2}
FULL_ROUNDS = 25


@pytest.mark.parametrize("name", TARGETS)
def test_random_traces_run_as_interpreted(name, request):
    traces = Traces(seed=len(name))
    rounds = FULL_ROUNDS if request.config.getoption("--full") else ROUNDS[name]
    outcome: Counter[str] = Counter()
    for number in range(rounds):
        for lowered in samples(special=number % 2 == 1):
            trace, scheduled = traces.draw(lowered.func, 12)
            what = f"{lowered.case.name} for {name}: {text(trace)}"
            try:
                check(scheduled, lowered.arguments(scheduled), lowered.case.exact, what, TARGETS[name])
                outcome["ran"] += 1
            except CodegenError as error:
                assert "expected" in str(error)
                outcome["refused"] += 1
    assert outcome["ran"] > 3 * outcome["refused"], outcome


# ---- sketches

OTHER_POINTS = {"avx512": 2, "avx2": 1, "sse2": 0, "host": 2}
"""How many points of each sketch are tried beside the default, in a normal run."""


def _decisions(sketch: Sketch, rng: np.random.Generator, most: int) -> list[dict[str, int | str]]:
    """The default, then other points, all of them if there are no more than ``most``."""
    points = [dict(zip(sketch.choices, p, strict=True)) for p in itertools.product(*sketch.choices.values())]
    if len(points) > most:
        points = [points[int(n)] for n in rng.permutation(len(points))[:most]]
    return [dict(sketch.default), *points]


def _check_sketches(lowered: Sample, target, what: str, rng: np.random.Generator, most: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, sketch in enumerate(sketches(lowered.func, target)):
        for point in _decisions(sketch, rng, most):
            trace = sketch.build(point)
            said = f"{what} {sketch.name} {point}"
            try:
                scheduled = replay(lowered.func, trace)
                verify(scheduled)
                check(scheduled, lowered.arguments(scheduled), lowered.case.exact, said, target)
                counts["ran"] += 1
            except (ScheduleError, CodegenError) as error:
                default = number == 0 and point == dict(sketch.default)
                assert not default or "fused multiply-add" in str(error), f"the default was refused: {said}: {error}"
                counts["refused"] += 1
    return counts


@pytest.mark.parametrize("name", TARGETS)
def test_sketches_of_odd_shapes_run_as_interpreted(name, rng, request):
    most = 10_000 if request.config.getoption("--full") else OTHER_POINTS[name]
    counts: Counter[str] = Counter()
    for lowered in samples():
        counts += _check_sketches(lowered, TARGETS[name], f"{lowered.case.name} for {name}", rng, most)
    assert counts["ran"] > 5 * counts["refused"], counts


# ---- single Blocks that go wrong easily


def block(value, iters, write, monoid=None, guard=(), mode="skip") -> Block:
    return Block("b", tuple(iters), Access("y", tuple(write)), value, monoid, tuple(guard), mode)


def func_of(stmt, inputs: list[Buffer], output: Buffer, start: float | None = None) -> LoopFunc:
    """A function of one statement; the output starts as a constant where the statement needs that."""
    if start is not None:
        iters = tuple(Iter(f"s{n}", constant(0), extent) for n, extent in enumerate(output.shape))
        index = tuple(var(i.name) for i in iters)
        stmt = seq(Block("start", iters, Access("y", index), Const(start, output.dtype)), stmt)
    func = LoopFunc("f", (*inputs, output), 1, stmt)
    verify(func)
    return func


def data(iterator: str, extent: int, vectorized: bool = False, kind="data") -> Iter:
    return Iter(iterator, constant(0), extent, kind, vectorized)


def numbers(rng: np.random.Generator, *shape: int, dtype=np.float32) -> np.ndarray:
    return rng.integers(-9, 10, shape).astype(dtype)


@pytest.fixture(params=TARGETS)
def target(request):
    return TARGETS[request.param]


def test_guards_of_a_vectorised_reduction_hold_per_row(target, rng):
    value = Read("x", (var("i"), var("r")), "float32")
    iters = [data("i", 5), data("r", 21, True, "reduce")]
    stmt = block(value, iters, [var("i")], "sum", [var("i") - 2])
    func = func_of(stmt, [Buffer("x", (5, 21), "float32")], Buffer("y", (5,), "float32"), 0.0)
    check(func, [numbers(rng, 5, 21)], True, "guarded rows", target)


def test_a_guard_along_a_vectorised_reduction_holds_per_lane(target, rng):
    value = Read("x", (var("i"), var("r")), "float32")
    iters = [data("i", 5), data("r", 21, True, "reduce")]
    stmt = block(value, iters, [var("i")], "max", [var("r") - var("i") - 3])
    func = func_of(stmt, [Buffer("x", (5, 21), "float32")], Buffer("y", (5,), "float32"), -np.inf)
    check(func, [numbers(rng, 5, 21)], True, "guarded lanes", target)


def test_a_masked_load_is_not_taken_for_a_whole_one(target, rng):
    lanes = target.vector_bits // 32
    iters = [data("j", 2 * lanes, kind="reduce"), data("i", lanes + 4, True)]
    value = Read("x", (var("i") + var("j"),), "float32")
    size = 3 * lanes + 3
    stmt = block(value, iters, [var("i")], "sum")
    func = func_of(stmt, [Buffer("x", (size,), "float32")], Buffer("y", (lanes + 4,), "float32"), 0.0)
    check(func, [numbers(rng, size)], True, "overlapping vectors", target)


@pytest.mark.parametrize("guard", [var("i") - 3, var("k") - 1, var("i") + var("k") - 5, -var("i") + 6])
@pytest.mark.parametrize("mode", ["zero", "skip"])
@pytest.mark.parametrize("vectorized", ["i", "k", ""])
def test_guarded_stores(guard, mode, vectorized, target, rng):
    value = Apply("add", (Read("x", (var("k"), var("i")), "float32"), Const(1, "float32")), "float32")
    iters = [data("k", 3, vectorized == "k"), data("i", 19, vectorized == "i")]
    stmt = block(value, iters, [var("k"), var("i")], None, [guard], mode)
    func = func_of(stmt, [Buffer("x", (3, 19), "float32")], Buffer("y", (3, 19), "float32"), 7.0)
    check(func, [numbers(rng, 3, 19)], True, "guarded store", target)


@pytest.mark.parametrize("vectorized", ["i", "k", ""])
@pytest.mark.parametrize("offset", [-2, 3])
def test_guarded_reads_never_touch_memory_outside(vectorized, offset, target, rng):
    index = var("i") + offset
    guard = (index, constant(18) - index)
    value = Read("x", (var("k"), index), "float32", guard, 5.0)
    iters = [data("k", 3, vectorized == "k"), data("i", 19, vectorized == "i")]
    func = func_of(
        block(value, iters, [var("k"), var("i")]), [Buffer("x", (3, 19), "float32")], Buffer("y", (3, 19), "float32")
    )
    check(func, [numbers(rng, 3, 19)], True, "padding", target)


# ---- lanes: guards that differ between them, elements that are apart


def _strided(stride: int, extent: int, shift: int, size: int, moving: bool, dtype: str) -> tuple[Read, tuple]:
    """A guarded read whose neighbours are ``stride`` elements apart, and what makes the guard unknown in advance."""
    index = var("i") * stride + shift + (var("o") if moving else 0)
    return Read("x", (index,), dtype, (index, constant(size - 1) - index), 1), index


_STRIDED = [("float32", stride) for stride in (1, 2, 3, 4, 5, 0, -1, -2, -4)]
_STRIDED += [("int32", 2), ("int32", -1), ("bool", 1), ("bool", 0), ("bool", 2)]


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize(("dtype", "stride"), _STRIDED)
def test_guarded_lanes_of_strided_reads(dtype, stride, moving, target, rng):
    extent, size = 37, 41
    for shift in (-7, 0, 3, 30):
        read, _ = _strided(stride, extent, shift, size, moving, dtype)
        stmt = block(read, [data("i", extent, True)], [var("o"), var("i")])
        loop = For("o", (constant(0),), (constant(5),), stmt)
        func = func_of(loop, [Buffer("x", (size,), dtype)], Buffer("y", (5, extent), dtype))
        x = rng.random(size) > 0.5 if dtype == "bool" else numbers(rng, size, dtype=np.dtype(dtype))
        check(func, [x], True, f"{stride} {shift}", target)


@pytest.mark.parametrize("stride", [2, 3, 4, 7, -1, -3])
@pytest.mark.parametrize("extent", [1, 15, 16, 33])
def test_strided_vectors_stay_inside(stride, extent, target, rng):
    size = (extent - 1) * abs(stride) + 1
    place = var("i") * stride + (size - 1 if stride < 0 else 0)
    stmt = block(Read("x", (place,), "float32"), [data("i", extent, True)], [var("i")])
    func = func_of(stmt, [Buffer("x", (size,), "float32")], Buffer("y", (extent,), "float32"))
    check(func, [numbers(rng, size)], True, "strided", target)


@pytest.mark.parametrize(("members", "depth"), [(2, 1), (3, 1), (4, 4), (8, 8), (5, 2)])
@pytest.mark.parametrize("extent", [1, 16, 40])
@pytest.mark.parametrize("rows", [16, 17])
def test_lanes_that_share_an_element_with_their_group(members, depth, extent, rows, target, rng):
    groups = -(-extent // members)
    size = groups * depth * rows
    for member in range(depth):
        place = var("i").floordiv(members) * depth + var("o") * (groups * depth) + member
        stmt = block(Read("x", (place,), "float32"), [data("i", extent, True)], [var("o"), var("i")])
        loop = For("o", (constant(0),), (constant(rows),), stmt)
        func = func_of(loop, [Buffer("x", (size,), "float32")], Buffer("y", (rows, extent), "float32"))
        check(func, [numbers(rng, size)], True, f"member {member}", target)


def test_an_element_for_all_lanes_is_not_read_where_no_lane_is_left(target, rng):
    read = Read("x", (var("o") - 40,), "float32", (var("o") - var("i") - 40,), 5.0)
    stmt = block(read, [data("i", 20, True)], [var("o"), var("i")])
    loop = For("o", (constant(0),), (constant(43),), stmt)
    func = func_of(loop, [Buffer("x", (3,), "float32")], Buffer("y", (43, 20), "float32"))
    check(func, [numbers(rng, 3)], True, "one element", target)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("monoid", ["sum", "max", None])
def test_register_tiles_under_guards_that_differ_between_lanes(monoid, moving, target, rng):
    lanes = target.vector_bits // 32
    width = 2 * lanes + 3
    shift = var("o") if moving else constant(2)
    index = var("i") + var("r") - shift
    guard = (index, constant(width - 1) - index)
    inner = [data("r", 3, kind="reduce" if monoid else "data"), data("i", width, True)]
    rows = () if monoid else (var("r"),)
    init = Block(
        "a",
        (*([] if monoid else [data("q", 3)]), data("i", width, True)),
        Access("t", (*([] if monoid else [var("q")]), var("i"))),
        Const(7, "float32"),
    )
    update = Block("b", tuple(inner), Access("t", (*rows, var("i"))), Read("x", (index,), "float32"), monoid, guard)
    store = Block(
        "c",
        (data("q", 3), data("i", width, True)),
        Access("y", (var("o"), var("q"), var("i"))),
        Read("t", (var("i"),) if monoid else (var("q"), var("i")), "float32"),
    )
    tile = Buffer("t", (width,) if monoid else (3, width), "float32", "register")
    loop = For("o", (constant(0),), (constant(4),), Alloc(tile, seq(init, update, store)))
    func = func_of(loop, [Buffer("x", (width,), "float32")], Buffer("y", (4, 3, width), "float32"))
    check(func, [numbers(rng, width)], True, "guarded tile", target)


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (2, 3), (5, 40), (7, 16), (8, 33), (16, 16), (17, 35), (40, 2)])
def test_tiles_that_are_stored_transposed(rows, columns, dtype, target, rng):
    for pitch in (rows, rows + 3):
        value = Apply("convert_element_type", (Read("x", (var("j"), var("i")), "int32"),), dtype)
        stmt = block(value, [data("j", rows), data("i", columns, True)], [var("i"), var("j")])
        output = Buffer("y", (columns, pitch), dtype)
        func = func_of(stmt, [Buffer("x", (rows, columns), "int32")], output, 1 if pitch > rows else None)
        check(func, [numbers(rng, rows, columns, dtype=np.int32)], True, "transposed", target)


_INSIDE = (var("i") + var("r") - 2, -var("i") - var("r") + 20)
_PADDED = Read("x", (var("i") + var("r") - 2,), "float32", _INSIDE)
_FACTOR = Read("z", (var("r"),), "float32")
_PADDINGS = {
    "factor": Apply("mul", (_PADDED, _FACTOR), "float32"),
    "nested": Apply("mul", (_FACTOR, Apply("mul", (_PADDED, _PADDED), "float32")), "float32"),
    "alone": _PADDED,
    "term": Apply("add", (_PADDED, _FACTOR), "float32"),
    "difference": Apply("mul", (_FACTOR, Apply("sub", (_PADDED, _FACTOR), "float32")), "float32"),
}


@pytest.mark.parametrize("otherwise", [0.0, 3.0, -np.inf])
@pytest.mark.parametrize("monoid", ["sum", "max"])
@pytest.mark.parametrize("name", _PADDINGS)
@pytest.mark.parametrize("vectorized", [False, True])
def test_padding_inside_reductions(vectorized, name, monoid, otherwise, target, rng):
    def padded(e):
        return replace(e, otherwise=otherwise) if isinstance(e, Read) and e.guard else e

    if otherwise == -np.inf and name != "alone":
        pytest.skip("infinity times zero")
    iters = [data("i", 19, vectorized), data("r", 5, kind="reduce")]
    stmt = block(map_expr(_PADDINGS[name], padded), iters, [var("i")], monoid)
    inputs = [Buffer("x", (19,), "float32"), Buffer("z", (5,), "float32")]
    start = 0.0 if monoid == "sum" else -np.inf
    func = func_of(stmt, inputs, Buffer("y", (19,), "float32"), start)
    check(func, [numbers(rng, 19), numbers(rng, 5)], True, name, target)


_INDICES = {
    "linear": var("i") * 3 - 5,
    "reversed": -var("i") + 4,
    "quotient": var("i").floordiv(3),
    "remainder": (var("i") + 2).mod(5),
    "both": var("i") + var("i").floordiv(4) * 2,
    "other": var("k") * 2,
}


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("name", _INDICES)
def test_index_values(name, dtype, target):
    stmt = block(IndexValue(_INDICES[name], dtype), [data("k", 2), data("i", 37, True)], [var("k"), var("i")])
    check(func_of(stmt, [], Buffer("y", (2, 37), dtype)), [], True, name, target)


def test_large_index_values_round_once(target):
    stmt = block(IndexValue(var("i") + (1 << 24) + 1, "float32"), [data("i", 40, True)], [var("i")])
    check(func_of(stmt, [], Buffer("y", (40,), "float32")), [], True, "large", target)


@pytest.mark.parametrize("stride", [1, 2, -1])
@pytest.mark.parametrize("extent", [1, 3, 15, 16, 17, 33, 70])
def test_integer_division_in_tails(stride, extent, target, rng):
    place = var("i") * stride + (extent - 1 if stride < 0 else 0)
    value = Apply("div", (Read("x", (var("i"),), "int32"), Read("z", (place,), "int32")), "int32")
    inputs = [Buffer("x", (extent,), "int32"), Buffer("z", (2 * extent,), "int32")]
    func = func_of(block(value, [data("i", extent, True)], [var("i")]), inputs, Buffer("y", (extent,), "int32"))
    check(func, [numbers(rng, extent, dtype=np.int32), numbers(rng, 2 * extent, dtype=np.int32)], True, "div", target)


@pytest.mark.parametrize("extent", [1, 3, 16, 17, 40])
def test_booleans_in_memory(extent, target, rng):
    value = Apply(
        "and", (Read("x", (var("i"),), "bool"), Apply("not", (Read("z", (var("i"),), "bool"),), "bool")), "bool"
    )
    inputs = [Buffer("x", (extent,), "bool"), Buffer("z", (extent,), "bool")]
    func = func_of(block(value, [data("i", extent, True)], [var("i")]), inputs, Buffer("y", (extent,), "bool"))
    check(func, [rng.random(extent) > 0.5, rng.random(extent) > 0.5], True, "bool", target)


@pytest.mark.parametrize(
    ("monoid", "dtype"),
    [
        ("sum", "float32"),
        ("prod", "float32"),
        ("max", "float32"),
        ("min", "float32"),
        ("larger", "float32"),
        ("sum", "int32"),
        ("max", "int32"),
    ]
    + [("min", "int32"), ("and", "int32"), ("or", "int32"), ("and", "bool"), ("or", "bool")],
)
@pytest.mark.parametrize("extent", [1, 5, 16, 19, 67])
@pytest.mark.parametrize("vectorized", ["r", "i"])
def test_reductions_of_all_monoids(monoid, dtype, extent, vectorized, target, rng):
    value = Read("x", (var("r"), var("i")), dtype)
    iters = [data("i", 3, vectorized == "i"), data("r", extent, vectorized == "r", "reduce")]
    stmt = block(value, iters, [var("i")], monoid)
    func = func_of(stmt, [Buffer("x", (extent, 3), dtype)], Buffer("y", (3,), dtype), MONOIDS[monoid].identity(dtype))
    x = rng.integers(-1, 2, (extent, 3)).astype(dtype)
    if dtype == "float32":
        x[0, 1], x[-1, 2] = np.nan, np.inf
    check(func, [x], True, f"{monoid} {dtype}", target)


def test_branches_and_loops_with_computed_bounds(target, rng):
    place = Access("y", (var("i"), var("j")))
    inner = Block("b", (), place, Read("x", (var("j"),), "float32"), "sum")
    other = Block("c", (), place, Const(9, "float32"))
    odd = If((var("i").mod(3) - 1, var("j") - 1), inner, other)
    loops = For(
        "i", (constant(0),), (constant(7),), For("j", (constant(0), var("i") - 2), (constant(6), var("i") + 1), odd)
    )
    func = func_of(loops, [Buffer("x", (6,), "float32")], Buffer("y", (7, 6), "float32"), 1.0)
    check(func, [numbers(rng, 6)], True, "bounds", target)


@pytest.mark.parametrize("width", [1, 2])
def test_a_register_tile_is_not_read_in_another_width(width, rng):
    """One Block writes whole vectors, the other reads single elements in the middle of one."""
    lanes = WIDE.vector_bits // 32
    write = Block("a", (data("i", lanes, True),), Access("t", (var("i"),)), Read("x", (var("i"),), "float32"))
    read = Block("b", (data("i", width),), Access("y", (var("i"),)), Read("t", (var("i") + 3,), "float32"))
    tile = Alloc(Buffer("t", (lanes,), "float32", "register"), seq(write, read))
    func = LoopFunc("f", (Buffer("x", (lanes,), "float32"), Buffer("y", (width,), "float32")), 1, tile)
    with pytest.raises(CodegenError, match="accesses of one width to the register buffer t"):
        compile_kernel(func, WIDE)


def test_a_register_tile_is_not_indexed_by_a_loop():
    write = Block("a", (data("i", 4),), Access("t", (var("i"),)), Const(0, "float32"))
    read = For(
        "o", (constant(0),), (constant(4),), Block("b", (), Access("y", (var("o"),)), Read("t", (var("o"),), "float32"))
    )
    func = LoopFunc(
        "f", (Buffer("y", (4,), "float32"),), 1, Alloc(Buffer("t", (4,), "float32", "register"), seq(write, read))
    )
    with pytest.raises(CodegenError, match="constant indices into the register buffer t"):
        compile_kernel(func, WIDE)


def test_functions_without_code_are_refused():
    read = Read("x", (var("i"),), "float64")
    stmt = block(Apply("rem", (read, read), "float64"), [data("i", 4)], [var("i")])
    with pytest.raises(CodegenError, match="found rem of float64"):
        compile_kernel(func_of(stmt, [Buffer("x", (4,), "float64")], Buffer("y", (4,), "float64")), WIDE)


def test_code_does_not_grow_without_bound():
    stmt = Block("b", (), Access("y", (var("i") * 64 + var("j"), var("k"))), Const(0, "float32"))
    for name in "kji":
        stmt = For(name, (constant(0),), (constant(64),), stmt, "unroll")
    func = LoopFunc("f", (Buffer("y", (4096, 64), "float32"),), 1, stmt)
    with pytest.raises(CodegenError, match="at most 16384 instructions, found more in b"):
        compile_kernel(func, WIDE)


def test_equal_programs_give_equal_kernels():
    func = sample(CASES[0]).func
    assert kernel_ir(func, WIDE) == kernel_ir(func, WIDE)
    assert compile_kernel(func, WIDE) == compile_kernel(func, WIDE)


@pytest.mark.parametrize("parts", [1, 2, 5, 9])
def test_the_parallel_range_may_be_cut_anywhere(parts, rng):
    value = Apply("neg", (Read("x", (var("i"), var("o")), "float32"),), "float32")
    stmt = block(value, [data("i", 19, True)], [var("o"), var("i")])
    loop = For("o", (constant(2),), (constant(9),), stmt, "parallel")
    func = LoopFunc("f", (Buffer("x", (19, 9), "float32"), Buffer("y", (9, 19), "float32")), 1, loop)
    x = numbers(rng, 19, 9)
    (found,) = run_native(compile_kernel(func, WIDE), [x], parts)
    np.testing.assert_array_equal(found[2:], -x.T[2:])
    assert np.isnan(found[:2]).all()


# ---- stores past the caches


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(6, 64), (3, 48), (5, 37), (1, 16), (2, 1)])
def test_stores_past_the_caches(name, shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for fn in (lambda x: x * 2, lambda x: x.T + 1, lambda x: x > 3):
        lowered = sample(Case("streamed", fn, (x,)))
        for sketch in sketches(lowered.func, TARGETS[name]):
            scheduled = replay(lowered.func, (*sketch.build(sketch.default), Step("nontemporal", "y0")))
            verify(scheduled)
            check(scheduled, lowered.arguments(scheduled), True, f"{shape} {sketch.name}", TARGETS[name], 2)


def test_only_whole_aligned_vectors_are_stored_past_the_caches():
    def stores(columns: int) -> list[str]:
        lowered = sample(Case("streamed", lambda x: x[:, ::-1] * 2, ((4, columns),)))
        sketch = next(s for s in sketches(lowered.func, WIDE) if s.name == "elementwise")
        scheduled = replay(lowered.func, (*sketch.build(sketch.default), Step("nontemporal", "y0")))
        ir = kernel_ir(scheduled, WIDE)[0]
        return [line for line in ir.splitlines() if "!nontemporal" in line]

    assert stores(64)
    assert all("align 64" in line or "align 32" in line or "align 16" in line for line in stores(64))
    assert not stores(37)


@pytest.mark.parametrize("factor", [0.125, 0.1, 2.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_differences_with_products_round_as_the_operations_do(factor, dtype, target, rng):
    # With a factor that is a power of two one instruction gives the same numbers.
    x, y = (Read(n, (var("i"),), dtype) for n in "xz")
    value = Apply("sub", (Apply("mul", (x, Const(factor, dtype)), dtype), y), dtype)
    inputs = [Buffer(n, (70,), dtype) for n in "xz"]
    func = func_of(block(value, [data("i", 70, True)], [var("i")]), inputs, Buffer("y", (70,), dtype))
    arrays = [rng.standard_normal(70).astype(dtype) * 10.0 ** rng.integers(-9, 9, 70).astype(dtype) for _ in "xz"]
    arrays[1][:20] = arrays[0][:20] * np.dtype(dtype).type(factor)
    for array in arrays:
        array[20:26] = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max]
    check(func, arrays, True, f"{factor} {dtype}", target)
