"""The search space of a workload: its sketches with their decisions, and the candidates in it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.loop import LoopFunc
from ..ir.target import Target
from ..passes.schedule import Trace, trace_to_json
from .sketch import Decisions, Sketch, sketches

Value = int | str
_FALLBACK = "plain"
_ENUMERABLE = 4096


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of a search space.

    Args:
        sketch: name of the family.
        decisions: every decision with its value, in the sketch's order.
        trace: the schedule.
        key: the trace as JSON text; candidates with the same key are the same.
    """

    sketch: str
    decisions: tuple[tuple[str, Value], ...]
    trace: Trace
    key: str

    def __str__(self) -> str:
        return f"{self.sketch}({', '.join(f'{name}={value}' for name, value in self.decisions)})"


class SearchSpace:
    """All candidates of a workload.

    A sketch may refuse decisions, and replay or code generation may refuse a trace; such refusals are data: they are
    counted in `rejections` and end nothing.

    Args:
        func: an unscheduled program.
        target: what it is scheduled for.
        families: the sketches; None for those that the rules find. The plain one, which vectorises a single axis and
            moves no loops, is left out where any other applies.

    Raises:
        ValueError: there is no sketch.
    """

    def __init__(self, func: LoopFunc, target: Target, families: Sequence[Sketch] | None = None) -> None:
        found = tuple(sketches(func, target) if families is None else families)
        if not found:
            raise ValueError("expected at least one sketch, found none")
        self.sketches = tuple(s for s in found if s.name != _FALLBACK) or found
        self.rejections: Counter[str] = Counter()
        self._refused: set[tuple[str, tuple[tuple[str, Value], ...]]] = set()
        self._by_name = {s.name: s for s in self.sketches}
        self._weights = np.array([s.size for s in self.sketches], float) / sum(s.size for s in self.sketches)

    @property
    def size(self) -> int:
        """Number of points."""
        return sum(s.size for s in self.sketches)

    @property
    def enumerable(self) -> bool:
        """Whether there are few enough points to list them."""
        return self.size <= _ENUMERABLE

    def defaults(self) -> list[Candidate]:
        """What each sketch chooses without measuring, the preferred one first."""
        made = (self.make(s.name, s.default) for s in self.sketches)
        return [c for c in made if c is not None]

    def make(self, sketch: str, decisions: Decisions) -> Candidate | None:
        """The candidate of given decisions, or None if the sketch refuses them.

        Raises:
            KeyError: there is no such sketch, or a decision is missing.
        """
        family = self._by_name[sketch]
        chosen = tuple((name, decisions[name]) for name in family.choices)
        if (sketch, chosen) in self._refused:
            return None
        try:
            trace = family.build(dict(chosen))
        except ValueError as error:  # ScheduleError included
            self._refused.add((sketch, chosen))
            self.reject(f"{sketch}: {error}")
            return None
        return Candidate(sketch, chosen, trace, trace_to_json(trace))

    def reject(self, reason: str) -> None:
        """Count a refusal."""
        self.rejections[reason] += 1

    # ---- proposing

    def enumerate(self) -> Iterator[Candidate]:
        """All candidates, sketch by sketch."""
        for sketch in self.sketches:
            for values in itertools.product(*sketch.choices.values()):
                candidate = self.make(sketch.name, dict(zip(sketch.choices, values, strict=True)))
                if candidate is not None:
                    yield candidate

    def sample(self, rng: np.random.Generator) -> Candidate | None:
        """A uniformly random point; None if it is refused."""
        sketch = self.sketches[int(rng.choice(len(self.sketches), p=self._weights))]
        return self.make(sketch.name, {n: v[int(rng.integers(len(v)))] for n, v in sketch.choices.items()})

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate | None:
        """The candidate with one decision drawn anew; None if it is refused or there is nothing to decide."""
        sketch = self._by_name.get(candidate.sketch)
        free = [] if sketch is None else [n for n, values in sketch.choices.items() if len(values) > 1]
        if sketch is None or not free:
            return None
        name = free[int(rng.integers(len(free)))]
        decisions = dict(candidate.decisions)
        others = [v for v in sketch.choices[name] if v != decisions[name]]
        decisions[name] = others[int(rng.integers(len(others)))]
        return self.make(sketch.name, decisions)

    def crossover(self, first: Candidate, second: Candidate, rng: np.random.Generator) -> Candidate | None:
        """Each decision from one of two parents; None if they are of different sketches, or it is refused."""
        if first.sketch != second.sketch or first.sketch not in self._by_name:
            return None
        other = dict(second.decisions)
        mixed = {n: other[n] if n in other and rng.random() < 0.5 else value for n, value in first.decisions}
        return self.make(first.sketch, mixed)

    # ---- translating

    def locate(self, traces: Sequence[Trace]) -> list[Candidate]:
        """The candidates of given traces, in order; one that no sketch builds can't be mutated."""
        known: Mapping[str, Candidate] = {c.key: c for c in self.enumerate()} if traces and self.enumerable else {}
        keys = [trace_to_json(trace) for trace in traces]
        return [known.get(key) or Candidate("", (), trace, key) for key, trace in zip(keys, traces, strict=True)]

    def encode(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Decisions as a matrix.

        Returns:
            int32[candidates, 1 + most decisions of a sketch]: the sketch's number and for each decision the number of
            its value, -1 where there is none.
        """
        names = [s.name for s in self.sketches]
        width = max(len(s.choices) for s in self.sketches)
        matrix = np.full((len(candidates), 1 + width), -1, np.int32)
        for row, candidate in zip(matrix, candidates, strict=True):
            if candidate.sketch not in self._by_name:
                continue
            row[0] = names.index(candidate.sketch)
            choices = self._by_name[candidate.sketch].choices
            for column, (name, value) in enumerate(candidate.decisions, 1):
                row[column] = choices[name].index(value)
        return matrix

    def decode(self, row: np.ndarray) -> Candidate | None:
        """The candidate of a row of `encode`; None for a row of a foreign trace, or if it is refused."""
        if row[0] < 0:
            return None
        sketch = self.sketches[int(row[0])]
        choices = sketch.choices.items()
        return self.make(sketch.name, {n: values[int(i)] for (n, values), i in zip(choices, row[1:], strict=False)})
