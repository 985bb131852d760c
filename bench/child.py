"""A child process of the benchmark: `jax.jit` and ours side by side on one row, timed on request.

Started by `sessions.Session`, which sets the allocator's mode in the environment before the process exists.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from operator import methodcaller
from typing import Any

import jax
import numpy as np

from ..frontends.jaxpr import to_graph
from ..ir.graph import Graph
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES
from .cases import SUITES, Case, load_case
from .counts import product_flops, tree_bytes
from .messages import JIT, AnyRequest, Describe, Description, Done, Error, Export, Prepare, Prepared, Reply, Time, Timed
from .problem import write_problem
from .reference import compare, reference
from .serving import serve
from .timing import Stopwatch
from .workloads.base import Workload, chain

_CACHED_INPUTS = 4


@dataclass(frozen=True, slots=True)
class _Side:
    """A side that is ready.

    Attributes:
        once: One call of the row's function.
        timed: What is timed: the same, or a chain of calls.
        explain: How it runs and what it says about itself.
        wait: Waits for the results.
        stopwatch: Times it.
    """

    once: Callable[..., Any]
    timed: Callable[..., Any]
    explain: Callable[[], tuple[str, str]] = lambda: ("", "")
    wait: Callable[[Any], Any] = jax.block_until_ready
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def forms(self) -> list[Callable[..., Any]]:
        """Everything of it whose results are checked."""
        return [self.once] if self.once is self.timed else [self.once, self.timed]


class Child:
    """Answers the requests about one row.

    Args:
        case: The row.
        seed: Decides the inputs.
        pool: How many different inputs take turns.
    """

    def __init__(self, case: Case, seed: int, pool: int) -> None:
        self._case = case
        self._seed = seed
        self._pool = pool
        self._sides: dict[str, _Side] = {}
        self._inputs: dict[int, tuple[np.ndarray, ...]] = {}
        self._references: dict[int, list[tuple[Any, list[np.ndarray]]]] = {}

    def answer(self, request: AnyRequest) -> Reply:
        """Do what a request asks for."""
        match request:
            case Time():
                return Timed(milliseconds=self._time(request.side, request.round))
            case Prepare():
                return self._prepare(request)
            case Describe():
                return self._describe()
            case Export():
                return self._export(request)

    def _time(self, name: str, number: int) -> float:
        side, args = self._sides[name], _fresh(self._input(number))
        call, wait = side.timed, side.wait
        return side.stopwatch.sample(lambda: wait(call(*args))) / self._case.calls

    def _prepare(self, request: Prepare) -> Prepared:
        args = _fresh(self._input(0))
        start = time.perf_counter()
        side = self._jitted() if request.effort is None else self._ours(request, args)
        results = jax.block_until_ready(side.timed(*args))
        took = time.perf_counter() - start
        if isinstance(results, jax.Array):  # whose own method takes half a microsecond less
            side = replace(side, wait=methodcaller("block_until_ready"))
        self._sides[request.side] = side
        errors = [error for index in range(request.accuracy_inputs) for error in self._errors(side, index)]
        package = "jax" if request.effort is None else "tilewright"
        ran, explanation = side.explain()
        return Prepared(version=version(package), compile_s=took, errors=errors, ran=ran, explanation=explanation)

    def _jitted(self) -> _Side:
        fn, calls = self._case.model.fn, self._case.calls
        # A function object of its own: a second executable of the same code where jit is compared with itself.
        once = jax.jit(lambda *args: fn(*args))
        return _Side(once, once if calls == 1 else jax.jit(chain(fn, calls)))

    def _ours(self, request: Prepare, args: Sequence[Any]) -> _Side:
        from ..compiler import compile as compile_function

        fast: Any = compile_function(
            self._case.model.fn, effort=request.effort or 0, budget=request.budget, database=request.database
        )
        if self._case.calls == 1:
            return _Side(fast, fast, lambda: (fast.report().mode, str(fast.report())))
        # Tuned on its own first: inside of another function nothing is measured, and the verdict comes from the
        # database.
        jax.block_until_ready(fast(*args))
        alone = str(fast.report())
        return _Side(fast, jax.jit(chain(fast, self._case.calls)), lambda: (fast.report().mode, alone))

    def _errors(self, side: _Side, index: int) -> list[Error]:
        args = self._input(index)
        return [
            Error(candidate=e.candidate, baseline=e.baseline, scale=e.scale, epsilon=e.epsilon, limit=e.limit)
            for call, (baseline, exact) in zip(side.forms(), self._reference(index), strict=True)
            for e in compare(call(*_fresh(args)), baseline, exact)
        ]

    def _reference(self, index: int) -> list[tuple[Any, list[np.ndarray]]]:
        """Results of `jax.jit` and of float64 on an input, for each form of a side."""
        if index not in self._references:
            args, fn = self._input(index), self._case.model.fn
            exact = [reference(fn, args)]
            if self._case.calls > 1:
                exact.append(reference(chain(fn, self._case.calls), args))
            usual = [jax.block_until_ready(call(*_fresh(args))) for call in self._sides[JIT].forms()]
            self._references[index] = list(zip(usual, exact, strict=True))
        return self._references[index]

    def _describe(self) -> Description:
        if self._case.workload is not None:
            row = self._case.workload
            return Description(flops=row.flops, bytes=row.bytes, dtype=row.dtype)
        args = self._input(0)
        program = jax.make_jaxpr(self._case.model.fn)(*args)
        moved = tree_bytes((args, dict(self._case.model.weights), program.out_avals))
        return Description(flops=product_flops(program.jaxpr), bytes=moved, dtype=str(args[0].dtype))

    def _export(self, request: Export) -> Done:
        errors = [self._single_errors(index) for index in range(request.accuracy_inputs)]
        inputs = [self._input(index) for index in range(self._pool)]
        references = [self._reference(index)[0][1] for index in range(request.accuracy_inputs)]
        row, weights = self._row()
        write_problem(request.folder, row, weights, inputs, references, errors)
        return Done()

    def _single_errors(self, index: int) -> list[Error]:
        """Errors of `jax.jit` in one call, which is the first form of a side."""
        errors = self._errors(self._sides[JIT], index)
        return errors[: len(self._reference(index)[0][1])]

    def _row(self) -> tuple[Workload | Graph, dict[str, np.ndarray]]:
        """What other processes make a program of: a workload with its weights, or a network with them inside."""
        if self._case.workload is not None:
            return self._case.workload, {name: np.asarray(value) for name, value in self._case.model.weights.items()}
        program = jax.make_jaxpr(self._case.model.fn)(*self._input(0))
        return PassManager(GRAPH_PASSES).run(to_graph(program)), {}

    def _input(self, number: int) -> tuple[np.ndarray, ...]:
        index = number % self._pool
        if index not in self._inputs:
            if len(self._inputs) == _CACHED_INPUTS:
                self._inputs.pop(next(iter(self._inputs)))
            self._inputs[index] = self._case.model.make_input(np.random.default_rng([self._seed, index]))
        return self._inputs[index]


def _fresh(args: Sequence[np.ndarray]) -> list[Any]:
    """Device arrays in memory of their own.

    `jnp.array` would copy twice, and give its first copy back to the system during the next call.
    """
    return jax.block_until_ready([jax.device_put(value, may_alias=False) for value in args])


def main(command: Sequence[str] | None = None) -> int:
    """Serve requests about the row that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tilewright.bench.child", description=__doc__)
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--row", required=True)
    parser.add_argument("--seed", type=int, default=0, help="decides inputs, never the weights")
    parser.add_argument("--pool", type=int, default=4, help="how many different inputs take turns")
    found = parser.parse_args(command)
    loaded: list[Child] = []  # on the first request, so that a failure becomes a reply

    def answer(request: AnyRequest) -> Reply:
        if not loaded:
            loaded.append(Child(load_case(found.suite, found.row), found.seed, found.pool))
        return loaded[0].answer(request)

    serve(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
