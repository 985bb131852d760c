"""Emitted kernels, run by Pallas' interpreter, against ours: shapes, tiles and schedules at random; and refusals."""

from __future__ import annotations

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from pallas_devices import need_lowering
from pallas_programs import LARGE, check, matmul, program, run, scheduled, softmax
from programs import random_program, tile
from traces import Traces
from workloads import Array, Case, Sample, assert_same, put_together, sample, samples, values

from tilewright.backends.pallas import TPU, TRITON, PallasError, Route, Tiles, emit, tiled
from tilewright.backends.pallas.prepare import prepare
from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc
from tilewright.ir.verify import VerifyError
from tilewright.passes.schedule import replay

ROUTES = {"tpu": TPU, "triton": TRITON}
_SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
_EXTENTS = st.integers(1, 40)
_TILE = st.sampled_from((1, 2, 3, 5, 8, 16))


def _examples(number: int) -> settings:
    return settings(max_examples=number, **_SETTINGS)


@st.composite
def _tiles(draw: st.DrawFn) -> Tiles:
    """Sizes of tiles, most of which divide nothing."""
    return Tiles(draw(_TILE), draw(_TILE), draw(_TILE), draw(st.integers(1, 200)), 1, draw(st.booleans()))


# ---- the two first kernels


@_examples(8)
@given(
    m=_EXTENTS,
    k=_EXTENTS,
    n=_EXTENTS,
    tiles=_tiles(),
    activation=st.sampled_from(("gelu", "relu")),
    special=st.booleans(),
)
def test_products_with_an_epilogue_of_any_size(m, k, n, tiles, activation, special):
    lowered = sample(matmul(m, k, n, activation), special)
    func = replay(lowered.func, tiled(lowered.func, tiles))
    for route in (TPU,) if tiles.sequential else (TPU, TRITON):
        check(lowered, func, f"{m}x{k}x{n} {tiles} {route.name}", route)


@_examples(8)
@given(rows=_EXTENTS, columns=_EXTENTS, tiles=_tiles(), special=st.booleans())
def test_softmax_of_any_size(rows, columns, tiles, special):
    lowered = sample(softmax(rows, columns), special)
    func = replay(lowered.func, tiled(lowered.func, tiles))
    for route in (TPU, TRITON):
        check(lowered, func, f"{rows}x{columns} {tiles} {route.name}", route)


def test_padding_of_blocks_is_not_a_number_here():
    """What the tests above rest on: a value from outside of an array would show."""

    spec = pl.BlockSpec((8,), lambda n: (n,))
    call = pl.pallas_call(
        lambda x, y: y.__setitem__(..., jnp.full((8,), jnp.sum(x[...]))),
        grid=(2,),
        in_specs=[spec],
        out_specs=spec,
        out_shape=jax.ShapeDtypeStruct((16,), jnp.float32),
        interpret=True,
    )
    found = np.asarray(call(jnp.ones(10)))
    np.testing.assert_array_equal(found, [8.0] * 8 + [np.nan] * 8)


@pytest.mark.parametrize("name", ["matmul", "softmax"])
def test_a_simulated_tpu_agrees(name):
    """Blocks are copied to memory of their own, which begins as NaN, in the order of the grid."""
    case = {"matmul": matmul(20, 300, 140), "softmax": softmax(20, 150)}[name]
    lowered = sample(case, special=True)
    func = replay(lowered.func, tiled(lowered.func, Tiles(8, 128, 128, 2048, 8, True)))
    simulated = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    lowered.check(run(func, lowered.arguments(func), TPU, simulated), name)


def test_large_sizes_are_one_kernel_each():
    lowered = sample(LARGE["softmax"])
    func = scheduled(LARGE["softmax"])
    assert str(jax.make_jaxpr(emit(func, interpret=True))(*lowered.arguments(func))).count("pallas_call[") == 1
    check(lowered, func, "softmax")


# ---- any schedule


REFUSALS = re.compile(
    "expected tiles surely inside"
    "|expected one kernel to write all of"
    "|expected grid, serial or unrolled loops, found the parallel loop"
    "|expected constants in their own layout, found .* packed"
    "|expected indices that move along one iterator each"
    "|expected no buffer that one kernel writes and reads"
    "|expected one Block to write"
    "|expected elements in"
    "|expected grid loops inside grid loops only"
    "|expected one grid loop per sequence inside a kernel"
    "|expected no value kept from one cell of the grid to the next"
    "|expected cells of the grid that are surely independent"
    "|expected the loops along which .* stays the same innermost"
)
"""Why a schedule that nobody chose for Pallas may be refused."""


