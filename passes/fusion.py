"""The greedy graph trace: which operations form a region.

Operations are taken in order; each joins the region of an operand where one schedule can serve both: an elementwise
operation joins the contraction, reduction or elementwise run that feeds it, a reduction joins the elementwise run that
it consumes, and rows that are reduced and rescaled (normalisation, softmax) gather into one region. Where such rows
come from a product, they gather with it, and with a product that reduces them further, so that they need not be stored
(attention). A region has one result, so that what it holds is never stored but once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..ir import dtypes
from ..ir.graph import Graph, Op, TensorType
from ..ir.graph_edit import remove_dead
from ..ir.infer import ELEMENTWISE
from .closed_form import of_indices
from .lower import ALIASES, DTYPES, IDENTITIES, VIEWS
from .lower_blocks import AXIS_REDUCTIONS, CONTRACTED, CONTRACTIONS, WINDOWS
from .lower_moves import JOINS, MAX_PARTS, MOVES, is_place

_LONGEST_COLUMN = 8192
"""Most values of a column of which a vector's width stays in a second-level cache."""
_LEAST_VECTOR = 16

Kind = Literal["alias", "view", "elementwise", "rows", "reduction", "contraction", "stream", "loop"]


@dataclass(frozen=True, slots=True)
class Region:
    """Operations that become one workload.

    Args:
        members: indices of operations, ascending.
        kind: what they amount to; a ``loop`` is a single operation whose body has regions of its own.
        full: the largest shape inside without unit axes; for ``rows`` what is reduced.
        kept: for ``rows`` the axes of ``full`` that survive the reductions.
    """

    members: tuple[int, ...]
    kind: Kind
    full: tuple[int, ...]
    kept: tuple[int, ...] = ()

    @property
    def reduced(self) -> tuple[int, ...]:
        """For ``rows`` the shape of what the reductions leave."""
        return tuple(self.full[axis] for axis in self.kept)


def group(graph: Graph, supported: Mapping[str, Collection[str]], apart: Collection[int] = ()) -> tuple[Region, ...]:
    """Partition the operations that kernels can compute into regions.

    Args:
        graph: a simplified graph.
        supported: element types of the operands that the backend can emit an elementwise operation for, by opcode.
        apart: results that are not to be computed from rows of a product that are never stored.

    Returns:
        Regions in order of their last operation; operations in none of them stay XLA's.
    """
    grouping = _Grouping(graph, supported, frozenset(apart))
    for index in range(len(graph.ops)):
        grouping.add(index)
    grouping.gather_streams()
    return tuple(sorted(grouping.worthwhile(), key=lambda r: r.members[-1]))


def sink_views(graph: Graph) -> Graph:
    """Give every reader of a broadcast, transposition, slice or padding a copy of its own, for its region to absorb.

    The same for concatenations, where the reader takes them element by element: it then reads the parts. What is
    computed from indices alone is copied together with all that it is computed from.
    """
    ops: list[Op] = []
    cloned: dict[int, Op] = {}
    parts: dict[int, int] = {}
    formed = of_indices(graph)
    fresh = itertools.count(graph.fresh())

    def copied(value: int) -> int:
        source, name = cloned[value], next(fresh)
        inner = tuple(copied(v) if v in parts or (v in formed and v in cloned) else v for v in source.operands)
        ops.append(replace(source, operands=inner, results=(name,)))
        return name

    for op in graph.ops:
        if len(op.results) == 1 and op.result in formed:
            ops.append(op)
            cloned[op.result] = op
            continue
        shape = {v: graph.types[v].shape for v in op.operands}
        taken = [v in cloned and (v not in parts or _takes_elements(op, shape[v])) for v in op.operands]
        new = replace(op, operands=tuple(copied(v) if t else v for v, t in zip(op.operands, taken, strict=True)))
        ops.append(new)
        if len(op.results) != 1 or len(graph.users[op.result]) <= 1:
            continue
        if op.opcode in VIEWS - ALIASES:
            cloned[op.result] = new
        elif op.opcode == "concatenate" and sum(parts.get(v, 1) for v in op.operands) <= MAX_PARTS:
            cloned[op.result], parts[op.result] = op, sum(parts.get(v, 1) for v in op.operands)
    return remove_dead(graph.with_ops(ops))


def _takes_elements(op: Op, shape: tuple[int, ...]) -> bool:
    """Whether each element of an operand of that shape is read once, for one element of the result."""
    same = not op.opaque and len(op.results) == 1 and op.type.shape == shape
    return op.opcode == "concatenate" or (same and op.opcode in ELEMENTWISE | IDENTITIES)


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


