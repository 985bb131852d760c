"""One process of the A/B benchmark: compiles a model both ways, times them alternately, prints one line of JSON.

Started by `tilewright.bench.ab`, which sets the allocator's mode in the environment before the process exists.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .models import Args, ModelCase, load_model, model_names

_WARM_UP = 4  # untimed pairs; even, so that the timed ones stay balanced
CANDIDATES = ("tilewright", "jit")


@dataclass(frozen=True, slots=True)
class ChildResult:
    """What one process measured.

    Attributes:
        baseline_ms: Times of `jax.jit(fn)`, alternating with the candidate's.
        candidate_ms: Times of the candidate; equal positions form a pair with the same input values.
        alone_ms: Times of `jax.jit(fn)` before the candidate existed in the process: if these are clearly below
            `baseline_ms`, the candidate disturbs its baseline.
        baseline_compile_s: Seconds of the first call of `jax.jit(fn)`, tracing included.
        candidate_compile_s: Seconds of the candidate's compilation and first call.
        accuracy: For each input and output the errors against float64, as fields of `reference.Accuracy` with `limit`.
        explanation: What the candidate says about itself; empty where it has no `report()`.
    """

    baseline_ms: list[float]
    candidate_ms: list[float]
    alone_ms: list[float]
    baseline_compile_s: float
    candidate_compile_s: float
    accuracy: list[dict[str, float]]
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """What one process has to do; `budget` and `database` of None leave the choice to `tilewright.compile`."""

    model: str
    candidate: str = "tilewright"
    effort: int = 1
    budget: str | None = None
    database: str | None = None
    rounds: int = 30
    accuracy_inputs: int = 2
    seed: int = 0

    def arguments(self) -> list[str]:
        """The command line that `main` reads back to these options."""
        found: list[str] = []
        for name, value in asdict(self).items():
            if value is not None:
                found += [f"--{name.replace('_', '-')}", str(value)]
        return found


def measure(options: ChildOptions) -> ChildResult:
    """Compile both sides, compare their accuracy and time them alternately."""
    import jax

    case = load_model(options.model)
    rng = np.random.default_rng(options.seed)
    baseline = jax.jit(case.fn)
    baseline_compile_s = _first_call(baseline, case, rng)
    alone_ms = [_time_ms(baseline, _fresh(case.make_input(rng))) for _ in range(_WARM_UP + options.rounds)][_WARM_UP:]
    start = time.perf_counter()
    candidate = _candidate(case, options)
    candidate_compile_s = time.perf_counter() - start + _first_call(candidate, case, rng)
    accuracy = _accuracy(case, candidate, baseline, options.accuracy_inputs, rng)
    baseline_ms, candidate_ms = _alternate(baseline, candidate, case, options.rounds, rng)
    return ChildResult(
        baseline_ms,
        candidate_ms,
        alone_ms,
        baseline_compile_s,
        candidate_compile_s,
        accuracy,
        explanation=str(candidate.report()) if hasattr(candidate, "report") else "",
    )


def _candidate(case: ModelCase, options: ChildOptions) -> Any:
    if options.candidate == "jit":
        import jax

        return jax.jit(lambda *args: case.fn(*args))  # another function object: a second executable of the same code
    from ..compiler import compile as compile_function

    return compile_function(case.fn, effort=options.effort, budget=options.budget, database=options.database)


def _first_call(fn: Callable[..., Any], case: ModelCase, rng: np.random.Generator) -> float:
    args = _fresh(case.make_input(rng))
    return _time_ms(fn, args) / 1000


def _fresh(args: Args) -> list[Any]:
    """Device arrays in memory of their own."""
    import jax
    import jax.numpy as jnp

    return jax.block_until_ready([jnp.array(value) for value in args])


def _time_ms(fn: Callable[..., Any], args: Sequence[Any]) -> float:
    import jax

    start = time.perf_counter_ns()
    outputs = jax.block_until_ready(fn(*args))
    elapsed = time.perf_counter_ns() - start
    del outputs  # freed outside of the time, for both sides alike
    return elapsed / 1e6


def _alternate(
    baseline: Callable[..., Any], candidate: Callable[..., Any], case: ModelCase, rounds: int, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Time both on the same values, in arrays of their own, in the drawn order."""
    times: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for first in _who_goes_first(_WARM_UP + rounds, rng):
            values = case.make_input(rng)
            args = _fresh(values), _fresh(values)
            for side in (first, 1 - first):
                times[side].append(_time_ms((baseline, candidate)[side], args[side]))
    finally:
        gc.enable()
    return times[0][_WARM_UP:], times[1][_WARM_UP:]


def _who_goes_first(pairs: int, rng: np.random.Generator) -> list[int]:
    """The side (0 or 1) that starts each pair: random, but each side once in any two pairs.

    Whoever goes first is 1 to 5% slower (it runs after an idle moment), which must not count for or against a side.
    """
    found: list[int] = []
    while len(found) < pairs:
        first = int(rng.integers(2))
        found += [first, 1 - first]
    return found[:pairs]


def _accuracy(
    case: ModelCase, candidate: Callable[..., Any], baseline: Callable[..., Any], inputs: int, rng: np.random.Generator
) -> list[dict[str, float]]:
    from .reference import compare, reference

    found = []
    for _ in range(inputs):
        args = case.make_input(rng)
        exact = reference(case.fn, args)
        for accuracy in compare(candidate(*_fresh(args)), baseline(*_fresh(args)), exact):
            found.append({**asdict(accuracy), "limit": accuracy.limit})
    return found


def _parse(arguments: Sequence[str] | None) -> ChildOptions:
    parser = argparse.ArgumentParser(prog="python -m tilewright.bench.child", description=__doc__)
    parser.add_argument("--model", required=True, choices=model_names())
    parser.add_argument("--candidate", choices=CANDIDATES, default="tilewright")
    parser.add_argument("--effort", type=int, default=1, choices=range(4))
    parser.add_argument("--budget", help="tuning time, for example 60s")
    parser.add_argument("--database", help="path or URL of the tuning database")
    parser.add_argument("--rounds", type=int, default=30, help="pairs to time")
    parser.add_argument("--accuracy-inputs", type=int, default=2, help="inputs to compare with float64")
    parser.add_argument("--seed", type=int, default=0, help="decides inputs and order, never the weights")
    return ChildOptions(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says and print a `ChildResult` as JSON."""
    options = _parse(arguments)
    with contextlib.redirect_stdout(sys.stderr):  # progress of libraries must not mix with the result
        result = measure(options)
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
