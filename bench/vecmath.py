"""Accuracy and speed of the vector math: ``python -m tilewright.bench.vecmath [--full] [functions]``."""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.special

from ..backends.llvm import link, toolchain
from ..backends.llvm.builder import Builder, vtype
from ..backends.llvm.vecmath import emit
from ..ir.dtypes import itemsize, to_numpy

AVX2 = "+sse4.1,+avx,+avx2,+fma,+f16c,-avx512f,-avx512vl,-avx512bw,-avx512dq"
AVX512 = "+sse4.1,+avx,+avx2,+fma,+f16c,+avx512f,+avx512vl,+avx512bw,+avx512dq"
CONFIGURATIONS = {"avx512": (AVX512, 16), "avx2": (AVX2, 8), "scalar": (AVX2, 0)}
"""Feature string and float32 lanes."""

_FLUSH_DENORMALS = 0x9FC0  # MXCSR: exceptions masked, FTZ and DAZ
_SMALLEST_NORMAL = 2.0**-126
_INNER = 100
_CHUNK = 1 << 22


def _logistic(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _lgamma(x: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(x), np.inf, scipy.special.gammaln(x))


def _digamma(x: np.ndarray) -> np.ndarray:
    return np.where((x <= 0) & (x == np.rint(x)), np.nan, scipy.special.psi(x))


REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "cos": np.cos,
    "cosh": np.cosh,
    "digamma": _digamma,
    "erf": scipy.special.erf,
    "erf_inv": lambda x: np.copysign(scipy.special.erfinv(x), x),  # SciPy forgets the sign of zero
    "erfc": scipy.special.erfc,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "lgamma": _lgamma,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": _logistic,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
}
"""The functions of one float32 argument, to be called with float64."""

MAX_ULP: dict[str, float] = {
    "acos": 2.5,
    "acosh": 2.5,
    "asin": 2.6,
    "asinh": 2.5,
    "atan": 1.4,
    "atanh": 2.5,
    "cbrt": 1.0,
    "cos": 1.7,
    "cosh": 2.0,
    "digamma": 0.6,
    "erf": 1.5,
    "erf_inv": 3.0,
    "erfc": 4.2,
    "exp": 1.1,
    "exp2": 1.0,
    "expm1": 1.6,
    "lgamma": 0.6,
    "log": 1.0,
    "log1p": 1.3,
    "logistic": 2.2,
    "rsqrt": 1.5,
    "sin": 1.7,
    "sinh": 2.7,
    "sqrt": 0.5,
    "tan": 1.4,
    "tanh": 1.9,
}
"""Bounds of the error in units in the last place, over all float32 arguments."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A compiled loop ``out[i] = f(args[i])`` over dense arrays."""

    address: int
    lanes: int
    arity: int
    result: str

    def __call__(self, *args: np.ndarray) -> np.ndarray:
        """Apply it to equally long arrays of any length."""
        size = args[0].size
        padded = -(-size // max(self.lanes, 1)) * max(self.lanes, 1)
        buffers = [np.concatenate([a, np.ones(padded - size, a.dtype)]) for a in args]
        out = np.empty(padded, to_numpy(self.result))
        self.run([*buffers, out], padded)
        return out[:size]

    def run(self, buffers: Sequence[np.ndarray], size: int, repeats: int = 1) -> None:
        """Run ``repeats`` times on prepared buffers, the output last; ``size`` is a multiple of the lanes."""
        pointers = (ctypes.c_void_p * len(buffers))(*[a.ctypes.data for a in buffers])
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self.address)
        call(ctypes.addressof(pointers), size, repeats)


@cache
def elementwise(
    name: str,
    dtype: str,
    lanes: int,
    features: str,
    result: str = "",
    arity: int = 1,
    params: tuple[int | str, ...] = (),
    flush: bool = False,
) -> Loop:
    """Compile a loop around one elementwise function.

    Args:
        name: Its name as in ``jax.lax``.
        dtype: Type of the arguments.
        lanes: Vector length, 0 for scalar code.
        features: LLVM feature string.
        result: Type of the result where it differs.
        arity: Number of arguments.
        params: Further parameters, see `emit`.
        flush: Whether denormals are flushed to zero while it runs, as XLA does.
    """
    b = Builder(frozenset(f[1:] for f in features.split(",") if f.startswith("+")))
    t, r, index = vtype(dtype, lanes), vtype(result or dtype, lanes), vtype("int64")
    b.begin("loop", [("ptr", "%bufs"), ("i64", "%n"), ("i64", "%repeats")])
    pointers = [b.value(f"load ptr, ptr {b.gep('ptr', '%bufs', k)}, align 8") for k in range(arity + 1)]
    if flush:
        saved, mode = b.alloca("i32", 4), b.alloca("i32", 4)
        b.call("llvm.x86.sse.stmxcsr", "void", (("ptr", saved),))
        b.store(vtype("uint32"), str(_FLUSH_DENORMALS), mode, 4)
        b.call("llvm.x86.sse.ldmxcsr", "void", (("ptr", mode),))
    b.br("repeat")
    b.label("repeat")
    k = b.phi("i64", "0", "entry")
    b.br("body")
    b.label("body")
    i = b.phi("i64", "0", "repeat")
    args = [b.load(t, b.gep(t.scalar.memory, p, i), itemsize(dtype)) for p in pointers[:-1]]
    value = emit(b, name, t, args, params, r)
    b.store(r, value, b.gep(r.scalar.memory, pointers[-1], i), itemsize(r.dtype))
    following = b.op("add", index, i, str(max(lanes, 1)))
    b.add_incoming(i, following, b.block)
    b.cond_br(b.compare("lt", index, following, "%n"), "body", "again")
    b.label("again")
    following = b.op("add", index, k, "1")
    b.add_incoming(k, following, b.block)
    b.cond_br(b.compare("lt", index, following, "%repeats"), "repeat", "done")
    b.label("done")
    if flush:
        b.call("llvm.x86.sse.ldmxcsr", "void", (("ptr", saved),))
    b.end()
    library = link.load(toolchain.object_code(b.module(), features=features))
    return Loop(library.address("loop"), lanes, arity, result or dtype)


