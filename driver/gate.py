"""The gate: nothing native is returned that is not as accurate as `jax.jit` allows for, and faster than it.

The accuracy contract, per output: the largest error against the same program in float64 is at most twice that of
`jax.jit` plus 16 units in the last place of the largest value; integers and booleans are equal. Speed is decided by
an interleaved, paired comparison with a confidence bound, in the process that will use the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from ..backends.xla import emit, emit_float64
from ..ir import dtypes
from ..ir.graph import Graph
from .references import largest_error, tolerance

MIN_PAIRS = 5
PAIRS = 40
WARM_UP = 2
_ONE_SIDED_95 = 1.645
"""Standard deviations below which a normal variable is with a probability of 95%."""
_SURELY = 4.0
"""Standard errors by which the mean has to gain: times have heavy tails, and it is looked at after each round. Where it
is meant to decide, it gains by many more."""
_STALLED = 1.25
"""How many times as long as the baseline ours may take on the average: over all rounds, noise hardly ever reaches
it where the middle gains."""
_LEFT_OUT = 0.025
"""Share of the longest samples of either that count nothing there: interruptions from outside."""
_SAMPLE_S = 1e-4
"""Shorter programs are called several times per sample: the clock and what goes before a call count less then."""

Run = Callable[..., Sequence[Any]]


def runnable(graph: Graph) -> Run:
    """A graph as a jitted function of its inputs."""
    return jax.jit(jaxpr_as_fun(emit(graph)))


@dataclass(frozen=True, slots=True)
class OutputError:
    """The error of one output.

    Args:
        error: largest absolute error against float64; infinite where special values or integers differ.
        baseline: that of `jax.jit`.
        allowed: the contract's bound.
    """

    error: float
    baseline: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the contract holds."""
        return self.error <= self.allowed


def check_accuracy(native: Run, baseline: Run, original: Graph, examples: Sequence[Any]) -> list[OutputError]:
    """Compare a native program with the float64 reference on given arguments.

    Args:
        native: the program to check.
        baseline: what `jax.jit` makes of the original.
        original: the program as traced; it has no effects.
        examples: its arguments.

    Returns:
        One entry per output.
    """
    exact = emit_float64(original)(*_declared(original, examples))
    usual = [
        np.asarray(x) if _plain(t.dtype) else None
        for x, t in zip(baseline(*examples), original.output_types, strict=True)
    ]
    ours = native(*examples)
    errors = []
    for type_, wide, narrow, mine in zip(original.output_types, exact, usual, ours, strict=True):
        if narrow is None:
            continue
        errors.append(_compare(wide, narrow, np.asarray(mine), type_.dtype))
    return errors


def _declared(graph: Graph, examples: Sequence[Any]) -> list[Any]:
    """Arguments in the types of the program's inputs: without 64 bits, JAX narrows what it is given."""
    types = graph.inputs.values()
    return [
        np.asarray(x, dtypes.to_numpy(t.dtype)) if _plain(t.dtype) else x for x, t in zip(examples, types, strict=True)
    ]


def _plain(dtype: str) -> bool:
    return dtypes.is_known(dtype)


