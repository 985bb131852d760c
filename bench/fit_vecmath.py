"""Fits the polynomials of `vecmath_coeffs` and `vecmath_coeffs64`: ``python -m tilewright.bench.fit_vecmath``.

Remez's exchange algorithm in 50-digit decimal arithmetic. Coefficients are rounded to the working precision one after
the other, lowest power first, and the others fitted again around each rounded one, so that rounding costs little.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, getcontext, localcontext
from functools import cache

getcontext().prec = 80
Function = Callable[[Decimal], Decimal]
_ONE = Decimal(1)
LN2 = Decimal(2).ln()


@dataclass(frozen=True, slots=True)
class Problem:
    """One polynomial ``sum(c[p] * x**p for p in powers)`` close to ``f`` on an interval.

    Attributes:
        name: Name of the table.
        f: The function to approximate.
        powers: Powers of x, ascending.
        low: Lower end of the interval.
        high: Upper end of the interval.
        weight: The error is divided by this.
        bits: Precision of the coefficients, 24 or 53.
    """

    name: str
    f: Function
    powers: Sequence[int]
    low: Decimal
    high: Decimal
    weight: Function = lambda _: _ONE
    bits: int = 24


def solve(matrix: list[list[Decimal]], right: list[Decimal]) -> list[Decimal]:
    """Gauss elimination with partial pivoting."""
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, n):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    out = [Decimal(0)] * n
    for i in reversed(range(n)):
        out[i] = (rows[i][n] - sum(rows[i][j] * out[j] for j in range(i + 1, n))) / rows[i][i]
    return out


def remez(
    xs: Sequence[Decimal], ys: Sequence[Decimal], ws: Sequence[Decimal], powers: Sequence[int]
) -> tuple[list[Decimal], Decimal]:
    """Minimax coefficients on the grid ``xs`` and their largest weighted error."""
    n = len(powers)
    nodes = [round((len(xs) - 1) * (1 - math.cos(math.pi * i / n)) / 2) for i in range(n + 1)]
    table = [[x**p for p in powers] for x in xs]
    best: tuple[list[Decimal], Decimal] = ([], Decimal("Infinity"))
    for _ in range(30):
        matrix = [[*table[i], ws[i] * (-1) ** k] for k, i in enumerate(nodes)]
        *coeffs, level = solve(matrix, [ys[i] for i in nodes])
        errors = [
            (sum(c * v for c, v in zip(coeffs, row, strict=True)) - y) / w
            for row, y, w in zip(table, ys, ws, strict=True)
        ]
        worst = max(abs(e) for e in errors)
        best = min(best, (coeffs, worst), key=lambda candidate: candidate[1])
        exchanged = _exchange(errors, n + 1)
        # Around a rounded coefficient the error need not alternate often enough: then this is as good as it gets.
        if worst <= abs(level) * Decimal("1.0005") or exchanged is None:
            break
        nodes = exchanged
    return best


def _exchange(errors: Sequence[Decimal], count: int) -> list[int] | None:
    """Positions of the ``count`` largest alternating extrema of the error, None if there are fewer."""
    extrema: list[int] = []
    for i, error in enumerate(errors):
        if extrema and (errors[extrema[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[extrema[-1]]):
                extrema[-1] = i
        else:
            extrema.append(i)
    while len(extrema) > count:
        if len(extrema) == count + 1:
            extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
        else:
            i = min(range(len(extrema) - 1), key=lambda k: max(abs(errors[e]) for e in extrema[k : k + 2]))
            del extrema[i : i + 2]
    return extrema if len(extrema) == count else None


def rounded(value: Decimal, bits: int) -> float:
    """``value`` to float32 (24 bits) or float64 (53)."""
    number = float(value)
    return struct.unpack("<f", struct.pack("<f", number))[0] if bits == 24 else number


def fit(problem: Problem, points: int = 500) -> tuple[list[float], float]:
    """Rounded coefficients, lowest power first, and the largest weighted error that they leave."""
    xs = [
        (problem.low + problem.high - (problem.high - problem.low) * Decimal(math.cos(math.pi * i / points))) / 2
        for i in range(points + 1)
    ]
    xs = [x for x in xs if x != 0]
    full = [problem.f(x) for x in xs]
    ws = [abs(problem.weight(x)) for x in xs]
    rest = list(full)
    powers, done = list(problem.powers), []
    while powers:
        coeffs, _ = remez(xs, rest, ws, powers)
        done.append(rounded(coeffs[0], problem.bits))
        rest = [y - Decimal(done[-1]) * x ** powers[0] for x, y in zip(xs, rest, strict=True)]
        powers.pop(0)
    error = max(abs(y / w) for y, w in zip(rest, ws, strict=True))
    return done, float(error)


def _arctan_inverse(n: int) -> Decimal:
    """``arctan(1 / n)`` to the context's precision."""
    power, total, k = _ONE / n, _ONE / n, 1
    while abs(power) > Decimal(10) ** -getcontext().prec:
        power, k = -power / (n * n), k + 2
        total += power / k
    return total