def outcome(func: LoopFunc, arrays: list[Array], route: Route, exact: bool, what: str) -> str:
    """Run a program on a route and compare with the interpreter; how that went."""
    try:
        found = run(func, arrays, route)
    except VerifyError as error:
        # Holds for complete schedules only: a trace may end between what needs it and what brings it about.
        assert error.rule == "registers", what
        return "incomplete"
    except PallasError as error:
        assert REFUSALS.match(str(error)), f"{what}: {error}"
        return "refused"
    for got, want in zip(found, interpret(func, arrays), strict=True):
        assert_same(got, want, exact, what)
    return "ran"


def test_random_programs_tiled_at_random(rng, request):
    found: Counter[tuple[str, str]] = Counter()
    for number in range(60 if request.config.getoption("--full") else 8):
        func = random_program(rng)
        for _ in range(number % 3):
            func = tile(func, rng)
        arrays = [rng.integers(-3, 4, b.shape).astype(b.dtype) for b in func.inputs]
        for name, route in ROUTES.items():
            found[name, outcome(func, arrays, route, True, f"program {number}, {name}")] += 1
    for name in ROUTES:
        assert found[name, "ran"] >= found[name, "refused"] / 3, found


def supported(special: bool = False) -> list[Sample]:
    return [s for s in samples(special) if not put_together(s.func)]


def test_random_traces_run_as_interpreted_or_are_refused(request):
    traces = Traces(seed=11)
    found: Counter[str] = Counter()
    full = request.config.getoption("--full")
    for number in range(6 if full else 1):
        for place, lowered in enumerate(supported(special=number % 2 == 1)[:: 1 if full else 5]):
            trace, func = traces.draw(lowered.func, 8)
            route = (TPU, TRITON)[(number + place) % 2]
            what = f"{lowered.case.name}, {route.name}: {', '.join(map(str, trace))}"
            found[outcome(func, lowered.arguments(func), route, lowered.case.exact, what)] += 1
    assert found["ran"] > found["refused"] + found["incomplete"], found


@pytest.mark.parametrize("powers_of_two", [False, True])
def test_preparing_keeps_the_meaning(powers_of_two):
    small = Tiles(3, 5, 3, 12, 1, False)
    for lowered in supported(special=True)[::4]:
        func = replay(lowered.func, tiled(lowered.func, small))
        prepared = prepare(func, powers_of_two=powers_of_two)
        lowered.check(interpret(prepared, lowered.arguments(func)), f"{lowered.case.name} prepared")


# ---- forms that programs may have


_SUM = """
    input x: float32[6, 20]
    output y: float32[6]
    alloc t: float32[6]
      block init [i: 0..6]
        t[i] = 0.0:float32
      block update [i: 0..6, k: 0..20 reduce]
        t[i] sum= x[i, k]
      block out [i: 0..6]
        y[i] = mul(t[i], 2.0:float32)
"""
_ROWS = (("split", "out", "i", 2), ("compute_at", "t", "out.i"), ("grid", "out.i"))
_TILED_SUM = (*_ROWS, ("split", "update", "k", 8))
_CHAIN = """
    input x: float32[12, 10]
    output y: float32[12, 10]
    alloc t: float32[12, 10]
      block first [i: 0..12, j: 0..10]
        t[i, j] = add(x[i, j], 1.0:float32)
      block out [i: 0..12, j: 0..10]
        y[i, j] = mul(t[i, j], x[-i + 11, j])
"""


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (_SUM, ()),
        (_SUM, _ROWS),
        (_SUM, _TILED_SUM),
        (_SUM, (*_TILED_SUM, ("unroll", "update.k"))),
        (_SUM, (*_TILED_SUM, ("grid", "update.k"))),
        (_SUM, (("rfactor", "update", "k", 3),)),
        (_CHAIN, (("split", "first", "i", 4), ("split", "out", "j", 3), ("grid", "first.i"), ("grid", "out.j"))),
        (_CHAIN, (("split", "out", "i", 4), ("split", "out", "j", 4), ("grid", "out.i"), ("grid", "out.j"))),
        (
            _CHAIN,
            (("split", "out", "i", 4), ("split", "out", "j", 5), ("fuse", "out.i", "out.j"), ("grid", "out.i_out.j")),
        ),
        (_CHAIN, (("split", "out", "i", 4), ("compute_at", "t", "out.i"), ("split", "first", "j", 3))),
    ],
)
def test_schedules_of_all_forms(text, rows, route, rng):
    func = program(text, *rows)
    arrays = [values(b.shape, rng, special=True) for b in func.inputs]
    if route == "triton" and ("grid", "update.k") in rows:
        with pytest.raises(PallasError, match="expected no value kept from one cell of the grid to the next, found t"):
            emit(func, TRITON, interpret=True)
        return
    for got, want in zip(run(func, arrays, ROUTES[route]), interpret(func, arrays), strict=True):
        assert_same(got, want, True, str(rows))


