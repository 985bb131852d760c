"""The last step: whether the program that was put together runs, decided in the process that will use it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.graph import Graph
from .assembly import assemble
from .baselines import region_seconds, rest_seconds
from .finalists import untuned, winners
from .gate import OutputError, Run, check_accuracy, compare_speed, runnable
from .kernel_source import KernelSource
from .options import Options
from .outcome import Outcome
from .planning import Choice, Partition, partition

GATE_SECONDS = 3.0
GATE_ROUNDS = 4


class LastCheck:
    """Checks a program against float64, and compares it with others where measuring is allowed.

    Args:
        outcome: of the steps before, with a program; the one that is to run is left there.
        source: gives kernels, and checks them.
        options: what the user asked for.
        original: the program as traced.
        examples: concrete arguments.
    """

    def __init__(
        self, outcome: Outcome, source: KernelSource, options: Options, original: Graph, examples: Sequence[Any]
    ) -> None:
        self._outcome = outcome
        self._source = source
        self._options = options
        self._original = original
        self._examples = examples
        self._baseline = runnable(original)

    def run(self) -> None:
        """Leave the program in the outcome, with other kernels where it gains by them, or the original."""
        outcome = self._outcome
        assert outcome.graph is not None
        ours = runnable(outcome.graph)
        outcome.accuracy = self._errors(ours)
        if outcome.formulations and not _holds(outcome.accuracy):
            ours = self._without_formulations()
            outcome.accuracy = self._errors(ours)
        if not _holds(outcome.accuracy):
            outcome.keep_original("the result was less accurate than the contract allows")
        elif self._options.effort > 0:
            self._race(ours)

    def _race(self, ours: Run) -> None:
        """Compare the program with itself with other kernels, and what is the faster one with `jax.jit`."""
        outcome, seed = self._outcome, self._options.seed
        start = time.perf_counter()
        outcome.baseline_s = region_seconds(list(self._parts.tasks.values()), seed)
        outcome.seconds["check: baselines"] = time.perf_counter() - start
        ours = self._if_faster(untuned(outcome, self._source), ours)
        ours = self._if_faster(winners(outcome), ours)
        assert outcome.graph is not None
        outcome.rest_s = rest_seconds(outcome.graph, seed)
        outcome.comparison = compare_speed(ours, self._baseline, self._examples, GATE_SECONDS, GATE_ROUNDS)
        if not outcome.comparison.gains:
            speedup, least = outcome.comparison.speedup, outcome.comparison.lower_bound
            doubt = "slower on the average" if outcome.comparison.stalls else "not surely faster"
            outcome.keep_original(f"{doubt} than jax.jit ({speedup:.2f}x, at least {least:.2f}x)")

    @property
    def _parts(self) -> Partition:
        assert self._outcome.parts is not None
        return self._outcome.parts

    def _errors(self, run: Run) -> list[OutputError]:
        return check_accuracy(run, self._baseline, self._original, self._examples)

    def _without_formulations(self) -> Run:
        """The program with every region's own kernel, which is taken."""
        outcome = self._outcome
        kept = tuple(step for step in self._parts.trace if step.primitive != "formulate")
        outcome.formulations, outcome.parts = {}, partition(self._parts.start, kept)
        outcome.graph, outcome.natives = assemble(outcome.parts, outcome.choices, self._source.target)
        return runnable(outcome.graph)

    def _if_faster(self, choices: Mapping[str, Choice], ours: Run) -> Run:
        """The program with other kernels, if there are any, it is accurate and surely gains by them; else ours."""
        outcome = self._outcome
        if not choices:
            return ours
        graph, natives = assemble(self._parts, choices, self._source.target)
        other = runnable(graph)
        if not compare_speed(other, ours, self._examples, GATE_SECONDS / 3).gains:
            return ours
        errors = self._errors(other)
        if not _holds(errors):
            return ours
        changed = {k for k, c in choices.items() if c is not outcome.choices.get(k)}
        outcome.latencies = {k: s for k, s in outcome.latencies.items() if k not in changed}
        outcome.graph, outcome.natives, outcome.choices, outcome.accuracy = graph, natives, dict(choices), errors
        return other


def _holds(errors: Sequence[OutputError]) -> bool:
    return all(error.holds for error in errors)