def erfc(x: Decimal) -> Decimal:
    """Complementary error function up to 28, from erf's series without cancellation and enough digits to subtract."""
    with localcontext() as context:
        context.prec = 120 if x < 10 else 440
        term, total, k = x, x, 0
        while term > total * Decimal(10) ** (2 - context.prec):
            k += 1
            term *= 2 * x * x / (2 * k + 1)
            total += term
        return 1 - 2 / _pi().sqrt() * (-x * x).exp() * total


@cache
def _pi() -> Decimal:
    """Machin's formula."""
    with localcontext() as context:
        context.prec = 450
        return 4 * (4 * _arctan_inverse(5) - _arctan_inverse(239))


def _erfc_mapped(t: Decimal) -> Decimal:
    """``(a + 3/2) exp(a**2) erfc(a)`` with ``t = (a - 3/2) / (a + 3/2)``."""
    a = Decimal("1.5") * (1 + t) / (1 - t)
    return (a + Decimal("1.5")) * erfc(a) * (a * a).exp()


def _erf_ratio(z: Decimal) -> Decimal:
    """``erf(x) / x`` of ``z = x**2``."""
    return (1 - erfc(z.sqrt())) / z.sqrt()


def erfc_inverse(c: Decimal) -> Decimal:
    """The y with ``erfc(y) = c``, for c in (0, 1]: Newton's method, first in float64."""
    small = float(c)
    y = math.sqrt(max(-math.log(small), 0.0))
    for _ in range(60):
        y += (math.erfc(y) - small) * math.exp(y * y) * math.sqrt(math.pi) / 2
    exact = Decimal(y)
    for _ in range(2):
        exact += (erfc(exact) - c) * (exact * exact).exp() * _pi().sqrt() / 2
    return exact


def _erf_inv_ratio(w: Decimal) -> Decimal:
    """``erf_inv(x) / x`` of ``w = -log(1 - x**2)``."""
    x = (1 - (-w).exp()).sqrt()
    return erfc_inverse((-w).exp() / (1 + x)) / x


def _erf_inv_root(s: Decimal) -> Decimal:
    """The same of ``s = sqrt(w)``."""
    return _erf_inv_ratio(s * s)


def _around(middle: str, f: Function) -> Function:
    """A function of the distance from a number."""
    return lambda t: f(Decimal(middle) + t)


def _expm1_tail(x: Decimal) -> Decimal:
    return (x.exp() - 1 - x) / (x * x) if abs(x) > Decimal("1e-15") else Decimal("0.5") + x / 6


def _expm1_ratio(x: Decimal) -> Decimal:
    return _ONE + x * _expm1_tail(x)


def _log1p_tail(x: Decimal) -> Decimal:
    return ((1 + x).ln() - x + x * x / 2) / x**3 if abs(x) > Decimal("1e-12") else _ONE / 3 - x / 4


def _series(x: Decimal, k: int, x_squared_factor: Callable[[int], Decimal]) -> Decimal:
    """``sum`` of terms that start at ``x`` and are multiplied by a factor that depends on their index."""
    term, total = x, x
    while abs(term) > Decimal("1e-52"):
        term *= x_squared_factor(k)
        total += term
        k += 1
    return total


def _sin_tail(z: Decimal) -> Decimal:
    """``(sin(x) / x - 1) / z`` of ``z = x**2``."""
    return _series(-_ONE / 6, 2, lambda k: -z / (2 * k * (2 * k + 1)))


def _cos_tail(z: Decimal) -> Decimal:
    """``(cos(x) - 1 + z / 2) / z**2`` of ``z = x**2``."""
    return _series(_ONE / 24, 3, lambda k: -z / ((2 * k - 1) * (2 * k)))


def _atan_tail(z: Decimal) -> Decimal:
    """``(atan(x) / x - 1) / z`` of ``z = x**2``, up to 1: three half-angle steps, then the series."""
    x = y = z.sqrt()
    for _ in range(3):
        y = y / (1 + (1 + y * y).sqrt())
    power, total, k = y, y, 1
    while abs(power) > Decimal("1e-52"):
        power, k = -power * y * y, k + 2
        total += power / k
    return (8 * total / x - 1) / z


