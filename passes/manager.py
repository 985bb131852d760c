"""Passes and rules, and the loops that run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..ir.graph import Graph, GraphBuilder, GraphError, Op
from ..ir.graph_edit import remove_dead, replace_values, toposort
from ..ir.graph_text import verify


class Pass(Protocol):
    """A rewrite of a whole graph: valid in, valid out, same meaning. Implemented by frozen dataclasses."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph; the same object if nothing changed."""
        ...


@dataclass(frozen=True, slots=True)
class PassManager:
    """Runs passes in order.

    Attributes:
        passes: The passes.
        verify: Whether to check the graph after each pass that changed it.
        after: Called with each pass and its result.
    """

    passes: tuple[Pass, ...]
    verify: bool = True
    after: Callable[[Pass, Graph], None] | None = None

    def run(self, graph: Graph) -> Graph:
        """The graph after all passes.

        Raises:
            GraphError: a pass produced an invalid graph; the message names it.
        """
        for step in self.passes:
            result = step(graph)
            if self.verify and result is not graph:
                try:
                    verify(result)
                except GraphError as error:
                    raise GraphError(f"pass {step.name} produced an invalid graph: {error}") from error
            graph = result
            if self.after is not None:
                self.after(step, graph)
        return graph


class Rewriter:
    """What a rule sees and writes to: the graph as it stands, and a builder for new operations.

    Attributes:
        graph: The graph before this round of rewriting.
        builder: Receives the operations that the round produces.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = GraphBuilder(graph)
        self._made: dict[int, Op] = {}

    def add1(self, opcode: str, *operands: int, **params: object) -> int:
        """Adds a transparent operation with one result and returns the result."""
        return self.builder.add1(opcode, *operands, **params)

    def producer(self, value: int) -> Op | None:
        """The transparent operation that defines a value in the graph before this round, or None."""
        op = self.graph.producer(value)
        return None if op is None or op.opaque else op

    def only_user(self, value: int) -> bool:
        """Whether a value is read once and is no output, so that its producer goes with its reader."""
        return len(self.graph.users[value]) == 1 and value not in self.graph.outputs


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """A local rewrite.

    Attributes:
        name: What reports call it.
        opcodes: The opcodes it looks at.
        rewrite: Given an operation and a `Rewriter`, returns the value that replaces the operation's only result
            (an existing one, or one it has built), or None to leave it.
    """

    name: str
    opcodes: frozenset[str]
    rewrite: Callable[[Op, Rewriter], int | None]


def apply_rules(graph: Graph, rules: Sequence[RewriteRule], rounds: int = 64) -> Graph:
    """Applies rules until none does anything.

    Args:
        graph: The graph.
        rules: Tried in order on each operation; the first that answers wins.
        rounds: How many sweeps over the graph are allowed.

    Raises:
        GraphError: rules are still rewriting after so many rounds (two of them undo each other).
    """
    table: dict[str, list[RewriteRule]] = {}
    for rule in rules:
        for opcode in rule.opcodes:
            table.setdefault(opcode, []).append(rule)
    for _ in range(rounds):
        result, applied = _sweep(graph, table)
        if not applied:
            return graph
        graph = result
    raise GraphError(f"rules did not settle in {rounds} rounds: {', '.join(sorted(set(applied)))}")


def _sweep(graph: Graph, table: dict[str, list[RewriteRule]]) -> tuple[Graph, list[str]]:
    """One pass over the operations. Rules read the graph as it was, so each answer equals the value it replaces."""
    rewriter = Rewriter(graph)
    builder = rewriter.builder
    mapping: dict[int, int] = {}
    applied: list[str] = []
    for op in graph.ops:
        for rule in () if op.opaque else table.get(op.opcode, ()):
            value = rule.rewrite(op, rewriter)
            if value is None:
                continue
            found = builder.types[value]
            if not found.same_data(op.type) or found.varying != op.type.varying:
                raise GraphError(f"rule {rule.name} replaces a value of type {op.type} by one of type {found}")
            mapping[op.result] = value
            applied.append(rule.name)
            break
        else:
            builder.append(op)
    if not applied:
        return graph, applied
    swept = replace_values(Graph(builder.inputs, builder.constants, tuple(builder.ops), graph.outputs), mapping)
    return remove_dead(swept.with_ops(toposort(swept.ops))), applied
