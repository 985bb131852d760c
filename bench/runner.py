"""Runs a suite row by row, keeps what is done, and goes on where an earlier run was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..driver.options import make_options
from .cases import DRAWS, SUITES, SuiteName, row_names
from .environment import MemoryState, describe_machine
from .journal import Journal, run_key
from .peers.base import PEERS
from .report import Machine, RowResult, SuiteOptions, SuiteReport
from .rows import run_row
from .sessions import ALLOCATORS
from .table import rows_text

RunRow = Callable[[str, SuiteOptions, MemoryState, Callable[[str], None]], RowResult]


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a suite does if nothing else is asked for, and what its rows cost beside tuning and timing.

    Attributes:
        budget: Tuning time per allocator mode.
        repeats: Processes per allocator mode.
        timing_s: Time of sampling per process.
        start_s: Starting a process, building the row, compiling it with `jax.jit`.
        untuned_s: Compiling with effort 0.
        tuned_s: Compiling with a higher effort, beside the budget.
        again_s: Compiling in a later process, which finds the database filled.
    """

    budget: str
    repeats: int
    timing_s: float
    start_s: float
    untuned_s: float
    tuned_s: float
    again_s: float


_DEFAULTS: dict[SuiteName, _Defaults] = {
    "kernels": _Defaults("20s", 2, 8.0, 3.0, 4.0, 10.0, 1.5),
    "models": _Defaults("15s", 1, 8.0, 14.0, 14.0, 20.0, 5.0),
    "random": _Defaults("10s", 1, 3.0, 3.0, 3.0, 6.0, 1.5),
}
_MODEL_LIBRARIES = ("keras", "flax")
_EFFORTS = (0, 1)
ROUNDS = 300
"""Most samples of a side per process: the time for sampling decides before, but for functions of microseconds, whose
times have two states on a shared machine."""
_MOST_DRAWS = 10_000
_ROW_TIMEOUT_S = 600.0


def suite_options(
    suite: str,
    rows: Sequence[str] = (),
    efforts: Sequence[int] = _EFFORTS,
    budget: str | None = None,
    peers: Sequence[str] = (),
    repeats: int | None = None,
    rounds: int = ROUNDS,
    timing_s: float | None = None,
    row_timeout_s: float = _ROW_TIMEOUT_S,
    accuracy_inputs: int = 1,
    seed: int = 0,
    draws: int | None = None,
) -> SuiteOptions:
    """Check what was asked for and fill in the suite's defaults.

    Args:
        suite: `kernels`, `models` or `random`.
        rows: Names of rows; none means all.
        efforts: See `SuiteOptions`, as for all others.
        budget: None for the suite's default.
        peers: Names of peers.
        repeats: None for the suite's default.
        rounds: Most samples of a side per process.
        timing_s: None for the suite's default.
        row_timeout_s: Longest time for a row.
        accuracy_inputs: Inputs to compare.
        seed: Decides inputs and order, and the rows of the random suite.
        draws: How many rows the random suite has; None for its default and for the others.

    Raises:
        ValueError: Something is not allowed; the message says what is.
    """
    if suite not in SUITES:
        raise ValueError(f"suite: expected one of {', '.join(SUITES)}, found {suite!r}")
    if suite == "models" and (missing := [name for name in _MODEL_LIBRARIES if find_spec(name) is None]):
        raise ValueError(f"suite: models needs {' and '.join(missing)}: pip install 'tilewright[models]'")
    if suite != "random" and draws is not None:
        raise ValueError(f"draws: expected it with the suite random, found it with {suite}")
    if draws is not None and not 1 <= draws <= _MOST_DRAWS:
        raise ValueError(f"draws: expected 1 to {_MOST_DRAWS}, found {draws}")
    known = row_names(suite, seed, draws or DRAWS)
    _only("rows", rows, known)
    _only("efforts", efforts, (0, 1, 2, 3))
    _only("peers", peers, tuple(PEERS))
    defaults = _DEFAULTS[suite]
    chosen = budget or defaults.budget
    make_options(chosen, 1, None, "cpu", seed, False)  # refuses a budget that `compile` would refuse
    return SuiteOptions(
        suite=suite,
        rows=tuple(name for name in known if not rows or name in rows),
        efforts=tuple(sorted(set(efforts))),
        budget=chosen,
        peers=tuple(name for name in PEERS if name in peers),
        repeats=defaults.repeats if repeats is None else repeats,
        rounds=rounds,
        timing_s=defaults.timing_s if timing_s is None else timing_s,
        row_timeout_s=row_timeout_s,
        accuracy_inputs=accuracy_inputs,
        seed=seed,
    )