def _log_quotient(z: Decimal) -> Decimal:
    """``log((1 + s) / (1 - s)) / (2 s)`` of ``z = s**2``."""
    s = z.sqrt()
    return ((1 + s) / (1 - s)).ln() / (2 * s)


def _cos_weight(z: Decimal) -> Decimal:
    return (1 - z / 2) / z**2 + _cos_tail(z)


_HALF_LN2 = LN2 / 2 * Decimal("1.0001")
_QUARTER_PI_SQUARED = (_pi() / 4 * Decimal("1.0001")) ** 2
_TINY = Decimal("1e-8")


def problems() -> list[Problem]:
    """Every polynomial that vecmath uses."""
    d = Decimal
    return [
        Problem("EXP", lambda x: x.exp(), range(7), -_HALF_LN2, _HALF_LN2, lambda x: x.exp()),
        Problem("EXPM1_SHORT", _expm1_ratio, range(3), -LN2 / 32, LN2 / 32, _expm1_ratio),
        Problem("EXP2", lambda x: (x * LN2).exp(), range(7), d("-.5"), d(".5"), lambda x: (x * LN2).exp()),
        Problem("EXPM1", _expm1_tail, range(5), -_HALF_LN2, _HALF_LN2, lambda x: (x.exp() - 1) / x**2),
        Problem("LOG1P_TAIL", _log1p_tail, range(8), d("-.2501"), d(".5001"), lambda x: (1 + x).ln() / x**3),
        Problem("LOG1P_TAIL_WIDE", _log1p_tail, range(12), d("-.2501"), d(".5001"), lambda x: (1 + x).ln() / x**3, 53),
        Problem("SIN_TAIL", _sin_tail, range(4), _TINY, _QUARTER_PI_SQUARED, lambda z: 1 / z + _sin_tail(z)),
        Problem("COS_TAIL", _cos_tail, range(4), _TINY, _QUARTER_PI_SQUARED, _cos_weight),
        Problem("SIN_TAIL_WIDE", _sin_tail, range(5), _TINY, _QUARTER_PI_SQUARED, lambda z: 1 / z + _sin_tail(z), 53),
        Problem("COS_TAIL_WIDE", _cos_tail, range(5), _TINY, _QUARTER_PI_SQUARED, _cos_weight, 53),
        Problem("ATAN_TAIL", _atan_tail, range(10), _TINY, _ONE, lambda z: 1 / z + _atan_tail(z)),
        Problem("EXP2_SHORT", lambda x: (x * LN2).exp(), range(6), d("-.5"), d(".5"), lambda x: (x * LN2).exp()),
        Problem("ERF_SMALL", lambda z: _erf_ratio(z) - 1, range(7), d("1e-12"), _ONE, _erf_ratio),
        Problem("ERF_LARGE", lambda x: erfc(x).ln() / LN2, range(7), _ONE, d(4), lambda x: 1 / erfc(x)),
        Problem("ERFC", _erfc_mapped, range(12), -_ONE, d("8.6") / d("11.6"), _erfc_mapped),
        _erf_inv_problem("ERF_INV_SMALL", _erf_inv_ratio, "2.5", "2.5", 11, 24),
        _erf_inv_problem("ERF_INV_LARGE", _erf_inv_root, "3.1", "0.9", 11, 24),
        *_float64_problems(),
    ]


