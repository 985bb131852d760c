"""How soon tuning comes near what it finds in a long time.

    python -m tilewright.bench.tuning_speed --draw 6 --seconds 600 --folder tuning-speed

Tunes each row once with a long budget and without a database, and notes the best confirmed schedules after every batch.
Then the schedules that were best after `--mark` seconds, the final ones and the defaults are timed in turns, in one
process. Rows whose result the folder has are not tuned again, so that a run can be ended and gone on with.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..backends.llvm.kernel import Kernel
from ..backends.measure.runner import WorkerRunner
from ..driver.kernels import BACKEND, build_kernel
from ..driver.planning import Task
from ..driver.verification import measure_request, task_references
from ..ir.measure import MeasureData, MeasureRequest, MeasureResult, TaskKey, TimingProtocol
from ..ir.target import Target, detect_target
from ..ir.text import print_ir
from ..passes.schedule import SCHEDULE_VERSION
from ..search.base import Runner
from ..search.contest import TuneTask, chunk_count, paired_ratios
from ..search.effort import EFFORTS
from ..search.outcome import Progress, SearchBudget
from ..search.space import Candidate
from ..search.tune import tune_tasks
from .row_tasks import row_tasks
from .workloads.kernels import KERNELS

NEAR = 0.95
"""What counts as near: this share of the speed that is found in the end."""
_LEVEL = EFFORTS[1]
_CONFIRM = 31

Clock = Callable[[], float]


class Moment(BaseModel):
    """A search after a batch.

    Attributes:
        seconds: Since the start.
        trials: Candidates tried so far.
        ms: What all tasks of the row take with the best confirmed schedules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    trials: int
    ms: float


class RowSpeed(BaseModel):
    """How one row was tuned.

    Attributes:
        name: Of the row.
        target: Fingerprint of the machine.
        curve: After each batch from which on every task was measured.
        default_ms: All tasks with their defaults, timed in turns with the next two.
        mark_ms: With the schedules that were best at the mark.
        final_ms: With those that were best in the end.
        building_s: Wall clock of builds, threads added up.
        measuring_s: Wall clock of the worker.
        seconds: Wall clock of the search.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    target: str
    curve: list[Moment]
    default_ms: float
    mark_ms: float
    final_ms: float
    building_s: float
    measuring_s: float
    seconds: float

    @property
    def near_s(self) -> float:
        """Seconds until the search's own timings were within `NEAR` of the last."""
        return next(m.seconds for m in self.curve if m.ms * NEAR <= self.curve[-1].ms)


def drawn_rows(count: int, seed: int) -> list[str]:
    """Float32 rows of the kernel suite in random order, a family after the other."""
    rng = np.random.default_rng(seed)
    families: dict[str, list[str]] = {}
    for name in rng.permutation([name for name, case in KERNELS.items() if case.family != "other"]):
        families.setdefault(KERNELS[name].family, []).append(str(name))
    rounds = max(map(len, families.values()))
    return [rows[n] for n in range(rounds) for rows in families.values() if n < len(rows)][:count]


