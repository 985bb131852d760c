"""One contest: every side of a row made ready in processes of one allocator mode, then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import numpy as np

from .messages import JIT, AnyRequest, Export, Missing, Prepare, Prepared, Reply, Time, Timed
from .peers.base import PEERS
from .sessions import ALLOCATORS, Session, SessionError
from .timing import turns

_WARM_UP = 2  # untimed rounds
_LEAST_ROUNDS = 6
_POOL = 4  # different inputs of a process


@dataclass(frozen=True, slots=True)
class Contest:
    """What one contest does.

    Attributes:
        suite: The suite.
        row: The row.
        allocator: Mode of the allocator, for all processes.
        requests: How to make `jax.jit` and ours ready, `jax.jit` first.
        peers: Names of the peers.
        rounds: Most samples of each side.
        timing_s: Stop sampling after about this time, unless there are still too few samples.
        deadline: When everything has to be done, on `time.monotonic`'s clock.
        accuracy_inputs: Inputs on which results are compared.
        seed: Decides inputs and order.
        pool: How many different inputs take turns.
        alone: How many samples of `jax.jit` to take before any other side exists.
        records: Existing folder in which peers leave what later contests of the row may use.
        left_out: Which of them do not take part, and why.
    """

    suite: str
    row: str
    allocator: str
    requests: Sequence[Prepare]
    peers: Sequence[str]
    rounds: int
    timing_s: float
    deadline: float
    accuracy_inputs: int
    seed: int
    pool: int = _POOL
    alone: int = 0
    records: str = ""
    left_out: Mapping[str, Missing] = field(default_factory=dict)

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline - time.monotonic(), 0.0)


@dataclass(slots=True)
class ContestResult:
    """What came of it.

    Attributes:
        sides: What became of each side.
        times_ms: Milliseconds per call of each side that was measured, by rounds.
        alone_ms: Samples of `jax.jit` before any other side existed.
    """

    sides: dict[str, Prepared | Missing] = field(default_factory=dict)
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    alone_ms: list[float] = field(default_factory=list)


def hold(contest: Contest, say: Callable[[str], None] = lambda text: None) -> ContestResult:
    """Hold a contest.

    A side of ours or a peer that fails is reported as such; the others go on.

    Args:
        contest: What to do.
        say: Called with what is being done.

    Raises:
        SessionError: `jax.jit` itself did not get through.
    """
    result = ContestResult()
    with ExitStack() as stack:
        main = _main_session(contest, result, stack, say)
        sessions = {name: main for name, found in result.sides.items() if isinstance(found, Prepared)}
        if contest.peers:
            folder = stack.enter_context(TemporaryDirectory(prefix="tilewright-bench-"))
            main.wake()
            exported = main.ask(Export(folder=folder, accuracy_inputs=contest.accuracy_inputs), contest.left_s())
            main.sleep()
            for name in contest.peers:
                if name in contest.left_out:
                    result.sides[name] = contest.left_out[name]
                    continue
                say(name)
                session = _peer_session(contest, name, folder, exported, result, stack)
                if session is not None:
                    sessions[name] = session
        say("timing")
        _take_turns(contest, sessions, result)
    return result


def _main_session(contest: Contest, result: ContestResult, stack: ExitStack, say: Callable[[str], None]) -> Session:
    """The process with `jax.jit` and ours, asleep; a side that kills it is left out in the next attempt."""
    given = ["--suite", contest.suite, "--row", contest.row, "--seed", str(contest.seed), "--pool", str(contest.pool)]
    while True:
        session = stack.enter_context(Session("child", given, ALLOCATORS[contest.allocator]))
        for request in contest.requests:
            if request.side in result.sides and isinstance(result.sides[request.side], Missing):
                continue
            say(request.side)
            try:
                reply = session.ask(request, contest.left_s())
            except SessionError as error:
                if request.side == JIT or contest.left_s() == 0.0:
                    raise
                result.sides[request.side] = Missing(status="failed", reason=str(error))
                break
            if request.side == JIT:
                _needed(reply)
                if contest.alone:
                    samples = [_sample(session, JIT, number, contest) for number in range(_WARM_UP + contest.alone)]
                    result.alone_ms = samples[_WARM_UP:]
            result.sides[request.side] = _prepared(reply)
        else:
            session.sleep()
            return session


def _needed(reply: Reply) -> None:
    if isinstance(reply, Missing):
        raise SessionError(reply.reason)


def _prepared(reply: Reply) -> Prepared | Missing:
    if isinstance(reply, Prepared | Missing):
        return reply
    return Missing(status="failed", reason=f"unexpected reply {reply.kind}")


def _peer_session(
    contest: Contest, name: str, folder: str, exported: Reply, result: ContestResult, stack: ExitStack
) -> Session | None:
    """A peer's process, asleep; None if it can't take part."""
    kind = PEERS[name]
    if isinstance(exported, Missing):
        result.sides[name] = Missing(status="not expressed", reason=exported.reason)
        return None
    if missing := kind.missing():
        remedy = f"pip install 'tilewright[{kind.extra}]'"
        result.sides[name] = Missing(status="not installed", reason=f"no {', '.join(missing)}: {remedy}")
        return None
    given = ["--peer", name, "--folder", folder, "--records", contest.records or folder]
    session = stack.enter_context(Session("peers.child", given, ALLOCATORS[contest.allocator]))
    try:
        # At most half of what is left: a peer that takes too long must not cost the row its other sides.
        reply = session.ask(Prepare(side=name, accuracy_inputs=contest.accuracy_inputs), contest.left_s() / 2)
    except SessionError as error:
        reply = Missing(status="failed", reason=str(error))
    result.sides[name] = _prepared(reply)
    if not isinstance(reply, Prepared):
        return None
    session.sleep()
    return session


def _take_turns(contest: Contest, sessions: Mapping[str, Session], result: ContestResult) -> None:
    """Time the sides in turns; only the process whose turn it is runs."""
    rng = np.random.default_rng(contest.seed)
    sides = list(sessions)
    awake: Session | None = None
    times: dict[str, list[float]] = {name: [] for name in sides}
    started = time.monotonic()
    for number, order in enumerate(turns(sides, _WARM_UP + contest.rounds, rng)):
        if number == _WARM_UP:
            started = time.monotonic()
        done = number - _WARM_UP
        if done >= _LEAST_ROUNDS and done % 2 == 0 and time.monotonic() - started > contest.timing_s:
            break
        for name in order:
            if isinstance(result.sides[name], Missing):
                continue
            session = sessions[name]
            if awake is not session:
                if awake is not None:
                    awake.sleep()
                session.wake()
                awake = session
            try:
                times[name].append(_sample(session, name, number, contest))
            except SessionError as error:
                if session is sessions[JIT]:
                    raise
                result.sides[name] = Missing(status="failed", reason=str(error))
    result.times_ms = {n: t[_WARM_UP:] for n, t in times.items() if isinstance(result.sides[n], Prepared)}


def _sample(session: Session, side: str, number: int, contest: Contest) -> float:
    request: AnyRequest = Time(side=side, round=number)
    reply = session.ask(request, contest.left_s())
    if isinstance(reply, Timed):
        return reply.milliseconds
    session.close()
    raise SessionError(reply.reason if isinstance(reply, Missing) else f"unexpected reply {reply.kind}")