def test_kernels_take_any_shape_with_the_same_elements_and_run_inside_other_functions(rng):
    func = program(_SUM, *_ROWS)
    kernel = emit(func, interpret=True)
    x = values((6, 20), rng)
    (alone,) = kernel(x.reshape(2, 3, 20))
    inside = jax.jit(lambda x: jnp.sin(kernel(x * 2)[0]))(x)
    np.testing.assert_array_equal(alone, 2 * x.sum(1))
    np.testing.assert_allclose(inside, np.sin(4 * x.sum(1)), rtol=1e-5)


_INTEGERS = np.array([0, 1, -1, 2, 7, -7, 31, 32, 33, -32, 2**31 - 1, -(2**31)], np.int32)
_FLOATS = np.array(
    [np.nan, np.inf, -np.inf, 0, -0.5, 1.5, -1.5, 2.0**31, -(2.0**31), 2147483520, 1e30, -1e30], np.float32
)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("op", ["div", "rem", "shift_left", "shift_right_logical", "shift_right_arithmetic"])
def test_integer_operations_are_defined_everywhere(op, route):
    """With the operands that compilers leave undefined; the result does not rest on what they do there."""
    func = program(f"""
        input x: int32[144]
        input y: int32[144]
        output z: int32[144]
        block b [i: 0..144]
          z[i] = {op}(x[i], y[i])
    """)
    arrays = [a.ravel() for a in np.meshgrid(_INTEGERS, _INTEGERS)]
    want = getattr(jax.lax, op)(*map(jnp.asarray, arrays))
    np.testing.assert_array_equal(run(func, arrays, ROUTES[route])[0], want)
    np.testing.assert_array_equal(interpret(func, arrays)[0], want)
    need_lowering(ROUTES[route])
    emit(func, ROUTES[route])


@pytest.mark.parametrize("route", ROUTES)
def test_floats_that_no_integer_holds_are_converted_as_jax_does(route):
    func = program("""
        input x: float32[12]
        output y: int32[12]
        block b [i: 0..12]
          y[i] = convert_element_type(x[i]):int32
    """)
    np.testing.assert_array_equal(run(func, [_FLOATS], ROUTES[route])[0], jnp.asarray(_FLOATS).astype(jnp.int32))
    need_lowering(ROUTES[route])
    emit(func, ROUTES[route])


# ---- refusals


def refused(func: LoopFunc, match: str, route: Route = TPU, interpret: bool = True) -> None:
    with pytest.raises(PallasError, match=match):
        emit(func, route, interpret=interpret)


def test_parallel_loops_are_refused():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        parallel o in 0..2
          block b [i: 4*o..+4]
            y[i] = x[i]
    """)
    refused(func, "expected grid, serial or unrolled loops, found the parallel loop o")


def test_branches_are_refused():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        grid o in 0..8
          if o - 3 >= 0
            block b []
              y[o] = x[o]
          else
            block c []
              y[o] = 0.0:float32
    """)
    refused(func, "expected no branches, found an If")


def test_packed_constants_are_refused():
    func = program(
        """
        constant w: float32[8]
        output y: float32[8]
        block b [i: 0..8]
          y[i] = w[i]
    """,
        ("pack", "w", 0, 4),
    )
    refused(func, "expected constants in their own layout, found w packed")


def test_two_grids_in_a_cell_are_refused():
    func = program("""
        input x: float32[4, 8]
        output y: float32[4, 8]
        output z: float32[4, 8]
        grid o in 0..4
          grid a in 0..8
            block b []
              y[o, a] = x[o, a]
          grid c in 0..8
            block d []
              z[o, c] = x[o, c]
    """)
    refused(func, "expected one grid loop per sequence inside a kernel, found several")


def test_grids_inside_of_other_loops_are_refused():
    func = program("""
        input x: float32[4, 8]
        output y: float32[4, 8]
        for o in 0..4
          grid a in 0..8
            block b []
              y[o, a] = x[o, a]
    """)
    refused(func, "expected grid loops inside grid loops only, found one inside o")


def test_blocks_that_a_grid_returns_to_are_refused():
    func = program("""
        input x: float32[3, 16]
        output y: float32[16]
        grid k in 0..3
          grid o in 0..2
            block b [i: 8*o..+8]
              y[i] = x[k, i]
    """)
    refused(func, "expected the loops along which y stays the same innermost, found k around o")
    refused(func, "expected cells of the grid that are surely independent", TRITON)


