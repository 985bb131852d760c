"""Elementwise functions: accuracy over all of float32, special values, and agreement with JAX."""

from __future__ import annotations

import ctypes

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from tilewright.backends.llvm import link, toolchain
from tilewright.backends.llvm.builder import Builder, vtype
from tilewright.backends.llvm.vecmath import SUPPORTED, emit
from tilewright.bench.vecmath import CONFIGURATIONS, MAX_ULP, REFERENCES, elementwise, stratified, ulp_error, worst
from tilewright.ir import interp_ops
from tilewright.ir.dtypes import FLOATS, to_numpy
from tilewright.ir.elementwise import SIGNATURES
from tilewright.passes.legalize import POLYNOMIALS

INF, NAN = float("inf"), float("nan")
SPECIAL = np.array(
    """
    0 -0 1 -1 0.5 2 3 -2 -3 2.5 -2.5 7 -8 0.99999994 1.0000001 1e-30 -1e-30 1e30 -1e30 inf -inf nan
    1.1754944e-38 -1.1754944e-38 3.4028234e38 -3.4028234e38 1e-45 -1e-45
    """.split(),
    np.float32,
)
CONVERTED = [*FLOATS, "int8", "uint8", "int32", "uint32", "int64", "bool"]


def require(configuration: str) -> None:
    """Skip what this machine can't run."""
    wanted = [name for name in CONFIGURATIONS[configuration][0].split(",") if name.startswith("+")]
    missing = set(wanted) - set(toolchain.host_features().split(","))
    if missing:
        pytest.skip(f"the processor lacks {', '.join(sorted(missing))}")


def apply(name: str, *args: np.ndarray, lanes: int = 8, **options: object) -> np.ndarray:
    """Run a function as generated code for AVX2."""
    require("avx2")
    features = CONFIGURATIONS["avx2"][0]
    return elementwise(name, args[0].dtype.name, lanes, features, arity=len(args), **options)(*args)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", REFERENCES)
def test_error_stays_bounded(name: str, configuration: str, request: pytest.FixtureRequest) -> None:
    require(configuration)
    bits = stratified(1 << (24 if request.config.getoption("--full") else 16))
    error, at = worst(name, configuration, bits)
    assert error <= MAX_ULP[name], f"{name}({at!r})"


@pytest.mark.parametrize("configuration", ["avx512", "avx2"])
@pytest.mark.parametrize("name", REFERENCES)
def test_error_stays_bounded_without_denormals(name: str, configuration: str) -> None:
    require(configuration)
    error, at = worst(name, configuration, stratified(1 << 15, seed=1), flush=True)
    assert error <= MAX_ULP[name], f"{name}({at!r})"


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_decay_is_exp_of_what_is_not_positive(configuration: str, rng: np.random.Generator) -> None:
    """Its error is two units, and what half a unit of the argument makes of the result."""
    require(configuration)
    features, lanes = CONFIGURATIONS[configuration]
    loop = elementwise("decay", "float32", lanes, features)
    x = -np.concatenate([rng.uniform(0, 87, 1 << 14), rng.uniform(0, 2, 1 << 14), 10.0 ** rng.uniform(-40, 0, 1 << 12)])
    x = x.astype(np.float32)
    error = ulp_error(loop(x), np.exp(x.astype(np.float64)))
    assert np.max(error - np.abs(x) / 2) <= 2.0
    special = np.array([0.0, -0.0, -INF, NAN, -3e38, -200.0, 1e-6], np.float32)
    np.testing.assert_array_equal(loop(special)[:-1], np.array([1, 1, 0, NAN, 0, 0], np.float32))
    assert loop(special)[-1] == pytest.approx(1, abs=3e-6)


@pytest.mark.parametrize("lanes", [0, 1, 4, 8, 12, 16])
@pytest.mark.parametrize("configuration", ["avx512", "avx2"])
def test_random_words(lanes: int, configuration: str, rng: np.random.Generator) -> None:
    require(configuration)
    args = [rng.integers(0, 2**32, 97, np.uint32) for _ in range(3)]
    loop = elementwise("threefry", "uint32", lanes, CONFIGURATIONS[configuration][0], arity=3)
    np.testing.assert_array_equal(loop(*args), interp_ops.apply("threefry", args, "uint32"))


