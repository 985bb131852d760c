"""One row of a suite: contests in both allocator modes, put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .cases import find_workload
from .contest import Contest, ContestResult, hold
from .environment import MemoryState
from .messages import JIT, Describe, Description, Missing, Prepare, Prepared
from .paired import paired_speedup
from .report import Interval, ModeResult, RowResult, SideResult, SuiteOptions
from .sessions import ALLOCATORS, Session, SessionError
from .workloads.base import Workload

_DESCRIBE_S = 120.0


def run_row(name: str, options: SuiteOptions, memory: MemoryState, say: Callable[[str], None]) -> RowResult:
    """Measure a row; whatever goes wrong is in the result.

    Args:
        name: The row.
        options: What was asked for.
        memory: Looked at before and after every contest.
        say: Called with what is being done.
    """
    started = time.monotonic()
    deadline = started + options.row_timeout_s
    workload = find_workload(options.suite, name)
    family = workload.family if workload else "network"
    try:
        with TemporaryDirectory(prefix="tilewright-bench-") as folder:
            description = _describe(name, options, workload)
            contests, states = _contests(name, options, Path(folder), deadline, memory, say)
        modes = [_merge(mode, contests[mode], states[mode], options) for mode in ALLOCATORS]
    except SessionError as error:
        return RowResult(name=name, family=family, failure=str(error), seconds=time.monotonic() - started)
    return RowResult(
        name=name,
        detail=workload.detail if workload and options.suite == "random" else "",
        family=family,
        calls=workload.calls if workload else 1,
        flops=description.flops,
        bytes=description.bytes,
        dtype=description.dtype,
        modes=modes,
        seconds=time.monotonic() - started,
    )


def _describe(name: str, options: SuiteOptions, workload: Workload | None) -> Description:
    if workload is not None:
        return Description(flops=workload.flops, bytes=workload.bytes, dtype=workload.dtype)
    with Session("child", ["--suite", options.suite, "--row", name], {}) as session:
        reply = session.ask(Describe(), _DESCRIBE_S)
    if isinstance(reply, Description):
        return reply
    raise SessionError(reply.reason if isinstance(reply, Missing) else f"unexpected reply {reply.kind}")


def _contests(
    name: str,
    options: SuiteOptions,
    folder: Path,
    deadline: float,
    memory: MemoryState,
    say: Callable[[str], None],
) -> tuple[dict[str, list[ContestResult]], dict[str, list[float]]]:
    """Contests per allocator mode and the machine's states beside them; the mode that goes first alternates."""
    found: dict[str, list[ContestResult]] = {mode: [] for mode in ALLOCATORS}
    records = folder / "records"
    records.mkdir()
    left_out: dict[str, Missing] = {}
    states: dict[str, list[float]] = {mode: [] for mode in ALLOCATORS}
    for repeat in range(options.repeats):
        for mode in list(ALLOCATORS)[:: 1 if repeat % 2 == 0 else -1]:
            first = repeat == 0  # results are the same in every process of a mode
            accuracy_inputs = options.accuracy_inputs if first else 0
            contest = Contest(
                suite=options.suite,
                row=name,
                allocator=mode,
                requests=_requests(options, mode, folder, accuracy_inputs),
                peers=options.peers,
                rounds=options.rounds,
                timing_s=options.timing_s,
                deadline=deadline,
                accuracy_inputs=accuracy_inputs,
                seed=options.seed + repeat,
                records=str(records),
                left_out=left_out,
            )
            states[mode].append(memory.copy_gbs())
            found[mode].append(hold(contest, lambda text, mode=mode: say(f"{mode}: {text}")))
            left_out = left_out | _missing_peers(found[mode][-1], options.peers)
            states[mode].append(memory.copy_gbs())
    return found, states


def _missing_peers(result: ContestResult, peers: Sequence[str]) -> dict[str, Missing]:
    """Peers that did not take part: they are not asked again, which may have taken minutes."""
    return {name: reply for name in peers if isinstance(reply := result.sides.get(name), Missing)}


def _requests(options: SuiteOptions, mode: str, folder: Path, accuracy_inputs: int) -> list[Prepare]:
    """`jax.jit` and ours, each effort with an empty database of its own per mode that later processes find filled."""
    requests = [Prepare(side=JIT, accuracy_inputs=accuracy_inputs)]
    for effort in options.efforts:
        requests.append(
            Prepare(
                side=f"effort {effort}",
                effort=effort,
                budget=options.budget if effort else None,
                database=str(folder / f"{mode}-{effort}.db"),
                accuracy_inputs=accuracy_inputs,
            )
        )
    return requests


def _merge(allocator: str, contests: list[ContestResult], states: list[float], options: SuiteOptions) -> ModeResult:
    names = list(contests[0].sides)
    sides = [_side(name, contests, np.random.default_rng(options.seed)) for name in names]
    return ModeResult(allocator=allocator, copy_gbs=states, sides=sides)


def _side(name: str, contests: list[ContestResult], rng: np.random.Generator) -> SideResult:
    """A side over all processes; it is measured if it was in each of them."""
    found = [contest.sides[name] for contest in contests]
    missing = next((reply for reply in found if isinstance(reply, Missing)), None)
    if missing is not None:
        return SideResult(name=name, status=missing.status, reason=missing.reason)
    prepared = [reply for reply in found if isinstance(reply, Prepared)]
    times = [contest.times_ms[name] for contest in contests]
    speedup = paired_speedup([contest.times_ms[JIT] for contest in contests], times, rng)
    return SideResult(
        name=name,
        status="measured",
        version=prepared[0].version,
        times_ms=times,
        speedup=Interval(median=speedup.median, low=speedup.low, high=speedup.high),
        compile_s=[reply.compile_s for reply in prepared],
        errors=[error for reply in prepared for error in reply.errors],
        ran=prepared[0].ran,
        explanation=prepared[0].explanation,
    )
