"""A child process of the benchmark that runs one peer on one row."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version

from ..messages import AnyRequest, Error, Missing, Prepare, Prepared, Reply, Time, Timed
from ..problem import Problem, read_problem
from ..serving import serve
from ..timing import Stopwatch
from .base import PEERS, NotExpressed, PeerKind, Program


class PeerChild:
    """Answers the requests about one row.

    Args:
        kind: The peer.
        problem: The row.
        records: Folder for what later processes of the row may use.
    """

    def __init__(self, kind: PeerKind, problem: Problem, records: str) -> None:
        self._kind = kind
        self._problem = problem
        self._records = records
        self._program: Program | None = None
        self._stopwatch = Stopwatch()

    def answer(self, request: AnyRequest) -> Reply:
        """Do what a request asks for."""
        match request:
            case Prepare():
                return self._prepare(request.accuracy_inputs)
            case Time():
                return self._time(request.round)
        raise ValueError(f"expected a request to prepare or time, found {request.kind}")

    def _prepare(self, accuracy_inputs: int) -> Reply:
        start = time.perf_counter()
        try:
            program = self._build(self._problem.calls)
        except NotExpressed as error:
            return Missing(status="not expressed", reason=str(error))
        program.run(program.load(self._problem.inputs[0]))
        took = time.perf_counter() - start
        self._program = program
        errors: list[Error] = []
        if accuracy_inputs:
            # Results are compared for a single call, like those of the other sides.
            single = program if self._problem.calls == 1 else self._build(1)
            errors = [error for index in range(accuracy_inputs) for error in self._errors(single, index)]
        return Prepared(version=version(self._kind.distribution), compile_s=took, errors=errors)

    def _build(self, calls: int) -> Program:
        threads = len(os.sched_getaffinity(0))
        return self._kind.builder()(self._problem, calls, threads, self._kind.option, self._records)

    def _errors(self, program: Program, index: int) -> list[Error]:
        found = program.run(program.load(self._problem.inputs[index]))
        return self._problem.errors(index, program.results(found))

    def _time(self, number: int) -> Timed:
        if self._program is None:
            raise ValueError("expected to be prepared before being timed")
        program = self._program
        loaded = program.load(self._problem.inputs[number % len(self._problem.inputs)])
        return Timed(milliseconds=self._stopwatch.sample(lambda: program.run(loaded)) / self._problem.calls)


def main(command: Sequence[str] | None = None) -> int:
    """Serve requests about the row in a folder."""
    parser = argparse.ArgumentParser(prog="python -m tilewright.bench.peers.child", description=__doc__)
    parser.add_argument("--peer", choices=tuple(PEERS), required=True)
    parser.add_argument("--folder", required=True, help="where the row is")
    parser.add_argument("--records", required=True, help="folder for what later processes of the row may use")
    found = parser.parse_args(command)
    loaded: list[PeerChild] = []  # on the first request, so that a failure becomes a reply

    def answer(request: AnyRequest) -> Reply:
        if not loaded:
            loaded.append(PeerChild(PEERS[found.peer], read_problem(found.folder), found.records))
        return loaded[0].answer(request)

    serve(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