@pytest.mark.parametrize("lanes", [1, 4, 12, 32])
@pytest.mark.parametrize("configuration", ["avx512", "avx2"])
@pytest.mark.parametrize("name", ["exp", "tanh", "sin", "cbrt"])
def test_any_number_of_lanes(name: str, lanes: int, configuration: str) -> None:
    require(configuration)
    x = np.linspace(0.1, 9, 97, dtype=np.float32)
    loop = elementwise(name, "float32", lanes, CONFIGURATIONS[configuration][0])
    assert ulp_error(loop(x), REFERENCES[name](x.astype(np.float64))).max() <= MAX_ULP[name]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", REFERENCES)
def test_special_values(name: str, configuration: str) -> None:
    """NaN, infinities and zeros with their signs are those of C's function."""
    require(configuration)
    features, lanes = CONFIGURATIONS[configuration]
    got = elementwise(name, "float32", lanes, features)(SPECIAL)
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](SPECIAL.astype(np.float64)).astype(np.float32)
    special = ~np.isfinite(expected) | (expected == 0)
    np.testing.assert_array_equal(got[special], expected[special])
    np.testing.assert_array_equal(np.signbit(got[expected == 0]), np.signbit(expected[expected == 0]))
    np.testing.assert_allclose(got[~special], expected[~special], rtol=5e-7)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", 88.72283, 3.402799e38),
        ("exp", 88.72284, INF),
        ("expm1", 88.72283, 3.402799e38),
        ("exp2", 128.0, INF),
        ("tanh", 9.1, 1.0),
        ("tanh", -1e30, -1.0),
        ("erf", 4.0, 1.0),
        ("erf", -3.95, -1.0),
        ("erfc", 11.0, 0.0),
        ("erfc", -6.0, 2.0),
        ("logistic", 20.0, 1.0),
        ("logistic", -200.0, 0.0),
        ("expm1", -30.0, -1.0),
        ("log", 1.0, 0.0),
        ("log1p", -1.0, -INF),
        ("rsqrt", 1e-45, 2.671376e22),
    ],
)
def test_edges(name: str, x: float, expected: float) -> None:
    assert apply(name, np.array([x], np.float32))[0] == pytest.approx(expected, rel=1e-6)


