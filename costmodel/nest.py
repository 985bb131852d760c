"""Reading off a trace, without replaying it, what loop nest it makes of a workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..passes.schedule import Step, Trace
from .anatomy import WorkloadAnatomy

MAX_LOOPS = 10
"""Loops beyond these count as part of the innermost tile."""


@dataclass(frozen=True, slots=True, eq=False)
class Nests:
    """The loop nests of many candidates of one workload.

    Args:
        spans: float[candidates, 1 + MAX_LOOPS, columns], how many values of each iterator one execution of the body of
            the first ``level`` loops covers; level 0 is the whole box, the last level the register tile.
        trips: float[candidates, MAX_LOOPS], trip counts, outermost first; 1 where there is no loop.
        vector: int[candidates], the column that is vectorised in the main Block, -1 for none.
        lanes: float[candidates], how many values of a reduction are kept apart in lanes (`rfactor`), else 1.
        parallel: float[candidates], trip count of the parallel loop, 1 if there is none.
        placed: float[candidates], share of the temporaries that are computed at a tile.
        registers: bool[candidates], whether the main Block accumulates in registers.
        unrolled: float[candidates], copies of the innermost body that unrolled loops over a reduction make.
        copied: bool[candidates], whether an operand is copied first (`cache_read`).
        packed: bool[candidates], whether an operand's layout is changed.
        partitioned: bool[candidates], whether a loop is cut so that its middle part has no guards.
        separate: bool[candidates], whether the result is read from another buffer than it is accumulated in.
        swapped: bool[candidates], whether the vector iterator stands outside of the rows in the main Block's box.
        streamed: bool[candidates], whether the result is stored past the caches.
        joined: bool[candidates], whether vectors run across the ends of the main Block's rows.
        steps: float[candidates], length of the trace.
    """

    spans: np.ndarray
    trips: np.ndarray
    reducing: np.ndarray
    vector: np.ndarray
    lanes: np.ndarray
    parallel: np.ndarray
    placed: np.ndarray
    registers: np.ndarray
    unrolled: np.ndarray
    copied: np.ndarray
    packed: np.ndarray
    partitioned: np.ndarray
    separate: np.ndarray
    swapped: np.ndarray
    streamed: np.ndarray
    joined: np.ndarray
    steps: np.ndarray

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.trips)


@dataclass(slots=True)
class _Loop:
    column: int
    trips: int
    root: bool


@dataclass(slots=True)
class _Reader:
    """Follows one trace, step by step."""

    work: WorkloadAnatomy
    box: np.ndarray
    loops: dict[str, _Loop] = field(default_factory=dict)
    order: list[tuple[str, int, int]] = field(default_factory=list)
    fused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    joined: tuple[str, str] = ("", "")
    vector: int = -1
    lanes: int = 1
    parallel: int = 1
    placed: int = 0
    registers: bool = False
    unrolled: int = 1
    flags: set[str] = field(default_factory=set)

    def step(self, step: Step) -> None:
        """Note what a step does; one that is unknown changes nothing."""
        match step.primitive:
            case "split":
                self._split(step)
            case "fuse":
                inner = str(step.args[0])
                parts = (*self._parts(step.target), *self._parts(inner))
                self.fused[f"{step.target}_{inner}"] = parts
            case "parallel":
                self.parallel = self._trips(step.target)
            case "unroll" if not any(self.loops[p].root for p in self._parts(step.target) if p in self.loops):
                self.unrolled *= max(1, self._trips(step.target))
            case "interchange":
                self._interchange(step.target, str(step.args[0]))
            case "vectorize" | "reorder" | "rfactor" | "compute_at" | "set_scope" | "fuse_box":
                self._annotate(step)
            case _:
                self.flags.add(step.primitive)

    def _block(self, name: str) -> str:
        """The workload's Block that a name in a trace belongs to: partial reductions and copies have suffixes."""
        base = name.split("#")[0]
        while base not in self.work.names and "." in base:
            base = base.rsplit(".", 1)[0]
        return base

    def _split(self, step: Step) -> None:
        block, (iterator, factor) = self._block(step.target), step.args
        column = self.work.column(block, str(iterator))
        if column is None or block not in (self.work.names[self.work.root], self.work.names[self.work.main]):
            return
        root = block == self.work.names[self.work.root] and not self.work.reduces[column]
        if root and not self.work.members[self.work.main][column]:
            return  # a loop around the root Block alone
        size = max(int(factor), 1) * (self.lanes if column == self.vector else 1)
        trips = -(-int(self.box[column]) // size)
        name = f"{step.target}.{iterator}"
        while name in self.loops:
            name += "'"
        self.loops[name] = _Loop(column, trips, root)
        self.box[column] = min(size, int(self.box[column]))
        self.order.append((name, column, int(self.box[column])))

    def _annotate(self, step: Step) -> None:
        main = self.work.names[self.work.main]
        match step.primitive:
            case "fuse_box" if step.target == main:
                self.joined = "_".join(map(str, step.args)), str(step.args[1])
                self.flags.add("fuse_box")
            case "vectorize" if self._block(step.target) == main and step.args:
                iterator = str(step.args[0]).removesuffix(".l")
                iterator = self.joined[1] if iterator == self.joined[0] else iterator
                column = self.work.column(main, iterator)
                self.vector = self.vector if column is None else column
            case "reorder" if step.target == main:
                columns = [self.work.column(main, str(a)) for a in step.args]
                if self.vector in columns and columns.index(self.vector) + 1 < len(columns):
                    self.flags.add("swapped")
            case "rfactor" if self._block(step.target) == main:
                self.lanes = int(step.args[1])
                column = self.work.column(main, str(step.args[0]))
                if column is not None:
                    self.vector = column
            case "compute_at":
                self.placed += 1
            case "set_scope" if step.args and step.args[0] == "register":
                written = self.work.written[self.work.main]
                self.registers |= step.target in (written, f"{written}.p", f"{written}.w")

    def _parts(self, loop: str) -> tuple[str, ...]:
        return self.fused.get(loop, (loop,))

    def _trips(self, loop: str) -> int:
        total = 1
        for part in self._parts(loop):
            total *= self.loops[part].trips if part in self.loops else 1
        return total

    def _interchange(self, outer: str, inner: str) -> None:
        names = [name for name, _, _ in self.order]
        if outer in names and inner in names:
            a, b = names.index(outer), names.index(inner)
            self.order[a], self.order[b] = self.order[b], self.order[a]


def read_nests(work: WorkloadAnatomy, traces: Sequence[Trace]) -> Nests:
    """The loop nests that traces make of a workload; a step that this module does not know is passed over.

    Args:
        work: the workload.
        traces: schedules of it.
    """
    readers = [_read(work, trace) for trace in traces]
    count = len(traces)
    spans = np.empty((count, 1 + MAX_LOOPS, len(work.extents)))
    trips = np.ones((count, MAX_LOOPS))
    reducing = np.zeros((count, MAX_LOOPS), bool)
    for row, reader in enumerate(readers):
        span = work.extents.astype(float)
        spans[row, 0] = span
        # Loops around the tile come first, whatever the order of the steps: reductions are split inside of it.
        order = sorted(reader.order, key=lambda item: not reader.loops[item[0]].root)
        for level, (name, column, size) in enumerate(order[:MAX_LOOPS]):
            span[column] = size
            spans[row, level + 1] = span
            trips[row, level] = reader.loops[name].trips
            reducing[row, level] = work.reduces[column]
        spans[row, min(len(order), MAX_LOOPS) :] = reader.box
    temporaries = max(1, len({a.buffer for a in work.accesses if a.private}))

    def flags(name: str) -> np.ndarray:
        return np.array([name in r.flags for r in readers], bool)

    return Nests(
        spans,
        trips,
        reducing,
        np.array([r.vector for r in readers], int),
        np.array([r.lanes for r in readers], float),
        np.array([r.parallel for r in readers], float),
        np.array([min(r.placed / temporaries, 1.0) for r in readers], float),
        np.array([r.registers for r in readers], bool),
        np.array([r.unrolled for r in readers], float),
        flags("cache_read"),
        flags("pack"),
        flags("partition"),
        flags("cache_write"),
        flags("swapped"),
        flags("nontemporal"),
        flags("fuse_box"),
        np.array([len(t) for t in traces], float),
    )


def _read(work: WorkloadAnatomy, trace: Trace) -> _Reader:
    reader = _Reader(work, work.extents.astype(float))
    for step in trace:
        reader.step(step)
    return reader
