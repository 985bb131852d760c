"""Random legal traces: steps drawn from the primitives' own enumerators; helpers that tests share."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
from workloads import executions, verify_schedule

from tilewright.ir.loop import LoopFunc
from tilewright.ir.target import Target
from tilewright.passes.choices import candidates
from tilewright.passes.schedule import ScheduleError, Step, Trace, apply_step, primitives, replay
from tilewright.search.sketch import sketches

MAX_EXECUTIONS = 1500
_TARGET = Target("small", "+avx2,+fma", 256, 2, 1 << 15, 1 << 18, 1 << 22, 50.0, 20.0)
_MOST_CANDIDATES = 400
# Drawn more often: without loops there is nothing for the others to do.
_WEIGHTS = {
    "split": 4.0,
    "compute_at": 2.0,
    "fuse": 1.5,
    "interchange": 1.5,
    "partition": 4.0,
    "rfactor": 1.5,
    "accumulate": 1.5,
    "stream": 3.0,
}


class Traces:
    """Draws traces and counts which primitives applied."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.applied: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._names = sorted(primitives())
        weights = np.array([_WEIGHTS.get(n, 1.0) for n in self._names])
        self._weights = weights / weights.sum()

    def draw(self, func: LoopFunc, steps: int) -> tuple[Trace, LoopFunc]:
        """A legal trace of random steps, and the scheduled program; every stage of it is verified.

        One trace in three continues a part of what a sketch would do, which is where guards meet tiles.
        """
        prefix, func = self._begun(func) if self.rng.random() < 1 / 3 else ((), func)
        trace = list(prefix)
        for _ in range(steps - len(prefix)):
            name = str(self.rng.choice(self._names, p=self._weights))
            found = self._one(func, name)
            if found is not None:
                trace.append(found[0])
                func = found[1]
        return tuple(trace), func

    def _begun(self, func: LoopFunc) -> tuple[Trace, LoopFunc]:
        """Some of the first steps of a random point of a random sketch."""
        found = sketches(func, _TARGET)
        sketch = found[int(self.rng.integers(len(found)))]
        point = {name: values[int(self.rng.integers(len(values)))] for name, values in sketch.choices.items()}
        trace = sketch.build(point)
        trace = trace[: int(self.rng.integers(len(trace) + 1))]
        try:
            begun = replay(func, trace)
        except ScheduleError:
            return (), func
        if executions(begun.body) > MAX_EXECUTIONS:
            return (), func
        verify_schedule(begun)
        self.applied.update(step.primitive for step in trace)
        return trace, begun

    def _one(self, func: LoopFunc, name: str) -> tuple[Step, LoopFunc] | None:
        steps = list(islice(candidates(func, name), _MOST_CANDIDATES))
        for number in self.rng.permutation(len(steps))[:4]:
            step = steps[int(number)]
            try:
                new = apply_step(func, step)
            except ScheduleError:
                self.refused[name] += 1
                continue
            if executions(new.body) > MAX_EXECUTIONS:
                continue
            try:
                verify_schedule(new)
            except ValueError as error:
                raise AssertionError(f"{step} made an invalid program: {error}") from error
            self.applied[name] += 1
            return step, new
        return None