def _pairs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of special values, and random ones of several magnitudes."""
    x, y = (grid.ravel() for grid in np.meshgrid(SPECIAL, SPECIAL))
    random = rng.standard_normal((2, 4096)) * np.exp2(rng.integers(-30, 30, (2, 4096)))
    mild = np.stack([np.exp2(rng.uniform(-20, 20, 4096)), rng.uniform(-6, 6, 4096)])
    parts = np.concatenate([random, mild], axis=1).astype(np.float32)
    return np.concatenate([x, parts[0]]), np.concatenate([y, parts[1]])


@pytest.mark.parametrize(
    ("name", "reference", "bound"), [("pow", np.power, 1.0), ("atan2", np.arctan2, 2.0), ("rem", np.fmod, 0.0)]
)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_functions_of_two_arguments(
    name: str, reference: np.ufunc, bound: float, configuration: str, rng: np.random.Generator
) -> None:
    require(configuration)
    features, lanes = CONFIGURATIONS[configuration]
    x, y = _pairs(rng)
    got = elementwise(name, "float32", lanes, features, arity=2)(x, y)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64), y.astype(np.float64))
    error = ulp_error(got, exact)
    at = int(np.argmax(error))
    assert error[at] <= bound, (x[at], y[at], got[at], exact[at])
    zero = exact == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(exact[zero]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "logistic", "rsqrt"])
def test_narrow_floats_are_computed_in_float32(name: str, dtype: str) -> None:
    kind = to_numpy(dtype)
    x = np.arange(2**16, dtype=np.uint16).view(kind)
    got = apply(name, x).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](x.astype(np.float64)).astype(np.float32).astype(kind).astype(np.float32)
    step = float(ml_dtypes.finfo(kind).eps)
    np.testing.assert_allclose(got, expected, rtol=step, atol=float(ml_dtypes.finfo(kind).smallest_subnormal))


FLOAT_UNARY = ["neg", "abs", "sign", "square", "sqrt", "floor", "ceil", "is_finite"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*FLOAT_UNARY, "round0", "round1", "pow3", "pow0", "pow-2"])
def test_float_functions_equal_jax(name: str, dtype: str, rng: np.random.Generator) -> None:
    if dtype == "float64" and name == "pow3":
        pytest.skip("the order of the products is XLA's")
    x = np.concatenate([SPECIAL, rng.standard_normal(500) * 100, [2.0**22 + 0.5, 0.49999997]])
    with np.errstate(over="ignore"):
        x = x.astype(to_numpy(dtype))
    x = x[(np.abs(x.astype(np.float64)) >= 1e-4) | (x == 0) | np.isnan(x)]  # XLA flushes denormals
    base, params = name, ()
    if name.startswith("round"):
        base, params = "round", (int(name[5:]),)
    elif name.startswith("pow"):
        base, params = "integer_pow", (int(name[3:]),)
    got = apply(base, x, params=params, result="bool" if name == "is_finite" else dtype)
    function = {
        "round": lambda v: lax.round(v, lax.RoundingMethod(*params)),
        "integer_pow": lambda v: lax.integer_pow(v, *params),
    }.get(base) or getattr(lax, base)
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(function)(x))
    # XLA rounds products to 16 bits: those of large numbers become infinite, and their inverses zero.
    rtol, atol = (
        (float(ml_dtypes.finfo(x.dtype).eps) * 2, float(ml_dtypes.finfo(x.dtype).tiny))
        if params and base == "integer_pow"
        else (0, 0)
    )
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "max", "min", "eq", "ne", "lt", "le", "gt", "ge"])
def test_float_pairs_equal_jax(name: str, dtype: str) -> None:
    moderate = SPECIAL[(np.abs(SPECIAL) < 1e10) & (np.abs(SPECIAL) > 1e-10) | (SPECIAL == 0) | ~np.isfinite(SPECIAL)]
    x, y = (grid.ravel().astype(to_numpy(dtype)) for grid in np.meshgrid(moderate, moderate))
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(getattr(lax, name))(x, y))
    got = apply(name, x, y, result=expected.dtype.name)
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("constant", [0.0, -0.0, 6.0, -1.5, INF, NAN])
@pytest.mark.parametrize("name", ["max", "min"])
def test_extrema_with_a_constant(name: str, constant: float) -> None:
    """The short form for constants propagates NaN, on either side."""
    t = vtype("float32")
    for swap in (False, True):
        b = Builder()
        b.begin("f", [("ptr", "%p"), ("ptr", "%q")])
        args = [b.load(t, "%p", 4), b.const(constant, t)]
        b.store(t, emit(b, name, t, args[::-1] if swap else args), "%q", 4)
        b.end()
        assert ("select" in b.module()) == (constant == constant)
        got = _scalar(b, SPECIAL)
        np.testing.assert_array_equal(got, getattr(np, f"{name}imum")(SPECIAL, np.float32(constant)))


def _scalar(b: Builder, x: np.ndarray) -> np.ndarray:
    """Apply the module's function ``f`` of two pointers to every element."""
    address = link.load(toolchain.object_code(b.module(), features=toolchain.host_features())).address("f")
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)
    out = np.empty_like(x)
    for i in range(x.size):
        call(x[i:].ctypes.data, out[i:].ctypes.data)
    return out


