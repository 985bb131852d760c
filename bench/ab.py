"""Honest A/B benchmark of whole models: `tilewright.compile(fn)` against `jax.jit(fn)` of the same function.

    python -m tilewright.bench.ab --models mobilenetv2,resnet50 --effort 0,1

A model at a time with every detail of the compilation; `python -m tilewright.bench` measures whole suites by the same
contests. Both sides alternate in one process, on fresh inputs. Processes alternate between two allocator modes, stock
and page-keeping: page faults on fresh memory can cost more than the computation, so a claim of speed is made in both.
With `--candidate jit` `jax.jit` is compared with itself: the speed-up must be close to 1, and the width of its interval
is the noise of the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.target import detect_target
from .contest import Contest, ContestResult, hold
from .messages import JIT, Error, Missing, Prepare, Prepared
from .models import model_names
from .paired import Speedup, paired_speedup
from .sessions import ALLOCATORS, SessionError

CANDIDATES = ("tilewright", "jit")
_CANDIDATE = "candidate"
_TABLE_WIDTH = 155
_CAPTION = (
    "ms: medians. speed-up: by pairs, with a 95% interval. s: compilation and first call, first process / second. "
    "error/limit: against float64, worst output."
)


@dataclass(frozen=True, slots=True)
class AbOptions:
    """What every process does; `budget` and `database` of None leave the choice to `tilewright.compile`.

    Attributes:
        model: One of `models.model_names()`.
        candidate: What is compared with `jax.jit`, one of `CANDIDATES`.
        effort: Of `tilewright.compile`.
        budget: The same.
        database: The same.
        rounds: Pairs per process.
        accuracy_inputs: Inputs on which results are compared with float64.
        seed: Decides inputs and order, never the weights.
    """

    model: str
    candidate: str = "tilewright"
    effort: int = 1
    budget: str | None = None
    database: str | None = None
    rounds: int = 30
    accuracy_inputs: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AbRow:
    """One model at one effort in one allocator mode, merged over its processes.

    Attributes:
        baseline_ms: Median of `jax.jit`, timed alternately with the candidate.
        candidate_ms: Median of the candidate.
        alone_ms: Median of `jax.jit` before the candidate existed in the process.
        speedup: Baseline over candidate, by pairs.
        pairs: How many pairs were timed.
        baseline_compile_s: Seconds to the first result of `jax.jit`, per process.
        candidate_compile_s: The same of the candidate; later processes find the tuning database filled.
        accuracy: The output closest to (or furthest over) the limit of the accuracy contract.
        accurate: Whether the contract held everywhere.
        explanation: The report of the candidate in the first process.
    """

    model: str
    effort: int
    allocator: str
    baseline_ms: float
    candidate_ms: float
    alone_ms: float
    speedup: Speedup
    pairs: int
    baseline_compile_s: list[float]
    candidate_compile_s: list[float]
    accuracy: dict[str, float]
    accurate: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class AbFailure:
    """A process that gave no result, and the end of what it said."""

    model: str
    effort: int
    allocator: str
    error: str


@dataclass(frozen=True, slots=True)
class AbReport:
    """Everything one run of the benchmark found, with what is needed to read it."""

    machine: dict[str, Any]
    candidate: str
    rows: list[AbRow]
    failures: list[AbFailure]

    @property
    def passed(self) -> bool:
        """Whether every process gave a result and every output kept the accuracy contract."""
        return not self.failures and all(row.accurate for row in self.rows)


def run_ab(
    models: Sequence[str],
    efforts: Sequence[int],
    options: AbOptions,
    repeats: int = 2,
    timeout_s: float = 1800.0,
    say: Callable[[str], None] = lambda text: None,
) -> AbReport:
    """Run the benchmark.

    Args:
        models: Names out of `models.model_names()`.
        efforts: Values of `tilewright.compile`'s effort.
        options: What every process does; model, effort and seed are filled in, a database that is not given becomes
            a temporary one per model and effort, so that the first compilation is one without memory.
        repeats: Processes per model, effort and allocator mode.
        timeout_s: Longest time one process may take.
        say: Receives a line of progress per process.
    """
    rows: list[AbRow] = []
    failures: list[AbFailure] = []
    for model in models:
        for effort in efforts:
            with tempfile.TemporaryDirectory(prefix="tilewright-ab-") as folder:
                database = options.database or str(Path(folder) / "tuning.db")
                chosen = replace(options, model=model, effort=effort, database=database)
                found = _run_case(chosen, repeats, timeout_s, say)
            for allocator, results in found.items():
                errors = [item for item in results if isinstance(item, str)]
                failures += [AbFailure(model, effort, allocator, error) for error in errors]
                good = [item for item in results if isinstance(item, ContestResult)]
                if good:
                    rows.append(_merge(model, effort, allocator, good, np.random.default_rng(options.seed)))
    return AbReport(_machine(), options.candidate, rows, failures)


def _run_case(
    options: AbOptions, repeats: int, timeout_s: float, say: Callable[[str], None]
) -> dict[str, list[ContestResult | str]]:
    """Results (or errors) per allocator mode; the mode that goes first alternates."""
    found: dict[str, list[ContestResult | str]] = {allocator: [] for allocator in ALLOCATORS}
    for repeat in range(repeats):
        order = list(ALLOCATORS) if repeat % 2 == 0 else list(reversed(ALLOCATORS))
        for allocator in order:
            say(f"{options.model}, effort {options.effort}, {allocator}, process {repeat + 1} of {repeats}")
            # The code is the same in every repetition, so accuracy is compared once per mode.
            inputs = options.accuracy_inputs if repeat == 0 else 0
            chosen = replace(options, seed=options.seed + repeat, accuracy_inputs=inputs)
            found[allocator].append(_contest(chosen, allocator, timeout_s))
    return found


def _contest(options: AbOptions, allocator: str, timeout_s: float) -> ContestResult | str:
    """Run one process; a string is the reason why there is no result."""
    candidate = Prepare(side=_CANDIDATE, accuracy_inputs=options.accuracy_inputs)
    if options.candidate != JIT:
        ours = {"effort": options.effort, "budget": options.budget, "database": options.database}
        candidate = candidate.model_copy(update=ours)
    contest = Contest(
        suite="models",
        row=options.model,
        allocator=allocator,
        requests=[Prepare(side=JIT), candidate],
        peers=(),
        rounds=options.rounds,
        timing_s=timeout_s,
        deadline=time.monotonic() + timeout_s,
        accuracy_inputs=options.accuracy_inputs,
        seed=options.seed,
        pool=max(options.rounds, 1),
        alone=options.rounds,
    )
    try:
        found = hold(contest)
    except SessionError as error:
        return str(error)
    reply = found.sides[_CANDIDATE]
    return reply.reason if isinstance(reply, Missing) else found


def _merge(
    model: str, effort: int, allocator: str, results: Sequence[ContestResult], rng: np.random.Generator
) -> AbRow:
    baseline = [result.times_ms[JIT] for result in results]
    candidate = [result.times_ms[_CANDIDATE] for result in results]
    ours = _prepared(results, _CANDIDATE)
    errors = [error for reply in ours for error in reply.errors]
    return AbRow(
        model=model,
        effort=effort,
        allocator=allocator,
        baseline_ms=_median(baseline),
        candidate_ms=_median(candidate),
        alone_ms=_median([result.alone_ms for result in results]),
        speedup=paired_speedup(baseline, candidate, rng),
        pairs=sum(len(times) for times in baseline),
        baseline_compile_s=[reply.compile_s for reply in _prepared(results, JIT)],
        candidate_compile_s=[reply.compile_s for reply in ours],
        accuracy=max(errors, key=_badness).model_dump() if errors else {},
        accurate=bool(errors) and all(error.holds for error in errors),
        explanation=ours[0].explanation,
    )


def _prepared(results: Sequence[ContestResult], side: str) -> list[Prepared]:
    found = [result.sides[side] for result in results]
    return [reply for reply in found if isinstance(reply, Prepared)]


def _median(times: Sequence[Sequence[float]]) -> float:
    return float(np.median(np.concatenate(times)))


def _badness(found: Error) -> float:
    """Error as a fraction of the limit; an error that is no number is the worst."""
    error, limit = found.candidate, found.limit
    if not error <= limit:
        return math.inf if math.isnan(error) or limit <= 0 else error / limit
    return error / limit if limit > 0 else 0.0


def _machine() -> dict[str, Any]:
    target = detect_target()
    libraries = {name: version(name) for name in ("jax", "jaxlib", "numpy", "tilewright")}
    return {"target": asdict(target), "fingerprint": target.fingerprint, "versions": libraries}


def print_report(report: AbReport) -> None:
    """Show the rows as a table, and every failure."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)  # a wrapped table of numbers is unreadable
    table = Table(title=f"{report.candidate} against jax.jit", caption=_CAPTION)
    for heading in ("model", "effort", "allocator"):
        table.add_column(heading)
    for heading in ("jit alone", "jit ms", "ours ms", "speed-up", "jit s", "ours s", "error/limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        first, *again = row.candidate_compile_s
        table.add_row(
            row.model,
            str(row.effort),
            row.allocator,
            f"{row.alone_ms:.2f}",
            f"{row.baseline_ms:.2f}",
            f"{row.candidate_ms:.2f}",
            f"{row.speedup.median:.3f} [{row.speedup.low:.3f}, {row.speedup.high:.3f}]",
            f"{row.baseline_compile_s[0]:.1f}",
            f"{first:.1f} / {again[0]:.1f}" if again else f"{first:.1f}",
            _accuracy_text(row),
        )
    console.print(table)
    for failure in report.failures:
        console.print(f"FAILED {failure.model}, effort {failure.effort}, {failure.allocator}:", style="red")
        console.print(failure.error, markup=False, highlight=False)


def _accuracy_text(row: AbRow) -> str:
    if not row.accuracy:
        return "not compared"
    text = f"{row.accuracy['candidate']:.1e}/{row.accuracy['limit']:.1e}"
    return text if row.accurate else f"[red]{text} BROKEN[/red]"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench.ab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mobilenetv2,resnet50,convnexttiny,encoder", help="comma-separated")
    parser.add_argument("--effort", default="1", help="comma-separated, each 0 to 3")
    parser.add_argument("--candidate", choices=CANDIDATES, default="tilewright", help="jit: measure the noise")
    parser.add_argument("--budget", help="tuning time of a compilation, for example 60s")
    parser.add_argument("--database", help="tuning database to use and fill; else a temporary one per model and effort")
    parser.add_argument("--rounds", type=int, default=30, help="pairs per process")
    parser.add_argument("--repeats", type=int, default=2, help="processes per model, effort and allocator mode")
    parser.add_argument("--accuracy-inputs", type=int, default=2, help="inputs to compare with float64")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds one process may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the report here")
    found = parser.parse_args(arguments)
    found.models, found.effort = found.models.split(","), found.effort.split(",")
    if unknown := sorted(set(found.models) - set(model_names())):
        parser.error(f"--models: expected some of {', '.join(model_names())}, found {', '.join(unknown)}")
    if unknown := sorted(set(found.effort) - set("0123")):
        parser.error(f"--effort: expected some of 0, 1, 2, 3, found {', '.join(unknown)}")
    if found.rounds < 1 or found.repeats < 1:
        parser.error(f"--rounds and --repeats: expected at least 1, found {found.rounds} and {found.repeats}")
    if found.accuracy_inputs < 1:
        parser.error(f"--accuracy-inputs: expected at least 1, found {found.accuracy_inputs}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; 1 if a process failed or an output was not accurate."""
    found = _parse(arguments)
    options = AbOptions(
        model=found.models[0],
        candidate=found.candidate,
        budget=found.budget,
        database=found.database,
        rounds=found.rounds,
        accuracy_inputs=found.accuracy_inputs,
        seed=found.seed,
    )
    efforts = [int(effort) for effort in found.effort]
    report = run_ab(
        found.models, efforts, options, found.repeats, found.timeout, say=lambda text: print(text, file=sys.stderr)
    )
    print_report(report)
    if found.json:
        found.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