class _Grouping:
    def __init__(
        self, graph: Graph, supported: Mapping[str, Collection[str]], apart: frozenset[int] = frozenset()
    ) -> None:
        self.graph = graph
        self.supported = supported
        self.apart = apart
        self.formed = of_indices(graph)
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

    def worthwhile(self) -> list[Region]:
        """Regions but those that only fill memory with a function of its indices, which XLA does as well."""
        ops = self.graph.ops
        return [r for r in self.regions.values() if not all(ops[m].result in self.formed for m in r.members)]

    def _kind(self, op: Op) -> Kind | None:
        if op.opaque or op.effects or len(op.results) != 1:
            return None
        if op.result not in self.graph.outputs and not self.graph.users[op.result]:
            return None  # not on the way to a region's result, so that two regions could come to wait for each other
        types = [self.graph.types[v] for v in (*op.operands, *op.results)]
        if any(t.dtype not in DTYPES or t.size == 0 or t.varying for t in types):
            return None
        if op.opcode == "concatenate" and len(op.operands) > MAX_PARTS:
            return None
        if op.opcode in ALIASES and op.result not in self.formed:
            return "alias"
        if op.opcode in VIEWS or op.result in self.formed:
            return "view"
        if op.opcode in CONTRACTIONS:
            return "contraction" if all(t.dtype == CONTRACTED for t in types) else None
        if op.opcode in WINDOWS:
            return "reduction"
        if op.opcode in AXIS_REDUCTIONS:
            return "rows" if self._rescalable(op) else "reduction"
        return "elementwise" if op.opcode in JOINS | IDENTITIES or self._supported(op, types) else None

    def _supported(self, op: Op, types: list[TensorType]) -> bool:
        """Whether an elementwise operation can be emitted for its element types."""
        if op.opcode not in ELEMENTWISE:
            return False
        operand = types[1] if op.opcode == "select_n" else types[0]
        if op.opcode == "pow" and types[1].dtype != operand.dtype:
            return False
        return operand.dtype in self.supported.get(op.opcode, ())

    def _rescalable(self, op: Op) -> bool:
        """Whether what is reduced stays in a cache until it is rescaled: rows, and short columns of whole vectors."""
        full, kept = self._kept(op)
        gone = [a for a in range(len(full)) if a not in kept]
        if not gone or not kept:
            return False
        if max(kept) < min(gone):
            return True
        vectors = math.prod(full[max(gone) + 1 :])
        return vectors >= _LEAST_VECTOR and math.prod(full[a] for a in gone) <= _LONGEST_COLUMN

    def _kept(self, op: Op) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape of a reduction's operand without unit axes, and which of its axes survive."""
        shape = self.graph.types[op.operands[0]].shape
        wide = [axis for axis, extent in enumerate(shape) if extent != 1]
        kept = tuple(place for place, axis in enumerate(wide) if axis not in op.params["axes"])
        return _squeezed(shape), kept

    def _single(self, index: int, kind: Kind) -> Region:
        op = self.graph.ops[index]
        if kind == "rows":
            return Region((index,), kind, *self._kept(op))
        return Region((index,), kind, _squeezed(op.type.shape))

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

    def gather_streams(self) -> None:
        """Merge rows with the product that they come from, and with one that they go into, once all else is known."""
        for index in sorted(self.regions):
            region = self.regions.get(index)
            if region is None or self.graph.ops[region.members[-1]].result in self.apart:
                continue
            if (self._is_product(region) or self._of_reduced_rows(region)) and self._merge_stream(index):
                self._merge_views(index)

    def _merge_stream(self, index: int) -> bool:
        """Merge a region with the rows that feed it and the product that these come from."""
        parts = [index]
        shape: list[int] | None = sorted(self.regions[index].full) if self.regions[index].kind == "rows" else None
        products: set[int] = set()
        for part in parts:
            for other in self._feeding(part):
                found = self.regions[other]
                if found.kind == "rows" and sorted(found.full) == (shape or sorted(found.full)):
                    shape = sorted(found.full)
                    parts += [other] if other not in parts else []
                elif part != index or self.regions[index].kind == "rows":
                    products |= {other} if self._is_product(found) and sorted(found.full) == shape else set()
        if shape is None or len(products) != 1:
            return False
        parts += products
        members = tuple(sorted(m for n in parts for m in self.regions[n].members))
        if self._escaping(members) != 1 or not self._convex(members):
            return False
        self._merge(parts[1:], index, Region(members, "stream", self.regions[index].full))
        return True

    def _merge_views(self, index: int) -> None:
        """A transposition of what a stream computes is how it is stored."""
        readers = {
            self.region_of.get(u) for u in self.graph.users[self.graph.ops[self.regions[index].members[-1]].result]
        }
        if len(readers) == 1 and None not in readers:
            reader = next(iter(readers))
            assert reader is not None
            self._merge_one(index, reader)

    def _of_reduced_rows(self, region: Region) -> bool:
        """Whether the result of rows has one value per row, so that nothing of their length is stored."""
        result = self.graph.ops[region.members[-1]].type
        return region.kind == "rows" and _squeezed(result.shape) == region.reduced

    def _is_product(self, region: Region) -> bool:
        products = [m for m in region.members if self.graph.ops[m].opcode in CONTRACTIONS]
        return region.kind == "contraction" and [self.graph.ops[m].opcode for m in products] == ["dot_general"]

    def _row_family(self, index: int) -> tuple[int, ...]:
        """Regions above one that reduce, rescale or move the same rows, itself excluded; empty without a reduction."""
        family: dict[int, None] = {index: None}
        shape: Region | None = None
        waiting = [index]
        while waiting:
            region = self.regions[waiting.pop(0)]
            if region.kind == "rows":
                shape = shape or region
            for other in self._feeding(region.members[-1]):
                if other not in family and self._of_rows(self.regions[other], shape):
                    family[other] = None
                    waiting.append(other)
        if shape is None or not all(self._of_rows(self.regions[n], shape) for n in family):
            return ()
        return tuple(n for n in family if n != index)

    def _of_rows(self, region: Region, shape: Region | None) -> bool:
        if region.kind == "rows":
            return shape is None or (region.full, region.kept) == (shape.full, shape.kept)
        if region.kind not in ("alias", "view", "elementwise"):
            return False
        if region.kind == "view" and not self._broadcasts(region):
            return False
        return shape is None or region.full in (shape.full, shape.reduced)

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
        joins = self._joins(feeding, region)
        if joins:
            fits = all(self._folds(feeding, op, number) for op, number in joins)
            return replace(region, members=()) if fits else None
        match feeding.kind, region.kind:
            case "view", "view" | "elementwise" | "rows" | "reduction" | "contraction":
                return replace(region, members=()) if self._absorbs_view(feeding, region) else None
            case "alias", "elementwise" | "rows":
                fits = feeding.full in (region.full, region.reduced)
                return replace(region, members=()) if fits and self._all_aliases(feeding) else None
            case "contraction" | "reduction" | "elementwise", "elementwise" if feeding.full == region.full:
                return replace(feeding, members=()) if self._as_wide(feeding, region) else None
            case "elementwise", "rows" if feeding.full == region.full:
                return replace(region, members=())
            case "elementwise", "reduction":
                fits = self._plain_reduction(region) and not self._puts_together(feeding)
                return replace(region, members=()) if fits else None
            case "rows", "elementwise" if region.full in (feeding.full, feeding.reduced):
                return replace(feeding, members=())
            case "rows", "rows" if (feeding.full, feeding.kept) == (region.full, region.kept):
                return replace(feeding, members=())
            case "stream", "view" if self._transposes(region):
                return replace(feeding, members=(), full=region.full)
            case "rows", "alias" if region.full == feeding.reduced:
                return replace(feeding, members=())
            case "rows", "view" if region.full == feeding.full and self._broadcasts(region):
                return replace(feeding, members=())
            case _:
                return None

    def _joins(self, feeding: Region, region: Region) -> list[tuple[Op, int]]:
        """Where a region that puts values together reads what feeds it: operations and numbers of operands."""
        made = {self.graph.ops[m].result for m in feeding.members}
        ops = [self.graph.ops[m] for m in region.members]
        return [(op, n) for op in ops if op.opcode in JOINS for n, v in enumerate(op.operands) if v in made]

    def _folds(self, feeding: Region, op: Op, number: int) -> bool:
        """Whether an operand of what puts values together is computed where it is read."""
        match feeding.kind:
            case "view":
                return True
            case "elementwise":  # rows that are gathered may be read many times
                return op.opcode != "gather" or number > 0
            case "alias":
                return is_place(op, number) or self._keeps_axes(feeding)
            case _:
                return False

    def _keeps_axes(self, region: Region) -> bool:
        """Whether reshapes only add and remove unit axes."""
        source = self.graph.types[self.graph.ops[region.members[0]].operands[0]]
        return self._all_aliases(region) and _squeezed(source.shape) == region.full

    def _as_wide(self, feeding: Region, region: Region) -> bool:
        """Whether a region has no wider elements than a contraction before it: vectors are as long as those allow."""
        if feeding.kind != "contraction":
            return True
        types = [self.graph.types[v] for m in region.members for v in self.graph.ops[m].results]
        return all(dtypes.itemsize(t.dtype) <= dtypes.itemsize(CONTRACTED) for t in types)

    def _absorbs_view(self, feeding: Region, region: Region) -> bool:
        """Views become index expressions of their reader; padding only where the reader can guard its reads."""
        opcodes = {self.graph.ops[m].opcode for m in feeding.members}
        if "pad" not in opcodes or region.kind == "elementwise":
            return True
        if region.kind not in ("contraction", "reduction") or len(region.members) != 1:
            return False
        op = self.graph.ops[region.members[0]]
        return len(feeding.members) == 1 and self.graph.ops[feeding.members[0]].result == op.operands[0]

    def _broadcasts(self, region: Region) -> bool:
        return all(self.graph.ops[m].opcode == "broadcast_in_dim" for m in region.members)

    def _transposes(self, region: Region) -> bool:
        return all(self.graph.ops[m].opcode == "transpose" for m in region.members)

    def _all_aliases(self, region: Region) -> bool:
        return all(self.graph.ops[m].opcode in ALIASES for m in region.members)

    def _puts_together(self, region: Region) -> bool:
        return any(self.graph.ops[m].opcode in MOVES for m in region.members)

    def _plain_reduction(self, region: Region) -> bool:
        return len(region.members) == 1 and self.graph.ops[region.members[0]].opcode in AXIS_REDUCTIONS

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