def _integers(dtype: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of integers with every combination of the extreme ones."""
    info = np.iinfo(dtype)
    edges = np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 100], dtype)
    if info.min < 0:
        edges = np.concatenate([edges, -edges])
    x, y = (grid.ravel() for grid in np.meshgrid(edges, edges))
    random = rng.integers(info.min, info.max, (2, 500), dtype=dtype, endpoint=True)
    return np.concatenate([x, random[0]]), np.concatenate([y, random[1]])


INT_BINARY = ["add", "sub", "mul", "div", "rem", "max", "min", "and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge"]
INT_BINARY += ["shift_left", "shift_right_logical", "shift_right_arithmetic"]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint64"])
@pytest.mark.parametrize("name", INT_BINARY)
def test_integer_pairs_equal_jax(name: str, dtype: str, rng: np.random.Generator) -> None:
    x, y = _integers(dtype, rng)
    function = getattr(lax, f"bitwise_{name}" if name in ("and", "or", "xor") else name)
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(function)(x, y))
    np.testing.assert_array_equal(apply(name, x, y, result=expected.dtype.name), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint64"])
@pytest.mark.parametrize("name", ["neg", "abs", "sign", "square", "not", "population_count", "clz", "integer_pow"])
def test_integer_functions_equal_jax(name: str, dtype: str, rng: np.random.Generator) -> None:
    if name == "abs" and dtype.startswith("uint"):
        pytest.skip("lax has no absolute value of unsigned integers")
    x, _ = _integers(dtype, rng)
    functions = {"not": lax.bitwise_not, "integer_pow": lambda v: lax.integer_pow(v, 5)}
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(functions.get(name) or getattr(lax, name))(x))
    np.testing.assert_array_equal(apply(name, x, params=(5,)), expected)


@pytest.mark.parametrize("name", ["and", "or", "xor", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "not"])
def test_booleans_equal_jax(name: str) -> None:
    x, y = np.array([0, 1, 0, 1], np.bool_), np.array([0, 0, 1, 1], np.bool_)
    function = getattr(lax, f"bitwise_{name}" if name in ("and", "or", "xor", "not") else name)
    args = (x,) if name == "not" else (x, y)
    np.testing.assert_array_equal(apply(name, *args), np.asarray(function(*args)))


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
def test_clamp_and_select(dtype: str) -> None:
    low, x, high = (np.array(v, dtype) for v in ([1, 1, 1, 5], [0, 2, 9, 4], [3, 3, 3, 2]))
    np.testing.assert_array_equal(apply("clamp", low, x, high), np.asarray(lax.clamp(low, x, high)))
    b = Builder()
    t = vtype(dtype, 4)
    b.begin("f", [])
    value = emit(b, "select_n", t, ["%condition", "%no", "%yes"])
    b.end()
    assert f"{value} = select <4 x i1> %condition, {t.text} %yes, {t.text} %no" in b.module()


@pytest.mark.parametrize("dst", CONVERTED)
@pytest.mark.parametrize("src", CONVERTED)
def test_conversions_equal_jax(src: str, dst: str, rng: np.random.Generator) -> None:
    if src in FLOATS:
        values = np.concatenate([SPECIAL, [300.7, -300.7, 127.5, 255.9, 2.0**31, 2.0**63, -(2.0**63), 65504.0]])
        with np.errstate(over="ignore"):
            x = values[(np.abs(values) > 1e-4) | (values == 0) | np.isnan(values)].astype(to_numpy(src))
    else:
        x = np.array([0, 1, 1, 0], np.bool_) if src == "bool" else _integers(src, rng)[0]
    with jax.enable_x64(True):
        expected = np.asarray(lax.convert_element_type(jnp.asarray(x), dst))
    got = apply("convert_element_type", x, result=dst)
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


def test_bfloat16_is_rounded_by_hardware_and_by_hand_alike() -> None:
    require("avx512")
    features, lanes = CONFIGURATIONS["avx512"]
    if "+avx512bf16" not in toolchain.host_features().split(","):
        pytest.skip("the processor lacks avx512bf16")
    x = stratified(1 << 16).view(np.float32)
    x = x[(np.abs(x) >= 2.0**-126) & ~np.isnan(x)]  # the instruction flushes denormals
    loops = [
        elementwise("convert_element_type", "float32", lanes, text, result="bfloat16")
        for text in (features + ",-avx512bf16", features + ",+avx512bf16")
    ]
    for loop in loops:
        np.testing.assert_array_equal(loop(x).view(np.uint16), x.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_bits_are_kept() -> None:
    x = SPECIAL[:16]
    np.testing.assert_array_equal(apply("bitcast_convert_type", x, result="int32"), x.view(np.int32))


def test_unsupported_functions_are_refused() -> None:
    b = Builder()
    with pytest.raises(ValueError, match="exp of int32"):
        emit(b, "exp", vtype("int32", 8), ["%x"])
    with pytest.raises(ValueError, match="no_such"):
        emit(b, "no_such", vtype("float32", 8), ["%x"])
    with pytest.raises(ValueError, match="result"):
        emit(b, "convert_element_type", vtype("float32", 8), ["%x"])


def test_targets_without_fused_multiply_add_are_refused() -> None:
    with pytest.raises(ValueError, match="fused multiply-add"):
        emit(Builder(frozenset({"sse4.1"})), "exp", vtype("float32", 4), ["%x"])


def test_float16_needs_its_conversions() -> None:
    b = Builder(frozenset({"avx", "sse4.1"}))
    for name, source, result in (("add", "float16", "float16"), ("convert_element_type", "float32", "float16")):
        with pytest.raises(ValueError, match="converts float16"):
            emit(b, name, vtype(source, 4), ["%x", "%y"], (), vtype(result, 4))


def test_nothing_calls_a_library() -> None:
    """Code for vectors has no undefined symbols: linking fails on one, but a call would also be slow."""
    require("avx2")
    features, lanes = CONFIGURATIONS["avx2"]
    b = Builder(frozenset({"fma", "avx2"}))
    t = vtype("float32", lanes)
    b.begin("f", [("ptr", "%p")])
    for name, dtypes in SUPPORTED.items():
        if "float32" not in dtypes or name not in SIGNATURES or SIGNATURES[name].result != "same" or name == "select_n":
            continue
        x = b.load(t, "%p", 4)
        args = [x] * SIGNATURES[name].arity
        b.store(t, emit(b, name, t, args, (1,)), "%p", 4)
    b.end()
    assert "call" not in toolchain.assembly(b.module(), features=features)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint64"])
@pytest.mark.parametrize("divisor", [1, 3, 7, 100, 0, -1, -5])
def test_division_by_constants_equals_jax(dtype: str, divisor: int, rng: np.random.Generator) -> None:
    """A constant that never traps is divided by at once; the others like any number."""
    if divisor < 0 and dtype.startswith("uint"):
        pytest.skip("unsigned")
    x = _integers(dtype, rng)[0][:256]
    t = vtype(dtype, 8)
    b = Builder(frozenset(toolchain.host_features().replace("+", "").split(",")))
    b.begin("f", [("ptr", "%p"), ("ptr", "%q")])
    value = b.load(t, "%p", 1)
    for number, name in enumerate(("div", "rem")):
        place = b.gep("i8", "%q", 2048 * number)
        b.store(t, emit(b, name, t, [value, b.const(divisor, t)]), place, 1)
    b.end()
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
        link.load(toolchain.object_code(b.module(), features=toolchain.host_features())).address("f")
    )
    out = np.zeros((2, 2048 // x.itemsize), dtype)
    for start in range(0, 256, 8):
        call(x[start:].ctypes.data, out[:, start:].ctypes.data)
    with jax.enable_x64(True):
        for found, function in zip(out, (lax.div, lax.rem), strict=True):
            wanted = jax.jit(lambda v, f=function: f(v, jnp.full_like(v, divisor)))(x)
            np.testing.assert_array_equal(found[:256], np.asarray(wanted))


PLAIN = sorted(
    name
    for name, types in SUPPORTED.items()
    if "float32" in types and name in SIGNATURES and not SIGNATURES[name].params and SIGNATURES[name].result == "same"
)
_FEW = 24
"""Instructions of a function that a box may be full of."""


@pytest.mark.parametrize("name", PLAIN)
def test_functions_of_many_instructions_are_known_as_such(name: str) -> None:
    """Boxes of them become loops; as straight code they would be larger than the caches of instructions."""
    require("avx2")
    b = Builder(frozenset(["avx2", "fma"]))
    t = vtype("float32", 8)
    args = [f"%x{n}" for n in range(SIGNATURES[name].arity)]
    b.begin("f", [(t.text, a) for a in args])
    emit(b, name, t, args)
    b.end()
    instructions = sum(" = " in line for line in b.module().splitlines())
    assert name in POLYNOMIALS or instructions <= _FEW, f"{instructions} instructions"