def _compare(wide: np.ndarray, narrow: np.ndarray, mine: np.ndarray, dtype: str) -> OutputError:
    if not dtypes.is_float(dtype) and dtype not in dtypes.COMPLEX:
        return OutputError(0.0 if np.array_equal(narrow, mine) else float("inf"), 0.0, 0.0)
    narrow, mine = (x.astype(wide.dtype) for x in (narrow, mine))
    finite = np.isfinite(narrow)
    special = np.array_equal(narrow[~finite], mine[~finite], equal_nan=True)
    if not special or not np.isfinite(mine[finite]).all():
        return OutputError(float("inf"), 0.0, 0.0)
    usable = finite & np.isfinite(wide)
    error, baseline = largest_error(mine, wide, usable), largest_error(narrow, wide, usable)
    bound = tolerance(wide, narrow, dtype) if dtypes.is_float(dtype) else 2 * baseline
    return OutputError(error, baseline, bound)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired times of the baseline and ours.

    Args:
        baseline_s: seconds of each call of the baseline.
        native_s: seconds of ours right before or after it.
    """

    baseline_s: tuple[float, ...]
    native_s: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Median of the paired ratios; their geometric mean where that one decides."""
        by_mean = self.gains and self.lower_bound <= 1.0
        return float(np.exp(np.log(self._ratios()).mean()) if by_mean else np.median(self._ratios()))

    @property
    def lower_bound(self) -> float:
        """Lower end of a confidence interval of the median ratio (order statistics, at least 95%, one-sided)."""
        return float(np.sort(self._ratios())[self._rank()])

    @property
    def upper_bound(self) -> float:
        """Upper end of such an interval."""
        return float(np.sort(self._ratios())[-1 - self._rank()])

    @property
    def mean_bound(self) -> float:
        """What the geometric mean of the ratios surely reaches; 0 of fewer pairs than a round has."""
        logs = np.log(self._ratios())
        if len(logs) < PAIRS:
            return 0.0
        return float(np.exp(logs.mean() - _SURELY * logs.std(ddof=1) / np.sqrt(len(logs))))

    @property
    def gains(self) -> bool:
        """Whether ours is surely faster: in the middle, or on the average and not surely slower in the middle.

        XLA hands programs that it does not take for cheap to a thread of its own. Where that one sleeps, a call of 6
        microseconds takes 30, and about half of the pairs may be such ones: then the middle says nothing.
        """
        faster = self.lower_bound > 1.0 or (self.mean_bound > 1.0 and self.upper_bound >= 1.0)
        return faster and not self.stalls

    @property
    def stalls(self) -> bool:
        """Whether ours now and then takes so long that it is clearly slower on the average, however fast in the middle.

        Where other threads spin, as those of LAPACK do after a call, a thread that is waited for may get its turn after
        milliseconds.
        """
        ours, usual = (_mean_but_longest(times) for times in (self.native_s, self.baseline_s))
        return ours > _STALLED * usual

    @property
    def open(self) -> bool:
        """Whether either program may be the faster one, or ours but for stalls."""
        return not self.gains and self.upper_bound >= 1.0

    def _rank(self) -> int:
        count = len(self.native_s)
        return max(int(np.floor((count - _ONE_SIDED_95 * np.sqrt(count)) / 2)), 0)

    def _ratios(self) -> np.ndarray:
        return np.asarray(self.baseline_s) / np.asarray(self.native_s)


def _mean_but_longest(times: Sequence[float]) -> float:
    left_out = math.ceil(_LEFT_OUT * len(times))
    return float(np.sort(times)[: len(times) - left_out].mean()) if len(times) > left_out else 0.0


def compare_speed(native: Run, baseline: Run, examples: Sequence[Any], seconds: float, rounds: int = 1) -> Comparison:
    """Time two programs in turn, in alternating order.

    Args:
        native: ours.
        baseline: what `jax.jit` makes of the original.
        examples: arguments for both.
        seconds: stop after about this time, with at least a few pairs.
        rounds: of `PAIRS` pairs each; another one begins only while it is open which program is faster.
    """
    runs = (baseline, native)
    usual = [min(_timed(run, examples) for _ in range(WARM_UP)) for run in runs]
    calls = math.ceil(_SAMPLE_S / max(*usual, 1e-6))
    found = Comparison((), ())
    started = time.perf_counter()
    for pairs in range(1, rounds * PAIRS + 1):
        pair = [0.0, 0.0]
        for which in (0, 1) if pairs % 2 else (1, 0):
            pair[which] = _timed(runs[which], examples, calls)
        found = Comparison((*found.baseline_s, pair[0]), (*found.native_s, pair[1]))
        late = pairs >= MIN_PAIRS and time.perf_counter() - started > seconds
        if late or (pairs % PAIRS == 0 and not found.open):
            break
    return found


def _timed(run: Run, examples: Sequence[Any], calls: int = 1) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run(*examples))
    return (time.perf_counter() - start) / calls