class _Timed:
    """A runner, and a way of building, with a clock."""

    def __init__(self, runner: Runner, target: Target, clock: Clock) -> None:
        self.runner, self.target, self.clock = runner, target, clock
        self.building_s = self.measuring_s = 0.0

    def measure(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        """See `search.base.Runner`."""
        began = self.clock()
        try:
            return self.runner.measure(data, requests, timing)
        finally:
            self.measuring_s += self.clock() - began

    def build(self, task: TuneTask, candidate: Candidate) -> Kernel:
        """The kernel of a candidate."""
        began = self.clock()
        try:
            return build_kernel(task.key.workload_digest, task.func, candidate.trace, self.target)
        finally:
            self.building_s += self.clock() - began


def tune_row(
    name: str, target: Target, runner: Runner, seconds: float, mark: float, seed: int, clock: Clock = time.monotonic
) -> RowSpeed | None:
    """Tune a row, and time what was found; None if it has no tasks or none of them a kernel that works."""
    tasks = row_tasks("kernels", name, target)
    if not tasks:
        return None
    data = task_references(tasks, seed)
    tuned = [TuneTask(_key(t, target), t.workload.func, target, float(t.count), data[t.key]) for t in tasks]
    timed = _Timed(runner, target, clock)
    seen: list[Progress] = []
    result = tune_tasks(
        tuned,
        timed,
        None,
        SearchBudget(seconds=seconds),
        build=timed.build,
        rng=np.random.default_rng(seed),
        timing=_LEVEL.timing(target.threads),
        batch=_LEVEL.batch,
        progress=seen.append,
        clock=clock,
        builders=target.threads,
        seed=seed,
    )
    seen = [step for step in seen if all(c is not None for c in step.incumbents)]
    if not seen:
        return None
    at_mark = next((step for step in reversed(seen) if step.elapsed_s <= mark), seen[0])
    found = [[c.candidate for c in result.outcomes], at_mark.incumbents, seen[0].incumbents]
    final_ms, mark_ms, default_ms = _compared(tuned, found, runner, target)
    return RowSpeed(
        name=name,
        target=target.fingerprint,
        curve=[Moment(seconds=s.elapsed_s, trials=s.trials, ms=1e3 * s.now_s) for s in seen],
        default_ms=default_ms,
        mark_ms=mark_ms,
        final_ms=final_ms,
        building_s=timed.building_s,
        measuring_s=timed.measuring_s,
        seconds=result.elapsed_s,
    )


def _key(task: Task, target: Target) -> TaskKey:
    text = print_ir(task.workload.func)
    return TaskKey(task.key, text, target.fingerprint, BACKEND, SCHEDULE_VERSION, target.threads)


def _compared(
    tasks: Sequence[TuneTask], choices: Sequence[Sequence[Candidate | None]], runner: Runner, target: Target
) -> list[float]:
    """Milliseconds that all tasks take with each choice of schedules, timed in turns; ratios are paired."""
    timing = TimingProtocol(target.threads, quick_repeats=_CONFIRM, repeats=_CONFIRM, budget_s=1.0)
    totals = [0.0] * len(choices)
    for number, task in enumerate(tasks):
        traces = [c.trace for own in choices if (c := own[number]) is not None]
        distinct = list(dict.fromkeys(traces))
        kernels = [build_kernel(task.key.workload_digest, task.func, trace, target) for trace in distinct]
        requests = [measure_request(k, task.data, chunk_count(k.extent, target.threads)) for k in kernels]
        results = dict(zip(distinct, runner.measure(task.data, requests, timing), strict=True))
        first = results[traces[0]]
        for place, trace in enumerate(traces):
            totals[place] += 1e3 * task.weight * median(paired_ratios(results[trace], first)) * first.median_s
    return totals


def row_line(row: RowSpeed, mark: float) -> str:
    """A row of the table."""
    return (
        f"{row.name:22} default {row.default_ms:10.4f} ms, {mark:g} s {row.mark_ms:10.4f}, {row.seconds:.0f} s "
        f"{row.final_ms:10.4f}: {row.final_ms / row.mark_ms:6.1%} at {mark:g} s; {NEAR:.0%} after {row.near_s:5.1f} s, "
        f"{row.curve[-1].trials} trials, building {row.building_s:.0f} s, measuring {row.measuring_s:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune the rows that the folder has no result of, and print all."""
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench.tuning_speed", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rows", type=lambda text: text.split(","), help="by name; drawn if left out")
    parser.add_argument("--draw", type=int, default=6, help="how many rows to draw")
    parser.add_argument("--seconds", type=float, default=600.0, help="budget of a search")
    parser.add_argument("--mark", type=float, default=60.0, help="when the search should be near the end")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the arguments and the searches")
    parser.add_argument("--folder", type=Path, default=Path("tuning-speed"), help="keeps the results")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    target = detect_target()
    with WorkerRunner() as runner:
        for name in options.rows or drawn_rows(options.draw, options.seed):
            path = options.folder / f"{name}-{options.seconds:g}s-{options.seed}.json"
            if path.exists():
                row = RowSpeed.model_validate_json(path.read_text())
            else:
                row = tune_row(name, target, runner, options.seconds, options.mark, options.seed)
                if row is None:
                    print(f"{name}: nothing to tune", file=sys.stderr)
                    continue
                path.write_text(row.model_dump_json())
            print(row_line(row, options.mark), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
