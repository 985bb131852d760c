"""A tiny world for search tests: spaces of known latencies, a runner that looks them up, a database in a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tilewright.ir.affine import AffineExpr, var
from tilewright.ir.loop import Access, Apply, Block, Buffer, Const, Iter, LoopFunc, Read
from tilewright.ir.measure import MeasureData, MeasureRequest, MeasureResult, TaskKey, TimingProtocol
from tilewright.ir.target import Target
from tilewright.ir.text import digest, print_ir
from tilewright.passes.schedule import ScheduleError, Step, trace_from_json
from tilewright.search.contest import TuneTask
from tilewright.search.sketch import Sketch
from tilewright.search.space import Candidate

TARGET = Target("test", "+avx2,+fma", 256, 2, 32 << 10, 1 << 20, 16 << 20, 100.0, 40.0)


def workload(rows: int = 64, columns: int = 256) -> LoopFunc:
    """``y = 2 * x``."""
    shape = (rows, columns)
    index = (var("i"), var("j"))
    iters = (Iter("i", AffineExpr(), rows), Iter("j", AffineExpr(), columns))
    value = Apply("mul", (Read("x", index, "float32"), Const(2.0, "float32")), "float32")
    block = Block("double", iters, Access("y", index), value)
    return LoopFunc("double", (Buffer("x", shape, "float32"), Buffer("y", shape, "float32")), 1, block)


def sketch(sizes: Sequence[int] = (1, 2, 4, 8, 16, 32), refuse: int = 0) -> Sketch:
    """Splits of both axes, 6 x 6 points by default; a first factor of ``refuse`` is refused."""

    def build(decisions: object) -> tuple[Step, ...]:
        assert isinstance(decisions, dict)
        if decisions["outer"] == refuse:
            raise ScheduleError("expected another factor")
        return (Step("split", "double", ("i", decisions["outer"])), Step("split", "double", ("j", decisions["inner"])))

    choices = {"outer": tuple(sizes), "inner": tuple(sizes)}
    return Sketch("tiles", choices, {"outer": sizes[-1], "inner": sizes[0]}, build)


@dataclass(frozen=True, slots=True)
class FakeKernel:
    """A kernel whose code is its trace."""

    symbol: str
    object_code: bytes
    params: tuple[Buffer, ...] = ()
    extent: int = 1
    scratch_bytes: int = 0
    in_place: tuple[int, ...] = ()


def build(task: TuneTask, candidate: Candidate) -> FakeKernel:
    """Compiles nothing."""
    return FakeKernel("fake", candidate.key.encode(), task.func.params)


def factors(key: str) -> tuple[int, int]:
    """The two factors of a candidate of `sketch`."""
    outer, inner = trace_from_json(key)
    return int(outer.args[1]), int(inner.args[1])


def bowl(key: str) -> float:
    """Microseconds with one minimum of 10, at (4, 16)."""
    outer, inner = factors(key)
    return (10 + 3 * abs(np.log2(outer / 4)) + 2 * abs(np.log2(inner / 16))) * 1e-6


Latency = Callable[[str], float | MeasureResult]


@dataclass(slots=True)
class FakeRunner:
    """Looks latencies up; advances a clock as if it measured."""

    latency: Latency = bowl
    scale: dict[int, float] = field(default_factory=dict)
    seconds_each: float = 0.1
    noise: float = 0.0
    now: float = 0.0
    requests: list[str] = field(default_factory=list)
    calls: int = 0
    before: Callable[[int], None] = lambda call: None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def measure(
        self, data: MeasureData, requests: Sequence[MeasureRequest], timing: TimingProtocol
    ) -> list[MeasureResult]:
        """One result per request."""
        self.calls += 1
        self.before(self.calls)
        results = []
        for request in requests:
            key = request.kernel.object_code.decode()
            self.requests.append(key)
            self.now += self.seconds_each
            found = self.latency(key)
            if not isinstance(found, MeasureResult):
                samples = found * self.scale.get(id(data), 1.0) * (1 + self.noise * self.rng.random(timing.repeats))
                found = MeasureResult("ok", tuple(float(s) for s in samples))
            results.append(found)
        return results

    def clock(self) -> float:
        """Seconds that measuring took."""
        return self.now


@dataclass(slots=True)
class FakeDatabase:
    """Keeps results in a list."""

    rows: list[tuple[TaskKey, str, MeasureResult]] = field(default_factory=list)

    def add_result(
        self, key: TaskKey, trace: str, result: MeasureResult, timing: TimingProtocol, **_: object
    ) -> object:
        """Keep one."""
        self.rows.append((key, trace, result))
        return None

    def best_traces(self, key: TaskKey, count: int) -> list[tuple[str, float]]:
        """Fastest first."""
        best: dict[str, float] = {}
        for own, trace, result in self.rows:
            if own == key and result.ok:
                best[trace] = min(best.get(trace, float("inf")), result.median_s)
        return sorted(best.items(), key=lambda item: item[1])[:count]


def task(weight: float = 1.0, rows: int = 64) -> TuneTask:
    """A task of `workload`."""
    func = workload(rows)
    key = TaskKey(digest(func), print_ir(func), TARGET.fingerprint, "fake", 1, 2)
    x = np.zeros((rows, 256), np.float32)
    return TuneTask(key, func, TARGET, weight, MeasureData((x,), (x,), (0.0,)))