def _float64_problems() -> list[Problem]:
    """The polynomials of float64 functions."""
    d, low, high = Decimal, -_HALF_LN2, _HALF_LN2
    log_end = d("0.0401")  # of f between -0.25 and 0.5, s = f / (2 + f)
    return [
        Problem("EXP_64", lambda x: x.exp(), range(13), low, high, lambda x: x.exp(), 53),
        Problem("EXP2_64", lambda x: (x * LN2).exp(), range(13), d("-.5"), d(".5"), lambda x: (x * LN2).exp(), 53),
        Problem("EXPM1_64", _expm1_tail, range(12), low, high, lambda x: (x.exp() - 1) / x**2, 53),
        Problem("LOG_64", lambda z: 2 * (_log_quotient(z) - 1) / z, range(8), _TINY, log_end, lambda z: 1 / z, 53),
        Problem(
            "LOG_LONG", lambda z: (_log_quotient(z) - 1 - z / 3) / z**2, range(8), _TINY, log_end, lambda z: z**-2, 53
        ),
        Problem("SIN_TAIL_64", _sin_tail, range(6), _TINY, _QUARTER_PI_SQUARED, lambda z: 1 / z + _sin_tail(z), 53),
        Problem("COS_TAIL_64", _cos_tail, range(6), _TINY, _QUARTER_PI_SQUARED, _cos_weight, 53),
        Problem("ATAN_TAIL_64", _atan_tail, range(21), _TINY, _ONE, lambda z: 1 / z + _atan_tail(z), 53),
        Problem("CBRT_INVERSE", _cube_root_inverse, range(6), d(".374"), d("3.001"), _cube_root_inverse, 53),
        Problem("ERF_SMALL_64", lambda z: _erf_ratio(z) - 1, range(13), d("1e-12"), _ONE, _erf_ratio, 53),
        Problem("ERF_LARGE_64", lambda x: erfc(x).ln() / LN2, range(18), _ONE, d(6), lambda x: 1 / erfc(x), 53),
        Problem("ERFC_64", _erfc_mapped, range(27), -_ONE, d("25.8") / d("28.8"), _erfc_mapped, 53),
        _erf_inv_problem("ERF_INV_SMALL_64", _erf_inv_ratio, "3.125", "3.125", 23, 53),
        _erf_inv_problem("ERF_INV_MIDDLE_64", _erf_inv_root, "3.25", "0.751", 19, 53),
        _erf_inv_problem("ERF_INV_LARGE_64", _erf_inv_root, "5.01", "1.011", 17, 53),
    ]


def _erf_inv_problem(name: str, f: Function, middle: str, width: str, count: int, bits: int) -> Problem:
    """A polynomial around the middle of an interval, up to its ends."""
    end = Decimal(width) - (_TINY if middle == width else 0)
    around = _around(middle, f)
    return Problem(name, around, range(count), -end, Decimal(width), around, bits)


def erfc_pieces(points: int = 60) -> list[tuple[float, ...]]:
    """Polynomials of ``exp(a**2) erfc(a)`` by pieces, see `vecmath_erfc_table`.

    Returns:
        Rows of 16 numbers, one per piece: their middles, then a row per coefficient.
    """
    columns: dict[int, list[float]] = {}
    for octave, quarter in itertools.product(range(4), range(4)):
        low, high = (Decimal(2) ** octave * (4 + quarter + n) / 4 - 1 for n in (0, 1))
        middle, half = (low + high) / 2, (high - low) / 2
        xs = [half * Decimal(math.cos(math.pi * i / points)) for i in range(points + 1)]
        ys = [erfc(middle + x) * ((middle + x) ** 2).exp() for x in xs]
        # The lowest bits of the exponent of 1 are ones.
        place = 4 * ((octave + 3) % 4) + quarter
        columns[place] = [rounded(value, 24) for value in (middle, *remez(xs, ys, ys, range(6))[0])]
    return list(zip(*(columns[place] for place in range(16)), strict=True))


def _cube_root_inverse(x: Decimal) -> Decimal:
    return (-x.ln() / 3).exp()


def _turns_64() -> tuple[tuple[float, ...], ...]:
    """What float64 angles of each size are multiplied by, see `vecmath_trig64`."""
    rows: list[list[float]] = []
    with localcontext() as context:
        context.prec = 440
        for row in range(64):
            rest, parts = Decimal(2) ** (16 * row - 52) / (2 * _pi()) % 1, list[float]()
            for _ in range(4):
                parts.append(float(rest))
                rest -= Decimal(parts[-1])
            rows.append(parts)
    return tuple(zip(*rows, strict=True))


def main() -> None:
    """Print the tables as Python source."""
    rest, parts = 1 / (2 * _pi()), []
    for _ in range(4):
        parts.append(float(rest))
        rest -= Decimal(parts[-1])
    print(f"# 1 / (2 pi) in four parts\nTURNS = {tuple(parts)!r}")
    print(f"# 2**(16 row - 52) / (2 pi) modulo 1 in four parts: a column per part\nTURNS_64 = {_turns_64()!r}")
    print(f"# exp(a**2) erfc(a) by pieces: a row of middles, then one per coefficient\nERFC_PIECES = {erfc_pieces()!r}")
    for problem in problems():
        coeffs, error = fit(problem)
        print(f"# relative error 2**{math.log2(error):.1f}")
        print(f"{problem.name} = (")
        for value in coeffs:
            print(f"    {value!r},")
        print(")")


if __name__ == "__main__":
    main()
