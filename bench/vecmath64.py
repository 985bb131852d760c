"""Accuracy and speed of float64 vector math: ``python -m tilewright.bench.vecmath64 [functions]``.

The references are the C library's in 80-bit floats, and for error functions decimal arithmetic.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from decimal import Decimal

import numpy as np

from .fit_vecmath import erfc as decimal_erfc
from .fit_vecmath import erfc_inverse
from .vecmath import CONFIGURATIONS, REFERENCES, elementwise, nanoseconds, ulp_error

_SMALLEST_NORMAL = 2.0**-1022
_ERFC_ZERO = 27.5
_PI = "3.14159265358979323846264338327950288419716939937510582097494"
Wide = np.ndarray


def _erfc_at(x: float) -> Decimal:
    tail = decimal_erfc(Decimal(abs(x))) if abs(x) < _ERFC_ZERO else Decimal(0)
    return 2 - tail if x < 0 else tail


def _erf_at(x: float) -> Decimal:
    if abs(x) > 1e-12:
        return 1 - _erfc_at(x)
    exact = Decimal(x)
    return exact * (1 - exact * exact / 3) * 2 / Decimal(_PI).sqrt()


def _erf_inv_at(x: float) -> Decimal:
    if abs(x) >= 1:
        return Decimal("Infinity").copy_sign(Decimal(x)) if abs(x) == 1 else Decimal("NaN")
    if abs(x) > 1e-12:
        return erfc_inverse(1 - Decimal(abs(x))).copy_sign(Decimal(x))
    exact = Decimal(x) * Decimal(_PI).sqrt() / 2
    return exact * (1 + exact * exact / 3)


def _decimal(function: Callable[[float], Decimal]) -> Callable[[Wide], Wide]:
    """The function of 80-bit floats that are float64 numbers."""

    def each(value: float) -> np.longdouble:
        if np.isnan(value):
            return np.longdouble(value)
        exact = function(value)
        if not exact.is_finite():
            return np.longdouble(float(exact))
        return np.longdouble(float(exact)) + np.longdouble(float(exact - Decimal(float(exact))))

    return lambda x: np.array([each(float(v)) for v in x], np.longdouble)


GAMMA = ("digamma", "lgamma")
"""Functions whose error is small beside 1 where they are near zero: units in the last place say nothing there."""

REFERENCES_64: dict[str, Callable[[Wide], Wide]] = {
    **{name: function for name, function in REFERENCES.items() if name not in GAMMA},
    "erf": _decimal(_erf_at),
    "erf_inv": _decimal(_erf_inv_at),
    "erfc": _decimal(_erfc_at),
}
"""The functions of one float64 argument, to be called with 80-bit floats."""

SLOW = frozenset(("erf", "erf_inv", "erfc"))
"""Functions whose references take a millisecond per argument."""

MAX_ULP_64: dict[str, float] = {
    "acos": 2.5,
    "acosh": 2.5,
    "asin": 2.6,
    "asinh": 2.5,
    "atan": 1.6,
    "atanh": 2.5,
    "cbrt": 1.0,
    "cos": 1.0,
    "cosh": 2.0,
    "erf": 1.5,
    "erf_inv": 4.0,
    "erfc": 3.0,
    "exp": 1.0,
    "exp2": 1.0,
    "expm1": 2.2,
    "log": 1.0,
    "log1p": 1.2,
    "logistic": 2.0,
    "rsqrt": 1.5,
    "sin": 1.0,
    "sinh": 2.7,
    "sqrt": 0.501,
    "tan": 2.5,
    "tanh": 2.3,
}
"""Bounds of the error in units in the last place, as far as it was sampled."""


def arguments(count: int, seed: int = 0) -> np.ndarray:
    """Numbers of all sizes, and many where the functions are hard: near 0, 1, multiples of pi/4 and overflow."""
    rng = np.random.default_rng(seed)
    part = max(count // 8, 1)
    return np.concatenate(
        [
            (rng.integers(0, 2**64, part, dtype=np.uint64) & np.uint64(0xFFEFFFFFFFFFFFFF)).view(np.float64),
            rng.standard_normal(part),
            rng.uniform(-30, 30, part),
            rng.uniform(-750, 750, part),
            rng.uniform(-1, 1, part),
            np.exp(rng.uniform(-40, 5, part)),
            1 + rng.standard_normal(part) * 1e-3,
            rng.integers(-(10**6), 10**6, part) * (np.pi / 4),
        ]
    )


def worst(name: str, configuration: str, x: np.ndarray, flush: bool = False) -> tuple[float, float]:
    """Largest error of a function in units in the last place, and the argument where it is.

    Args:
        name: A function of `REFERENCES_64`.
        configuration: A key of `CONFIGURATIONS`.
        x: The arguments.
        flush: Run with denormals flushed, leaving out arguments and results that are denormal.
    """
    features, lanes = CONFIGURATIONS[configuration]
    with np.errstate(all="ignore"):
        exact = REFERENCES_64[name](x.astype(np.longdouble))
    normal = ~((np.abs(exact) < 2 * _SMALLEST_NORMAL) & (exact != 0)) & ((x == 0) | (np.abs(x) >= _SMALLEST_NORMAL))
    got = elementwise(name, "float64", lanes // 2, features, flush=flush)(x)
    error = np.where(normal, ulp_error(got, exact), 0.0) if flush else ulp_error(got, exact)
    at = int(np.argmax(error))
    return float(error[at]), float(x[at])


def main() -> None:
    """Print error and time of each function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=sorted(REFERENCES_64), help="functions, all by default")
    values = np.random.default_rng(0).uniform(0.1, 0.9, 2048)
    print(f"{'function':10} {'max ULP':>8} {'at':>14}   " + "  ".join(f"ns/{name}" for name in CONFIGURATIONS))
    for name in parser.parse_args().names:
        error, at = worst(name, "avx512", arguments(1 << (12 if name in SLOW else 20)))
        times = [
            nanoseconds(elementwise(name, "float64", lanes // 2, features), [values])
            for features, lanes in CONFIGURATIONS.values()
        ]
        print(f"{name:10} {error:8.3f} {at:14.6g}   " + "  ".join(f"{t:9.2f}" for t in times), flush=True)


if __name__ == "__main__":
    main()
