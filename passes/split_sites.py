"""Which regions are attention whose keys can be cut into chunks, and which axis of each value runs along the keys."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..ir.graph import Graph, Op
from ..ir.infer import ELEMENTWISE

_VIEWS = frozenset(("broadcast_in_dim", "transpose", "reshape", "squeeze"))


class Refused(ValueError):
    """A region that can't be cut into chunks."""


@dataclass(frozen=True, slots=True)
class Site:
    """A softmax of a product, multiplied again.

    Args:
        region: the region.
        extent: length of the axis of keys.
        exp: the exponentials.
        scores: what they are of, before the maximum is subtracted.
        shift: the maximum as it is subtracted, one element along the keys.
        product: the second product.
        values: its other operand.
        contracted: the axis of keys of the exponentials and of the values.
        batch: axes of both that the product keeps apart.
        free: other axes of the exponentials.
        divided: whether they are divided by their sum.
        swapped: whether they are the product's second operand.
        axis: for each value that runs along the keys, which of its axes does.
    """

    region: Graph
    extent: int
    exp: Op
    scores: int
    shift: int
    product: Op
    values: int
    contracted: tuple[int, int]
    batch: tuple[tuple[int, ...], tuple[int, ...]]
    free: tuple[int, ...]
    divided: bool
    swapped: bool
    axis: dict[int, int]

    @property
    def batches(self) -> int:
        """Independent products."""
        return math.prod(self.exp.type.shape[a] for a in self.batch[0])

    @property
    def rows(self) -> int:
        """Rows of each."""
        return math.prod(self.exp.type.shape[a] for a in self.free)


def find_site(region: Graph) -> Site | None:
    """The attention in a region; None if it is something else.

    Raises:
        Refused: its operations can't be followed along the keys.
    """
    found = {n: [op for op in region.ops if op.opcode == n] for n in ("reduce_max", "exp", "reduce_sum", "dot_general")}
    if [len(ops) for ops in found.values()] != [1, 1, 1, 2] or len(region.outputs) != 1:
        return None
    (key,), (exp,), (total,), (_, product) = found.values()
    inner = region.producer(exp.operands[0])
    axes = (key.params["axes"], total.params["axes"])
    if inner is None or inner.opcode != "sub" or total.operands != (exp.result,) or [len(a) for a in axes] != [1, 1]:
        return None
    scores, shift = inner.operands
    if exp.type.dtype != "float32" or not _repeats(region, shift, key.result):
        return None
    if not (_repeats(region, scores, key.operands[0]) or _repeats(region, key.operands[0], scores)):
        return None  # a maximum of something else may be far below the scores of a chunk
    weights = _weights(region, product, exp, total)
    if weights is None:
        return None
    swapped = product.operands[1] == weights
    contracted, batch = (tuple(n[::-1]) if swapped else tuple(n) for n in product.params["dimension_numbers"])
    along = axes[1][0]
    values = product.operands[0 if swapped else 1]
    shape, other = exp.type.shape, region.types[values].shape
    free = tuple(a for a in range(len(shape)) if a not in batch[0] and a != along)
    columns = [a for a in range(len(other)) if a not in batch[1] and a not in contracted[1]]
    if contracted[0] != (along,) or len(columns) != 1 or region.types[shift].shape[along : along + 1] != (1,):
        return None
    follow = _Axes(region, shape[along])
    for value, axis in ((key.operands[0], axes[0][0]), (exp.result, along), (values, contracted[1][0])):
        follow.demand(value, axis)
    return Site(
        region, shape[along], exp, scores, shift, product, values, (along, contracted[1][0]), batch, free,
        weights != exp.result, swapped, follow.axis,
    )  # fmt: skip


def _weights(region: Graph, product: Op, exp: Op, total: Op) -> int | None:
    """The operand of the second product that is made of the exponentials: these, or divided by their sum."""
    for value in product.operands:
        op = region.producer(value)
        readers = [region.ops[u].result for u in region.users[exp.result]]
        if value == exp.result:
            return value if set(readers) == {total.result, product.result} else None
        if op is not None and op.opcode == "div" and op.operands[0] == exp.result:
            plain = _repeats(region, op.operands[1], total.result) and len(region.users[value]) == 1
            return value if plain and set(readers) == {total.result, value} else None
    return None


def _repeats(region: Graph, value: int, source: int) -> bool:
    """Whether a value is another one, seen through views."""
    while value != source:
        op = region.producer(value)
        if op is None or op.opcode not in _VIEWS:
            return False
        value = op.operands[0]
    return True


@dataclass(slots=True)
class _Axes:
    """Follows an axis from results to operands.

    Args:
        region: the region.
        extent: its length.
        axis: what is known so far.
    """

    region: Graph
    extent: int
    axis: dict[int, int] = field(default_factory=dict)

    def demand(self, value: int, axis: int) -> None:
        """Note that a value runs along the axis, and which of its operands do."""
        if self.axis.setdefault(value, axis) != axis or self.region.types[value].shape[axis] != self.extent:
            raise Refused("expected one axis along the keys")
        op = self.region.producer(value)
        if op is None:
            return
        if op.opcode in ELEMENTWISE:
            for operand in op.operands:
                self._operand(operand, axis if self.region.types[operand].shape else None)
        elif op.opcode == "dot_general":
            self._product(op, axis)
        elif op.opcode in _VIEWS:
            self._operand(op.operands[0], self._before(op, axis))
        else:
            raise Refused(f"expected an operation that goes along the keys, found {op.opcode}")

    def _operand(self, value: int, axis: int | None) -> None:
        if axis is not None and self.region.types[value].shape[axis] == self.extent:
            self.demand(value, axis)

    def _before(self, op: Op, axis: int) -> int | None:
        """Which axis of a view's operand becomes an axis of its result; None if it is new."""
        source = self.region.types[op.operands[0]].shape
        match op.opcode:
            case "broadcast_in_dim":
                dims = list(op.params["broadcast_dimensions"])
                return dims.index(axis) if axis in dims else None
            case "transpose":
                return int(op.params["permutation"][axis])
            case "squeeze":
                return [a for a in range(len(source)) if a not in op.params["dimensions"]][axis]
            case _:
                before = math.prod(op.type.shape[:axis])
                fits = [a for a, n in enumerate(source) if n == self.extent and math.prod(source[:a]) == before]
                if not fits:
                    raise Refused("expected a reshape that keeps the axis of keys")
                return fits[0]

    def _product(self, op: Op, axis: int) -> None:
        """The axis is a free one of one operand."""
        contracted, batch = op.params["dimension_numbers"]
        place = len(batch[0])
        for number, operand in enumerate(op.operands):
            shape = self.region.types[operand].shape
            free = [a for a in range(len(shape)) if a not in batch[number] and a not in contracted[number]]
            if place <= axis < place + len(free):
                self.demand(operand, free[axis - place])
                return
            place += len(free)
        raise Refused("expected keys that the first product does not keep apart")