_EXCHANGE = """
    input x: float32[4, 8]
    output y: float32[4, 8]
    output z: float32[4, 8]
    grid o in 0..4
      block a [i: 0..8]
        y[o, i] = x[o, i]
      block b [i: 0..8]
        z[o, i] = y[o, -i + 7]
"""
_REWRITTEN = """
    input x: float32[4, 8]
    output y: float32[4, 8]
    grid o in 0..4
      block a [i: 0..8]
        y[o, i] = 0.0:float32
      block b [i: 0..4]
        y[o, i + 2] = x[o, i]
"""


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (_EXCHANGE, "expected no buffer that one kernel writes and reads, found y"),
        (_REWRITTEN, "expected one Block to write y, found 2"),
    ],
)
def test_threads_that_would_have_to_wait_for_each_other_are_refused(text, match, rng):
    """The interpreter has one thread per cell and would not show it."""
    func = program(text)
    refused(func, match, TRITON)
    x = values((4, 8), rng)
    for got, want in zip(run(func, [x], TPU), interpret(func, [x]), strict=True):
        assert_same(got, want, True, "tpu")


def test_steps_in_memory_are_lowered_for_cuda(rng):
    func = program("""
        input x: float32[8, 200]
        output y: float32[8, 64]
        grid o in 0..8
          block b [i: 0..64]
            y[o, i] = x[o, 3*i + 5]
    """)
    x = values((8, 200), rng)
    np.testing.assert_array_equal(run(func, [x], TRITON)[0], x[:, 5:197:3])
    need_lowering(TRITON)
    emit(func, TRITON)


def test_two_kernels_that_write_one_output_are_refused():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        grid o in 0..1
          block a [i: 0..4]
            y[i] = x[i]
        grid p in 0..1
          block b [i: 4..8]
            y[i] = x[i]
    """)
    refused(func, "expected one kernel to write all of y, found two")


def test_tiles_that_a_tpu_can_not_move_are_refused():
    func = scheduled(matmul(300, 64, 300), Tiles(50, 100, 32, 100, 1, True))
    refused(func, "whose last two axes are multiples of 8 and 128, or whole, found a block", interpret=False)
    emit(func, interpret=True)


def test_operations_without_code_are_refused():
    func = program("""
        input x: float32[8, 128]
        output y: float32[8, 128]
        block b [i: 0..8, j: 0..128]
          y[i, j] = erf_inv(x[i, -j + 127])
    """)
    refused(func, "expected operations that Pallas compiles for tpu, found: .*rev", interpret=False)
    emit(func, interpret=True)


def test_indices_that_mix_too_many_iterators_are_refused():
    func = program("""
        input x: float32[200, 100]
        output y: float32[100, 100]
        block b [i: 0..100, j: 0..100]
          y[i, j] = x[i + j, j]
    """)
    refused(func, r"expected indices that move along one iterator each, found x\[i \+ j, j\].*more than 64 statements")


def test_statements_on_empty_buffers_are_left_out_or_refused():
    left_out = program("""
        input x: float32[0, 4]
        output y: float32[4]
        alloc t: float32[1, 4]
          block a [i: 0..1 < 0, j: 0..4]
            t[i, j] = x[i, j]
          block b [j: 0..4]
            y[j] = 1.0:float32
    """)
    (y,) = run(left_out, [np.zeros((0, 4), np.float32)])
    np.testing.assert_array_equal(y, np.ones(4))
    guarded = program("""
        input x: float32[0]
        output y: float32[4]
        block b [j: 0..4]
          y[j] = x[j]{-j - 1 >= 0 else 2.0}
    """)
    refused(guarded, r"expected elements in x, which statements use, found its shape \(0,\)")


def test_wrong_arguments_are_refused():
    kernel = emit(program(_SUM, *_ROWS), interpret=True)
    with pytest.raises(PallasError, match="expected 1 arrays, found 2"):
        kernel(np.zeros((6, 20), np.float32), 1)
    with pytest.raises(PallasError, match=r"expected float32\[6, 20\] for x, found int32\[6, 20\]"):
        kernel(np.zeros((6, 20), np.int32))
    with pytest.raises(PallasError, match=r"expected float32\[6, 20\] for x, found float32\[6, 19\]"):
        kernel(np.zeros((6, 19), np.float32))


def test_invalid_programs_are_refused():
    func = program("""
        input x: float32[8]
        output y: float32[8]
        block b [i: 0..9]
          y[i] = x[i]
    """)
    with pytest.raises(VerifyError, match=r"expected index 0 of y surely in 0\.\.7"):
        emit(func)


def test_every_case_gets_a_first_schedule_that_replays():
    for lowered in supported()[::2]:
        for tiles in (Tiles(8, 128, 128, 1024, 8, True), Tiles(2, 2, 2, 4, 1, False)):
            replay(lowered.func, tiled(lowered.func, tiles))
    assert tiled(sample(Case("empty", lambda x: x + 1, ((0, 3),))).func) == ()