def ulp_error(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units in the last place; infinity counts as the number after the largest, NaN must meet NaN.

    Args:
        got: Results, float32 or float64.
        exact: The true values in a wider type.
    """
    largest = np.nextafter(np.finfo(got.dtype).max, got.dtype.type(0))  # np.spacing of the very largest is infinite
    with np.errstate(all="ignore"):
        unit = np.spacing(np.minimum(np.abs(exact.astype(got.dtype)), largest)).astype(exact.dtype)
        limit = exact.dtype.type(largest) + 2 * exact.dtype.type(np.spacing(largest))
        error = np.abs(np.clip(got, -limit, limit, dtype=exact.dtype) - np.clip(exact, -limit, limit)) / unit
    nan = np.isnan(exact)
    return np.where(nan | np.isnan(got), np.where(nan & np.isnan(got), 0.0, np.inf), error.astype(np.float64))


def nanoseconds(loop: Loop, args: Sequence[np.ndarray], repeats: int = 30) -> float:
    """Best time per vector, with the arrays in the first-level cache."""
    size = args[0].size
    buffers = [*args, np.empty(size, to_numpy(loop.result))]
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter_ns()
        loop.run(buffers, size, _INNER)
        best = min(best, (time.perf_counter_ns() - start) / _INNER)
    return best / (size / max(loop.lanes, 1))


def flushed(x: np.ndarray) -> np.ndarray:
    """``x`` with denormals of float32 replaced by zero."""
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(x.dtype.type(0), x), x)


def worst(name: str, configuration: str, bits: np.ndarray, flush: bool = False) -> tuple[float, float]:
    """Largest error of a float32 function and the argument where it is.

    Args:
        name: A function of `REFERENCES`.
        configuration: A key of `CONFIGURATIONS`.
        bits: The arguments as uint32.
        flush: Run with denormals flushed; then denormal arguments and results are zero.
    """
    features, lanes = CONFIGURATIONS[configuration]
    x = bits.view(np.float32)
    x = flushed(x) if flush else x
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](x.astype(np.float64))
    got = elementwise(name, "float32", lanes, features, flush=flush)(x)
    if flush:
        # The least normal number may be rounded up to or flushed.
        edge = np.abs(exact) <= _SMALLEST_NORMAL * (1 + 2.0**-20)
        got, exact = np.where(edge, flushed(got), got), flushed(exact)
        exact = np.where(edge & (got == 0), 0.0, exact)
    error = ulp_error(got, exact)
    at = int(np.argmax(error))
    return float(error[at]), float(x[at])


def stratified(count: int, seed: int = 0) -> np.ndarray:
    """One random bit pattern out of each of ``count`` equal parts of all float32 numbers."""
    step = 2**32 // count
    offsets = np.random.default_rng(seed).integers(0, step, count, dtype=np.uint64)
    return (np.arange(count, dtype=np.uint64) * step + offsets).astype(np.uint32)


def _all_bits() -> Sequence[range]:
    return [range(start, start + _CHUNK) for start in range(0, 2**32, _CHUNK)]


def _worst_of_all(name: str) -> tuple[float, float]:
    """The largest error over all 2**32 arguments, in chunks."""
    return max(worst(name, "avx512", np.arange(part.start, part.stop, dtype=np.uint32)) for part in _all_bits())


def main() -> None:
    """Print error and time of each function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all 2**32 arguments (minutes per function)")
    parser.add_argument("names", nargs="*", default=sorted(REFERENCES), help="functions, all by default")
    arguments = parser.parse_args()
    sample = stratified(1 << 22)
    values = np.random.default_rng(0).uniform(0.1, 4.0, 2048).astype(np.float32)
    print(f"{'function':10} {'max ULP':>8} {'at':>14}   " + "  ".join(f"ns/{name}" for name in CONFIGURATIONS))
    for name in arguments.names:
        error, at = _worst_of_all(name) if arguments.full else worst(name, "avx512", sample)
        times = [
            nanoseconds(elementwise(name, "float32", lanes, features), [values])
            for features, lanes in CONFIGURATIONS.values()
        ]
        print(f"{name:10} {error:8.3f} {at:14.6g}   " + "  ".join(f"{t:9.2f}" for t in times), flush=True)


if __name__ == "__main__":
    main()
