"""Loops with a known number of iterations: an operation `scan` that holds what it repeats as a graph.

As in `jax.lax.scan`, operands are invariants, then the carries' first values, then arrays whose leading axis is sliced
(`xs`); the body takes the same with carries of the iteration before and one slice of each `xs`; its outputs are the
next carries, then slices of the results that are stacked (`ys`). Results are the last carries, then the `ys`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Graph, GraphError, Op, TensorType

SCAN = "scan"
PARAMS = frozenset(("length", "reverse", "num_consts", "num_carry", "unroll"))


@dataclass(frozen=True, slots=True)
class Scan:
    """A `scan` operation by parts.

    Args:
        op: the operation.
        body: what it repeats.
        length: number of iterations.
        reverse: whether iteration 0 takes the last slice of each `xs` and gives the last one of each `ys`.
        consts: how many operands are invariants.
        carries: how many are carries.
    """

    op: Op
    body: Graph
    length: int
    reverse: bool
    consts: int
    carries: int

    @property
    def invariants(self) -> tuple[int, ...]:
        """Values that every iteration reads."""
        return self.op.operands[: self.consts]

    @property
    def initial(self) -> tuple[int, ...]:
        """First values of the carries."""
        return self.op.operands[self.consts : self.consts + self.carries]

    @property
    def xs(self) -> tuple[int, ...]:
        """Values that are sliced."""
        return self.op.operands[self.consts + self.carries :]

    @property
    def final(self) -> tuple[int, ...]:
        """Last values of the carries."""
        return self.op.results[: self.carries]

    @property
    def ys(self) -> tuple[int, ...]:
        """Results that are stacked."""
        return self.op.results[self.carries :]

    @property
    def body_invariants(self) -> tuple[int, ...]:
        """The body's inputs for the invariants."""
        return tuple(self.body.inputs)[: self.consts]

    @property
    def body_carries(self) -> tuple[int, ...]:
        """The body's inputs for the carries."""
        return tuple(self.body.inputs)[self.consts : self.consts + self.carries]

    @property
    def body_xs(self) -> tuple[int, ...]:
        """The body's inputs for slices."""
        return tuple(self.body.inputs)[self.consts + self.carries :]

    @property
    def next_carries(self) -> tuple[int, ...]:
        """The body's outputs for the carries."""
        return self.body.outputs[: self.carries]

    @property
    def body_ys(self) -> tuple[int, ...]:
        """The body's outputs for slices."""
        return self.body.outputs[self.carries :]


def scan_of(op: Op) -> Scan | None:
    """The parts of a transparent loop; None for every other operation."""
    if op.body is None or op.opcode != SCAN:
        return None
    p = op.params
    return Scan(op, op.body, p["length"], p["reverse"], p["num_consts"], p["num_carry"])


def verify_scan(op: Op, operands: list[TensorType]) -> None:
    """Check that a loop and its body fit each other.

    Raises:
        GraphError: they do not.
    """
    if op.opcode != SCAN:
        raise GraphError(f"expected a body in no operation but {SCAN}, found one in {op.opcode}")
    if set(op.params) != PARAMS:
        raise GraphError(f"expected the parameters {sorted(PARAMS)}, found {sorted(op.params)}")
    loop = scan_of(op)
    assert loop is not None
    counts = (loop.length, loop.consts, loop.carries)
    if any(type(n) is not int or n < 0 for n in counts) or loop.consts + loop.carries > len(operands):
        raise GraphError(f"expected a length and counts of operands, found {counts} for {len(operands)} operands")
    whole = loop.consts + loop.carries
    _expect("operands", operands[:whole], list(loop.body.inputs.values())[:whole])
    _expect("slices", [_sliced(t, loop.length) for t in operands[whole:]], list(loop.body.inputs.values())[whole:])
    _expect("next carries", operands[loop.consts : whole], list(loop.body.output_types[: loop.carries]))
    stacked = [t.with_shape((loop.length, *t.shape)) for t in loop.body.output_types[loop.carries :]]
    _expect("results", list(op.types), [*operands[loop.consts : whole], *stacked])


def _sliced(type_: TensorType, length: int) -> TensorType:
    if type_.shape[:1] != (length,):
        raise GraphError(f"expected a leading axis of {length} iterations, found {type_}")
    return type_.with_shape(type_.shape[1:])


def _expect(what: str, found: list[TensorType], wanted: list[TensorType]) -> None:
    if len(found) != len(wanted) or not all(a.same_data(b) for a, b in zip(found, wanted, strict=True)):
        left, right = (", ".join(map(str, types)) for types in (wanted, found))
        raise GraphError(f"{what}: expected {left}, found {right}")
