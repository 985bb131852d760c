"""What `compile` did to a function and why, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..costmodel.bounds import bound_seconds
from ..ir.graph import Graph
from ..ir.target import Target
from ..passes.graph_trace import value_of
from .outcome import Outcome
from .planning import Task

_LABEL_OPS = 6


@dataclass(frozen=True, slots=True)
class RegionRow:
    """One distinct workload.

    Args:
        workload: digest.
        holds: the operations in it.
        count: how many regions of the function are equal to it.
        chosen: ``native`` or ``xla``.
        native_s: seconds of our kernel, if it was measured.
        xla_s: seconds of XLA's code for it, if it was measured.
        roofline_s: seconds below which no code can get on this machine, if the machine was measured.
        share: part of the measured time of all native regions.
        schedule: the trace in words.
    """

    workload: str
    holds: str
    count: int
    chosen: str
    native_s: float | None
    xla_s: float | None
    roofline_s: float | None
    share: float | None
    schedule: str

    @property
    def speedup(self) -> float | None:
        """Time of XLA's code divided by ours."""
        return self.xla_s / self.native_s if self.xla_s and self.native_s else None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a function for one set of shapes.

    Args:
        name: the function.
        mode: ``native`` or ``xla`` (the function as `jax.jit` compiles it).
        basis: what the decision rests on: ``measured``, ``predicted`` (nothing was timed) or ``database``.
        reason: why the function runs as plain JAX, or empty.
        speedup: time of `jax.jit` divided by ours in the deciding comparison.
        coverage: share of `jax.jit`'s time that own kernels replace, as far as it was measured.
        error: worst error of an output in units of what the accuracy contract allows.
        plan: what was grouped or cut otherwise than by default, in words.
        seconds: time spent in each step; `step: part` is contained in `step`.
        regions: distinct workloads, the most expensive first.
    """

    name: str
    mode: str
    basis: str
    reason: str
    speedup: float | None
    coverage: float | None
    error: float | None
    plan: tuple[str, ...]
    seconds: Mapping[str, float]
    regions: tuple[RegionRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self._head(), *(_line(row) for row in self.regions)])

    def _head(self) -> list[str]:
        lines = [f"{self.name}: {self.mode} ({self.basis})"]
        if self.reason:
            lines.append(f"  {self.reason}")
        if self.speedup is not None:
            lines.append(f"  {self.speedup:.2f}x jax.jit in the deciding comparison")
        if self.coverage is not None:
            lines.append(f"  own kernels replace {self.coverage:.1%} of jax.jit's time")
        if self.error is not None:
            lines.append(f"  worst error: {self.error:.0%} of what the accuracy contract allows")
        if self.plan:
            lines.append(f"  plan: {', '.join(self.plan)}")
        spent = ", ".join(f"{step} {s:.2f} s" for step, s in self.seconds.items())
        total = sum(s for step, s in self.seconds.items() if ":" not in step)
        lines.append(f"  compiled in {total:.1f} s ({spent})")
        if self.regions:
            lines.append("  regions: count, share, time, against XLA, against the roofline, contents, schedule")
        return lines


def _line(row: RegionRow) -> str:
    share = "     -" if row.share is None else f"{row.share:6.1%}"
    took = "         -" if row.native_s is None else f"{row.native_s * 1e6:7.1f} us"
    against = "      -" if row.speedup is None else f"{row.speedup:6.1f}x"
    bound = "   -" if not (row.native_s and row.roofline_s) else f"{row.native_s / row.roofline_s:4.1f}x"
    return f"  {row.count:3d}x {share} {took} {against} {bound}  {row.chosen:6s} {row.holds}\n        {row.schedule}"


def make_report(name: str, outcome: Outcome, limits: Target | None) -> Report:
    """The report of an outcome.

    Args:
        name: the function.
        outcome: what became of it.
        limits: the machine with measured speeds, if it was measured.
    """
    native = outcome.graph is not None
    comparison, recalled = outcome.comparison, outcome.recalled
    ratio = comparison.speedup if comparison else recalled.ratio if recalled else None
    errors = [e.error / e.allowed if e.allowed else e.error for e in outcome.accuracy]
    basis = "database" if recalled else "measured" if comparison or outcome.latencies else "predicted"
    rows = _rows(outcome, limits) if outcome.parts is not None else ()
    return Report(
        name,
        "native" if native else "xla",
        basis,
        outcome.reason,
        ratio,
        _coverage(outcome) if native else 0.0,
        max(errors, default=None),
        _plan(outcome) if native else (),
        dict(outcome.seconds),
        rows,
    )


def _rows(outcome: Outcome, limits: Target | None) -> tuple[RegionRow, ...]:
    assert outcome.parts is not None
    tasks = outcome.parts.tasks.values()
    # Shares of a total that lacks regions would mislead: a short budget may leave some unmeasured.
    complete = all(key in outcome.latencies for key in outcome.choices)
    total = sum(t.count * outcome.latencies[t.key] for t in tasks if t.key in outcome.latencies) if complete else 0.0
    rows = [_row(t, outcome, total, limits) for t in tasks]
    return tuple(sorted(rows, key=lambda r: -(r.share or 0.0)))


def _row(task: Task, outcome: Outcome, total: float, limits: Target | None) -> RegionRow:
    choice = outcome.choices.get(task.key) if outcome.graph is not None else None
    took = outcome.latencies.get(task.key)
    return RegionRow(
        workload=task.key,
        holds=_holds(task.region),
        count=task.count,
        chosen="native" if choice else "xla",
        native_s=took,
        xla_s=outcome.baseline_s.get(task.key),
        roofline_s=None if limits is None else bound_seconds(task.workload.func, limits),
        share=None if took is None or not total else task.count * took / total,
        schedule=_schedule(task, outcome) if choice else "-",
    )


def _schedule(task: Task, outcome: Outcome) -> str:
    own = " ".join(map(str, outcome.choices[task.key].trace))
    name = outcome.parts.formulations.get(task.key) if outcome.parts is not None else None
    return f"{name}, and where that is not valid {own}" if name else own


def _holds(region: Graph) -> str:
    counts = Counter(op.opcode for op in region.ops)
    names = [f"{n} {opcode}" if n > 1 else opcode for opcode, n in counts.items()]
    shape = "x".join(map(str, region.output_types[0].shape))
    more = f" and {len(names) - _LABEL_OPS} more" if len(names) > _LABEL_OPS else ""
    return f"{' '.join(names[:_LABEL_OPS])}{more} -> {shape}"


def _plan(outcome: Outcome) -> tuple[str, ...]:
    """The steps of the graph trace, with how often, by the operations whose results they name."""
    if outcome.parts is None:
        return ()
    graph, found = outcome.parts.graph, Counter[str]()
    for step in outcome.parts.trace:
        if step.primitive == "set_layout":
            values = [v for v in (step.target, *map(str, step.args)) if v.startswith("%")]
            found[f"axes {step.args[0]} of {len(values)} values"] += 1
        elif step.primitive != "formulate":  # said with the schedules
            ops = (graph.producer(value_of(str(name))) for name in (step.target, *step.args))
            found[f"{step.primitive} at {' '.join(op.opcode for op in ops if op is not None)}"] += 1
    return tuple(f"{n} times {text}" if n > 1 else text for text, n in found.items())


def _coverage(outcome: Outcome) -> float | None:
    """Time of the operations in native calls over that of all operations, by XLA's own times."""
    if outcome.rest_s is None or outcome.parts is None or not outcome.baseline_s:
        return None
    tasks = outcome.parts.tasks
    inside = sum(tasks[k].count * s for k, s in outcome.baseline_s.items() if k in outcome.choices)
    return inside / (inside + outcome.rest_s) if inside + outcome.rest_s else None