def _only(what: str, found: Sequence[object], allowed: Sequence[object]) -> None:
    unknown = [str(item) for item in found if item not in allowed]
    if unknown:
        raise ValueError(f"{what}: expected some of {', '.join(map(str, allowed))}, found {', '.join(unknown)}")


def expected_seconds(options: SuiteOptions, rows: int | None = None) -> float:
    """How long a run takes at most, if nothing hangs: every row tunes and samples for all the time it may.

    Args:
        options: The run.
        rows: How many rows are left; None for all.
    """
    costs = _DEFAULTS[options.suite]
    budget = make_options(options.budget, 1, None, "cpu", 0, False).budget
    tuning = budget.seconds if budget is not None and budget.seconds is not None else 0.0
    first = sum(costs.tuned_s + tuning if effort else costs.untuned_s for effort in options.efforts)
    later = costs.again_s * len(options.efforts) * (options.repeats - 1)
    peers = [PEERS[name] for name in options.peers if not PEERS[name].missing()]
    process = costs.start_s + options.timing_s + sum(kind.start_s for kind in peers)
    row = len(ALLOCATORS) * (first + later + options.repeats * process) + sum(kind.once_s for kind in peers)
    return row * (len(options.rows) if rows is None else rows)


def minutes_text(seconds: float) -> str:
    """A time as one says it: `less than a minute`, `1 minute`, `1 hour 5 minutes`."""
    minutes = round(seconds / 60)
    if minutes == 0:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "hour"), (minutes, "minute")]
    return " ".join(f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in parts if count)


def at_most(seconds: float) -> str:
    """What a run is announced with."""
    found = minutes_text(seconds)
    return found if found.startswith("less") else f"at most about {found}"


def run_suite(
    options: SuiteOptions,
    output: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    run: RunRow = run_row,
) -> SuiteReport:
    """Run a suite.

    With an output file, every row that is done is kept in a journal beside it, and a later run with the same options,
    versions and sources goes on from there.

    Args:
        options: What to do; see `suite_options`.
        output: Where the report is written.
        say: Called with lines of progress.
        run: Measures one row.
    """
    say("measuring the machine")
    distributions = tuple(dict.fromkeys(PEERS[name].distribution for name in options.peers))
    machine = describe_machine(distributions)
    journal = Journal(output.with_name(output.name + ".journal"), run_key(options, machine)) if output else None
    machine, done = _resumed(journal, machine)
    waiting = [name for name in options.rows if name not in done]
    if done:
        say(f"going on with an earlier run: {len(options.rows) - len(waiting)} rows are done")
    say(f"{rows_text(len(waiting))}, {at_most(expected_seconds(options, len(waiting)))}")
    memory = MemoryState()
    started = time.monotonic()
    for number, name in enumerate(waiting, 1):
        prefix = f"[{number}/{len(waiting)}] {name}"
        row = run(name, options, memory, lambda text, prefix=prefix: say(f"{prefix}: {text}"))
        done[name] = row
        if journal is not None:
            journal.add(machine, row)
        spent = minutes_text(time.monotonic() - started)
        say(f"{prefix}: {'FAILED: ' + row.failure if row.failure else 'done'} ({spent} so far)")
    report = SuiteReport(options=options, machine=machine, rows=[done[name] for name in options.rows])
    if output is not None and journal is not None:
        report.save(output)
        journal.remove()
    return report


def _resumed(journal: Journal | None, machine: Machine) -> tuple[Machine, dict[str, RowResult]]:
    """The machine as the first run saw it, and the rows that are done."""
    if journal is None:
        return machine, {}
    earlier, done = journal.read()
    return earlier or machine, done
