"""The greedy partition: which operations form a region, unless a graph trace (`graph_trace.py`) says otherwise.

Operations are taken in order; each joins the region of an operand where one schedule can serve both: an elementwise
operation joins the contraction, reduction or elementwise run that feeds it, a reduction joins the elementwise run that
it consumes, and rows that are reduced and rescaled (normalisation, softmax) gather into one region. Where such rows
come from a product, they gather with it, and with a product that reduces them further, so that they need not be stored
(attention). A region has one result, so that what it holds is never stored but once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from ..ir.graph import Graph, Op, TensorType
from ..ir.infer import ELEMENTWISE
from .closed_form import of_indices
from .joins import broadcasts, joined
from .lower import ALIASES, DTYPES, IDENTITIES, VIEWS
from .lower_blocks import AXIS_REDUCTIONS, CONTRACTED, CONTRACTIONS, WINDOWS
from .lower_moves import JOINS, MAX_PARTS
from .regions import Kind, Region, convex, one_result, squeezed
from .stream_regions import gather_streams

_LONGEST_COLUMN = 8192
"""Most values of a column of which a vector's width stays in a second-level cache."""
_LEAST_VECTOR = 16


def greedy(graph: Graph, supported: Mapping[str, Collection[str]], apart: Collection[int] = ()) -> tuple[Region, ...]:
    """Partition the operations that kernels can compute into regions.

    Args:
        graph: a simplified graph.
        supported: element types of the operands that the backend can emit an elementwise operation for, by opcode.
        apart: results that are not to be computed from rows of a product that are never stored.

    Returns:
        Regions in order of their last operation; operations in none of them stay XLA's.
    """
    merging = Merging(graph, supported)
    for index in range(len(graph.ops)):
        merging.add(index)
    gather_streams(merging, apart)
    return tuple(sorted(merging.worthwhile(), key=lambda r: r.members[-1]))


class Merging:
    """Regions while they grow.

    Args:
        graph: a simplified graph.
        supported: see `greedy`.
    """

    def __init__(self, graph: Graph, supported: Mapping[str, Collection[str]]) -> None:
        self.graph = graph
        self.supported = supported
        self.formed = of_indices(graph)
        self.regions: dict[int, Region] = {}
        self.region_of: dict[int, int] = {}
        self.reduces = False  # whether any region reduces rows

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
            merged = self._merge_rows(index) or any(self.merge_one(other, index) for other in self.feeding(index))

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
        return squeezed(shape), kept

    def _single(self, index: int, kind: Kind) -> Region:
        op = self.graph.ops[index]
        if kind == "rows":
            self.reduces = True
            return Region((index,), kind, *self._kept(op))
        return Region((index,), kind, squeezed(op.type.shape))

    def feeding(self, index: int) -> list[int]:
        """Regions that feed an operation's region, the latest first."""
        members = self.regions[index].members
        found = set()
        for member in members:
            for value in self.graph.ops[member].operands:
                producer = self.graph.producers.get(value)
                if producer is not None and producer in self.region_of and producer not in members:
                    found.add(self.region_of[producer])
        return sorted(found, key=lambda r: -self.regions[r].members[-1])

    def merge(self, others: list[int], index: int, both: Region) -> None:
        """Put the union of some regions in their place; the one of an operation stays known under it."""
        for other in others:
            del self.regions[other]
        self.regions[index] = both
        for member in both.members:
            self.region_of[member] = index

    def merge_one(self, other: int, index: int) -> bool:
        """Merge a region with one that it feeds, if one schedule can serve both."""
        both = self._union(self.regions[other], self.regions[index])
        if both is None:
            return False
        self.merge([other], index, both)
        return True

    def _merge_rows(self, index: int) -> bool:
        """Merge all at once what only together has one result: a normalisation reads its mean twice."""
        if not self.reduces:
            return False
        found = self._row_family(index)
        if len(found) < 2:
            return False
        members = tuple(sorted(m for n in (*found, index) for m in self.regions[n].members))
        if not one_result(self.graph, members) or not convex(self.graph, members):
            return False
        rows = next(self.regions[n] for n in (*found, index) if self.regions[n].kind == "rows")
        self.merge(list(found), index, replace(rows, members=members))
        return True

    def _row_family(self, index: int) -> tuple[int, ...]:
        """Regions above one that reduce, rescale or move the same rows, itself excluded; empty without a reduction."""
        family: dict[int, None] = {index: None}
        shape: Region | None = None
        waiting = [index]
        while waiting:
            region = self.regions[waiting.pop(0)]
            if region.kind == "rows":
                shape = shape or region
            for other in self.feeding(region.members[-1]):
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
        if region.kind == "view" and not broadcasts(self.graph, region):
            return False
        return shape is None or region.full in (shape.full, shape.reduced)

    def _union(self, feeding: Region, region: Region) -> Region | None:
        kind = joined(self.graph, feeding, region)
        if kind is None:
            return None
        members = tuple(sorted((*feeding.members, *region.members)))
        if not one_result(self.graph, members) or not convex(self.graph, members):
            return None
        return replace(kind, members=members)
