"""The greedy graph trace: which operations form a region.

Operations are taken in order; each joins the region of an operand where one schedule can serve both: an elementwise
operation joins the contraction, reduction or elementwise run that feeds it, a reduction joins the elementwise run that
it consumes, and rows that are reduced and rescaled (normalisation, softmax) gather into one region. A region has one
result, so that what it holds is never stored but once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ..ir.graph import Graph, Op
from ..ir.graph_edit import remove_dead
from ..ir.infer import ELEMENTWISE
from .lower import ALIASES, DTYPES, IDENTITIES, VIEWS
from .lower_blocks import CONTRACTIONS, REDUCTIONS, WINDOWS
from .static_update import UPDATE, update_starts

Kind = Literal["alias", "view", "elementwise", "rows", "reduction", "contraction", "loop"]


@dataclass(frozen=True, slots=True)
class Region:
    """Operations that become one workload.

    Args:
        members: indices of operations, ascending.
        kind: what they amount to; a ``loop`` is a single operation whose body has regions of its own.
        full: the largest shape inside without unit axes; for ``rows`` what is reduced.
        rows: for ``rows`` the number of leading axes of ``full`` that survive the reductions.
    """

    members: tuple[int, ...]
    kind: Kind
    full: tuple[int, ...]
    rows: int = 0


def group(graph: Graph, supported: Collection[str]) -> tuple[Region, ...]:
    """Partition the operations that kernels can compute into regions.

    Args:
        graph: a simplified graph.
        supported: elementwise opcodes that the backend can emit.

    Returns:
        Regions in order of their last operation; operations in none of them stay XLA's.
    """
    grouping = _Grouping(graph, frozenset(supported))
    for index in range(len(graph.ops)):
        grouping.add(index)
    return tuple(sorted(grouping.regions.values(), key=lambda r: r.members[-1]))


def sink_views(graph: Graph) -> Graph:
    """Give every reader of a broadcast, transposition, slice or padding a copy of its own, for its region to absorb."""
    ops: list[Op] = []
    cloned: dict[int, Op] = {}
    next_value = graph.fresh()
    for op in graph.ops:
        operands = []
        for value in op.operands:
            source = cloned.get(value)
            if source is None:
                operands.append(value)
                continue
            ops.append(replace(source, results=(next_value,)))
            operands.append(next_value)
            next_value += 1
        new = replace(op, operands=tuple(operands))
        ops.append(new)
        if op.opcode in VIEWS - ALIASES and len(graph.users[op.result]) > 1:
            cloned[op.result] = new
    return remove_dead(graph.with_ops(ops))


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


class _Grouping:
    def __init__(self, graph: Graph, supported: frozenset[str]) -> None:
        self.graph = graph
        self.supported = supported
        self.regions: dict[int, Region] = {}
        self.region_of: dict[int, int] = {}

    def add(self, index: int) -> None:
        """Make a region of an operation and merge it with those that feed it."""
        kind = self._kind(self.graph.ops[index])
        if kind is None:
            return
        region = self._single(index, kind)
        self.regions[index] = region
        self.region_of[index] = index
        merged = True
        while merged:
            merged = self._merge_rows(index) or any(self._merge_one(other, index) for other in self._feeding(index))

    def _kind(self, op: Op) -> Kind | None:
        if op.opaque or op.effects or len(op.results) != 1:
            return None
        if op.result not in self.graph.outputs and not self.graph.users[op.result]:
            return None  # not on the way to a region's result, so that two regions could come to wait for each other
        types = [self.graph.types[v] for v in (*op.operands, *op.results)]
        if any(t.dtype not in DTYPES or t.size == 0 or t.varying for t in types):
            return None
        if op.opcode in ALIASES:
            return "alias"
        if op.opcode in VIEWS:
            return "view"
        if op.opcode in CONTRACTIONS:
            return "contraction"
        if op.opcode in WINDOWS:
            return "reduction"
        if op.opcode in REDUCTIONS:
            return "rows" if self._trailing(op) else "reduction"
        if update_starts(self.graph, op) is not None:
            return "elementwise"
        if op.opcode in IDENTITIES or (op.opcode in ELEMENTWISE and op.opcode in self.supported):
            return "elementwise"
        return None

    def _trailing(self, op: Op) -> bool:
        source = self.graph.types[op.operands[0]]
        axes = set(op.params["axes"])
        kept = [a for a in range(source.rank) if a not in axes and source.shape[a] != 1]
        gone = [a for a in axes if source.shape[a] != 1]
        return bool(gone) and bool(kept) and max(kept) < min(gone)

    def _single(self, index: int, kind: Kind) -> Region:
        op = self.graph.ops[index]
        full = _squeezed(op.type.shape)
        if kind == "rows":
            full = _squeezed(self.graph.types[op.operands[0]].shape)
            return Region((index,), kind, full, len(_squeezed(op.type.shape)))
        return Region((index,), kind, full)

    def _feeding(self, index: int) -> list[int]:
        """Regions that feed an operation's region, the latest first."""
        members = self.regions[index].members
        found = set()
        for member in members:
            for value in self.graph.ops[member].operands:
                producer = self.graph.producers.get(value)
                if producer is not None and producer in self.region_of and producer not in members:
                    found.add(self.region_of[producer])
        return sorted(found, key=lambda r: -self.regions[r].members[-1])

    def _merge(self, others: list[int], index: int, both: Region) -> None:
        for other in others:
            del self.regions[other]
        self.regions[index] = both
        for member in both.members:
            self.region_of[member] = index

    def _merge_one(self, other: int, index: int) -> bool:
        both = self._union(self.regions[other], self.regions[index])
        if both is None:
            return False
        self._merge([other], index, both)
        return True

    def _merge_rows(self, index: int) -> bool:
        """Merge all at once what only together has one result: a normalisation reads its mean twice."""
        found = self._row_family(index)
        if len(found) < 2:
            return False
        members = tuple(sorted(m for n in (*found, index) for m in self.regions[n].members))
        if self._escaping(members) != 1 or not self._convex(members):
            return False
        rows = next(self.regions[n] for n in (*found, index) if self.regions[n].kind == "rows")
        self._merge(list(found), index, replace(rows, members=members))
        return True

    def _row_family(self, index: int) -> tuple[int, ...]:
        """Regions above one that reduce, rescale or move the same rows, itself excluded; empty without a reduction."""
        family: dict[int, None] = {index: None}
        shape: tuple[tuple[int, ...], int] | None = None
        waiting = [index]
        while waiting:
            region = self.regions[waiting.pop(0)]
            if region.kind == "rows":
                shape = shape or (region.full, region.rows)
            for other in self._feeding(region.members[-1]):
                if other not in family and self._of_rows(self.regions[other], shape):
                    family[other] = None
                    waiting.append(other)
        if shape is None or not all(self._of_rows(self.regions[n], shape) for n in family):
            return ()
        return tuple(n for n in family if n != index)

    def _of_rows(self, region: Region, shape: tuple[tuple[int, ...], int] | None) -> bool:
        if region.kind == "rows":
            return shape is None or shape == (region.full, region.rows)
        if region.kind not in ("alias", "view", "elementwise"):
            return False
        if region.kind == "view" and not self._broadcasts(region):
            return False
        return shape is None or region.full in (shape[0], shape[0][: shape[1]])

    # ---- what may merge

    def _union(self, feeding: Region, region: Region) -> Region | None:
        kind = self._joined(feeding, region)
        if kind is None:
            return None
        members = tuple(sorted((*feeding.members, *region.members)))
        if self._escaping(members) != 1 or not self._convex(members):
            return None
        return replace(kind, members=members)

    def _joined(self, feeding: Region, region: Region) -> Region | None:
        """Kind and shape of the union, members left empty; None if no schedule serves both."""
        match feeding.kind, region.kind:
            case "view", "view" | "elementwise" | "rows" | "reduction" | "contraction":
                return replace(region, members=()) if self._absorbs_view(feeding, region) else None
            case "alias", "elementwise" | "rows":
                fits = feeding.full in (region.full, region.full[: region.rows])
                return replace(region, members=()) if fits and self._all_aliases(feeding) else None
            case "contraction" | "reduction" | "elementwise", "elementwise" if feeding.full == region.full:
                return replace(feeding, members=())
            case "elementwise", "elementwise" if self._only_updates(feeding, region):
                return replace(region, members=())
            case "contraction" | "reduction" | "elementwise", "alias":
                return None
            case "elementwise", "rows" if feeding.full == region.full:
                return replace(region, members=())
            case "elementwise", "reduction":
                return replace(region, members=()) if self._plain_reduction(region) else None
            case "rows", "elementwise" if region.full in (feeding.full, feeding.full[: feeding.rows]):
                return replace(feeding, members=())
            case "rows", "rows" if (feeding.full, feeding.rows) == (region.full, region.rows):
                return replace(feeding, members=())
            case "rows", "alias" if region.full == feeding.full[: feeding.rows]:
                return replace(feeding, members=())
            case "rows", "view" if region.full == feeding.full and self._broadcasts(region):
                return replace(feeding, members=())
            case _:
                return None

    def _absorbs_view(self, feeding: Region, region: Region) -> bool:
        """Views become index expressions of their reader; padding only where the reader can guard its reads."""
        opcodes = {self.graph.ops[m].opcode for m in feeding.members}
        if "pad" not in opcodes:
            return True
        if region.kind not in ("contraction", "reduction") or len(region.members) != 1:
            return False
        op = self.graph.ops[region.members[0]]
        return len(feeding.members) == 1 and self.graph.ops[feeding.members[0]].result == op.operands[0]

    def _only_updates(self, feeding: Region, region: Region) -> bool:
        """Whether what a region computes is read nowhere but as the new contents of a window."""
        result = self.graph.ops[feeding.members[-1]].result
        readers = [self.graph.ops[m] for m in region.members if result in self.graph.ops[m].operands]
        return all(op.opcode == UPDATE and op.operands.index(result) == 1 for op in readers)

    def _broadcasts(self, region: Region) -> bool:
        return all(self.graph.ops[m].opcode == "broadcast_in_dim" for m in region.members)

    def _all_aliases(self, region: Region) -> bool:
        return all(self.graph.ops[m].opcode in ALIASES for m in region.members)

    def _plain_reduction(self, region: Region) -> bool:
        return len(region.members) == 1 and self.graph.ops[region.members[0]].opcode in REDUCTIONS

    def _escaping(self, members: tuple[int, ...]) -> int:
        """How many values defined by the members are read outside."""
        inside = set(members)
        count = 0
        for member in members:
            value = self.graph.ops[member].result
            outside = any(u not in inside for u in self.graph.users[value])
            count += value in self.graph.outputs or outside
        return count

    def _convex(self, members: tuple[int, ...]) -> bool:
        """Whether no path leaves the members and comes back."""
        inside, first = set(members), members[0]
        reached: set[int] = set()
        for index in range(first, members[-1] + 1):
            producers = {self.graph.producers.get(v) for v in self.graph.ops[index].operands}
            if index in inside:
                if producers & reached:
                    return False
            elif producers & (inside | reached):
                reached.add(index)
        return True
