"""Constant folding, common subexpressions and dead code: the passes that need no patterns."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from ..ir.graph import Constant, Graph, Op
from ..ir.graph_edit import remove_dead, rename
from .numpy_eval import evaluate

_NEVER_MERGED = frozenset({"optimization_barrier", "tilewright_plan"})
_COMMUTATIVE = frozenset({"add", "mul"})


@dataclass(frozen=True, slots=True)
class FoldConstants:
    """Computes operations on constants, unless that would store more than it saves.

    Attributes:
        growth_limit: A result may have this many elements even if its operands together have fewer; a broadcast
            constant beyond that stays a broadcast of a small constant.
        size_limit: No operation with a larger result is computed here at all (elements).
    """

    growth_limit: int = 1024
    size_limit: int = 1 << 28
    name: str = "fold-constants"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        constants = dict(graph.constants)
        kept: list[Op] = []
        for op in graph.ops:
            folded = self._fold(op, constants)
            if folded is None:
                kept.append(op)
            else:
                constants[op.result] = folded
        if len(kept) == len(graph.ops):
            return graph
        return remove_dead(Graph(graph.inputs, constants, tuple(kept), graph.outputs))

    def _fold(self, op: Op, constants: dict[int, Constant]) -> Constant | None:
        if op.opaque or op.effects or len(op.results) != 1:
            return None
        operands = [constants[value] for value in op.operands if value in constants]
        if len(operands) < len(op.operands) or not all(operand.portable for operand in operands):
            return None
        given = sum(math.prod(operand.type.shape) for operand in operands)
        if op.type.size > min(max(given, self.growth_limit), self.size_limit):
            return None
        array = evaluate(op, [operand.value for operand in operands])
        return None if array is None else Constant(array, op.type)


@dataclass(frozen=True, slots=True)
class MergeEqual:
    """Computes equal things once (common subexpressions); barriers and opaque operations are never merged."""

    name: str = "merge-equal"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        mapping = _equal_constants(graph)
        seen: dict[object, Op] = {}
        kept: list[Op] = []
        for old in graph.ops:
            op = rename(old, mapping)
            if op.opaque or op.effects or op.body is not None or op.opcode in _NEVER_MERGED:
                kept.append(op)
                continue
            first = seen.setdefault(_key(op), op)
            if first is op:
                kept.append(op)
            else:
                mapping.update(zip(op.results, first.results, strict=True))
        if not mapping:
            return graph
        outputs = tuple(mapping.get(value, value) for value in graph.outputs)
        return remove_dead(graph.with_ops(kept, outputs))


@dataclass(frozen=True, slots=True)
class RemoveDead:
    """Drops what nobody reads."""

    name: str = "remove-dead"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        return remove_dead(graph)


def _key(op: Op) -> object:
    operands = tuple(sorted(op.operands)) if op.opcode in _COMMUTATIVE else op.operands
    # Types without weakness: only shape and element type are computed. JSON tells 1, 1.0 and True apart.
    types = tuple(replace(type_, weak_type=False) for type_ in op.types)
    return op.opcode, operands, json.dumps(op.params, sort_keys=True), types


def _equal_constants(graph: Graph) -> dict[int, int]:
    """Which constants are the same as an earlier one; contents are only compared where types agree."""
    groups: dict[object, list[int]] = {}
    for value, constant in graph.constants.items():
        groups.setdefault(replace(constant.type, weak_type=False), []).append(value)
    mapping: dict[int, int] = {}
    for values in groups.values():
        first: dict[object, int] = {}
        for value in values if len(values) > 1 else ():
            constant = graph.constants[value]
            key = constant.digest if constant.portable else id(constant.value)
            if key in first:
                mapping[value] = first[key]
            first.setdefault(key, value)
    return mapping
