"""What a region computes behind one of its operations, as an expression to put where the result is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..ir.affine import AffineExpr
from ..ir.graph import Graph, Op
from ..ir.infer import ELEMENTWISE
from ..ir.loop import Buffer, Expr, Read, map_expr
from .lower import IDENTITIES, Lowering, LoweringError

_RESULT = "result"


def without(region: Graph, source: Op) -> Graph:
    """A region without one of its operations, whose result becomes an input."""
    rest = tuple(op for op in region.ops if op is not source)
    return Graph({**region.inputs, source.result: source.type}, region.constants, rest, region.outputs)


class Epilogue:
    """What a region computes from the result of one of its operations, element by element.

    Args:
        region: the region.
        source: the operation; its result has the shape of the region's.

    Attributes:
        values: what else is read, inputs and constants of the region.
        params: a buffer for each of them, named ``x1`` and on.
        dtype: element type of the region's result.

    Raises:
        LoweringError: not all of it is elementwise.
    """

    def __init__(self, region: Graph, source: Op) -> None:
        self._shape = source.type.shape
        rest = tuple(op for op in region.ops if op is not source)
        used = {v for op in rest for v in op.operands}
        self._output = region.outputs[0]
        others = [v for v in region.inputs if v in used]
        arrays = [v for v, c in region.constants.items() if v in used and c.type.size != 1]
        self.values = (*others, *arrays)
        self.dtype = region.types[self._output].dtype
        if any(op.opcode not in ELEMENTWISE | IDENTITIES | {"broadcast_in_dim", "reshape", "squeeze"} for op in rest):
            raise LoweringError("expected elementwise operations behind the operation")
        if region.types[self._output].shape != self._shape:
            raise LoweringError("expected results of its shape")
        self._low = Lowering(without(region, source))
        self._low.uses = Counter(v for op in rest for v in op.operands)
        for number, value in enumerate(self.values, 1):
            type_ = region.types[value]
            scope = "constant" if value in arrays else "global"
            self._low.storage[value] = Buffer(f"x{number}", type_.shape, type_.dtype, scope)
        self._low.storage[source.result] = Buffer(_RESULT, self._shape, source.type.dtype)
        self.params = tuple(self._low.storage[v] for v in self.values)
        self._index = self._low.box(self._shape)[1]
        self._expr = self._low.element(self._output, self._index)

    def value(self, result: Expr, at: Sequence[AffineExpr]) -> Expr:
        """An element of the region's output from that of the operation at the same place."""
        env = {name.single_variable() or "": place for name, place in zip(self._index, at, strict=True)}
        known: dict[int, Expr] = {}

        def visit(e: Expr) -> Expr:
            if isinstance(e, Read):
                if e.buffer == _RESULT:
                    return result
                if id(e) not in known:
                    known[id(e)] = replace(e, index=tuple(i.substitute(env) for i in e.index))
                return known[id(e)]
            return e

        return map_expr(self._expr, visit)
