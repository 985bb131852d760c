"""Attention with its keys cut into chunks that threads share: softmax sums of each chunk, then those of all.

With few queries and heads there is little to share but the keys. Each chunk gives the maximum of its scores, the sum
of their exponentials and the products with the values, relative to that maximum; a second kernel joins them, each
repaired by ``exp(m_chunk - m)`` (Dao et al., Flash-Decoding, 2023; Sanovar et al., Lean Attention, 2024). What a chunk
computes is the region itself with an axis of chunks in front, so that the schedule of the whole serves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..ir.graph import Graph, GraphBuilder, Op, TensorType
from ..ir.infer import BINARY, COMPARE, ELEMENTWISE
from ..ir.loop import Alloc, LoopFunc, blocks, walk
from .formulation import Formulation, Part, Value
from .lower import LoweringError, Workload, lower
from .manager import PassManager
from .pipeline import GRAPH_PASSES
from .schedule import ScheduleError, Step, replay
from .split_sites import Refused, Site, find_site
from .stream_parts import spread

CHUNKED_TASKS = 16
"""Chunks of all heads and tiles of rows: enough for the threads of most machines to get equal shares."""
_FEW_TASKS = 8
"""With fewer, threads get unequal shares."""
_LEAST_CHUNK = 256
"""Keys of a chunk: with fewer, joining them costs as much as they do."""
_TILE = 64
"""Rows that one task takes at once."""
_FEWEST_ROWS = 8
_STATE = "state"


def split_axis(region: Graph) -> Formulation | None:
    """The formulation by chunks of keys; None where there is nothing to gain, or the region is something else.

    Args:
        region: attention: a softmax of a product, multiplied again.
    """
    try:
        site = find_site(region)
        count = None if site is None else _chunks(site)
        if site is None or count is None:
            return None
        first, state = _first(site, count)
        second = _second(site, state)
    except (Refused, LoweringError):
        return None
    few = site.batches * -(-site.rows // _TILE) < _FEW_TASKS
    return Formulation("chunks", (first, second), {_STATE: state}, {}, dict, None, None, region, region.outputs[0], few)


def _chunks(site: Site) -> int | None:
    """Into how many chunks of equal length the axis is cut; None if it stays whole."""
    rows = site.rows
    tasks = site.batches * -(-rows // _TILE)
    if rows < _FEWEST_ROWS or tasks >= CHUNKED_TASKS:
        return None
    found = [n for n in range(2, site.extent // _LEAST_CHUNK + 1) if site.extent % n == 0]
    return min(found, key=lambda n: (n * tasks < CHUNKED_TASKS, abs(n * tasks - CHUNKED_TASKS))) if found else None


def _part(graph: Graph, names: dict[int, Value], output: Value, label: str) -> Part:
    graph = PassManager(GRAPH_PASSES).run(graph)
    work: Workload = lower(graph, label)
    if work.constants:
        raise Refused("expected no arrays that are known")
    args = tuple(names[v] for v in work.inputs)
    return Part(work.func, (*args, output), False, graph, tuple(names[v] for v in graph.inputs))


def _row_by_row(func: LoopFunc, column: int) -> LoopFunc:
    """What joins the chunks as loops over rows, of which each is computed as a whole.

    Args:
        func: unscheduled.
        column: length of the rows.
    """
    all_blocks = list(blocks(func.body))
    root = all_blocks[-1]
    temporaries = [s.buffer.name for s in walk(func.body) if isinstance(s, Alloc)]
    sums = [b for b in all_blocks if b.monoid == "sum" and math.prod(i.extent for i in b.iters if i.kind == "data")]
    widest = max(sums, key=lambda b: math.prod(i.extent for i in b.iters))
    inner = next(i for i in reversed(widest.iters) if i.kind == "data" and i.extent == column)
    own = spread(all_blocks, temporaries, widest.name, inner.name)[0].get(root.name)
    rows = [i for i in root.iters if i.name != own]
    if own is None or not rows:
        raise Refused("expected rows of the result")
    trace = [Step("split", root.name, (i.name, 1)) for i in rows]
    trace += [Step("compute_at", name, (f"{root.name}.{rows[-1].name}",)) for name in reversed(temporaries)]
    return replay(func, tuple(trace))


# ---- the chunks


def _first(site: Site, count: int) -> tuple[Part, TensorType]:
    """The kernel of all chunks, and the type of what it gives: products, then sum and maximum, for each row."""
    chunks = _Chunks(site, count)
    state = chunks.state()
    names: dict[int, Value] = dict(chunks.names)
    type_ = chunks.builder.types[state]
    return _part(chunks.builder.build([state]), names, _STATE, "chunks"), type_


@dataclass(slots=True)
class _Chunks:
    """Writes a region's operations for all chunks at once: what differs between them has an axis of chunks in front.

    Args:
        site: the attention.
        count: how many chunks.
        builder: gets the operations.
        names: for each of its inputs the region's value.
        made: for each of the region's values the new one, and whether it has the axis of chunks.
    """

    site: Site
    count: int
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    names: dict[int, int] = field(default_factory=dict)
    made: dict[int, tuple[int, bool]] = field(default_factory=dict)

    def state(self) -> int:
        """float32[chunks, batches.., rows.., columns + 2]."""
        site, b = self.site, self.builder
        weights, _ = self._of(site.exp.result)
        values = self._batched(site.values)
        (kw, kv), (bw, bv) = site.contracted, site.batch
        numbers = (((kw + 1,), (kv + 1,)), ((0, *(a + 1 for a in bw)), (0, *(a + 1 for a in bv))))
        params = {**site.product.params, "dimension_numbers": numbers, "precision": None}
        products = b.add("dot_general", (weights, values), params)[0]
        total = b.add1("reduce_sum", weights, axes=(kw + 1,))
        maximum = b.add1("squeeze", self._batched(site.shift), dimensions=(kw + 1,))
        columns = [self._column(v) for v in (total, maximum)]
        return b.add("concatenate", (products, *columns), {"dimension": b.types[products].rank - 1})[0]

    def _column(self, value: int) -> int:
        """A number per row as the last axis, rows in the order of the product."""
        places = [a - (a > self.site.contracted[0]) for a in (*self.site.batch[0], *self.site.free)]
        moved = self.builder.add1("transpose", value, permutation=(0, *(p + 1 for p in places)))
        shape = (*self.builder.types[moved].shape, 1)
        return self.builder.add1(
            "broadcast_in_dim", moved, shape=shape, broadcast_dimensions=tuple(range(len(shape) - 1))
        )

    def _batched(self, value: int) -> int:
        """A value with the axis of chunks, of one element where it does not differ between chunks."""
        new, has = self._of(value)
        shape = self.builder.types[new].shape
        if has or not shape:
            return new
        dims = tuple(range(1, len(shape) + 1))
        return self.builder.add1("broadcast_in_dim", new, shape=(1, *shape), broadcast_dimensions=dims)

    def _of(self, value: int) -> tuple[int, bool]:
        if value not in self.made:
            op = self.site.region.producer(value)
            self.made[value] = self._leaf(value) if op is None else self._result(op)
        return self.made[value]

    def _leaf(self, value: int) -> tuple[int, bool]:
        region, b = self.site.region, self.builder
        constant = region.constants.get(value)
        if constant is not None:
            array = np.asarray(constant.value)
            if array.size != 1:
                raise Refused("expected no arrays that are known")
            return b.constant(array.reshape(()), region.types[value].with_shape(())), False
        axis = self.site.axis.get(value)
        type_ = region.types[value]
        if axis is not None:
            shape = type_.shape
            type_ = type_.with_shape((*shape[:axis], self.count, shape[axis] // self.count, *shape[axis + 1 :]))
        new = b.input(type_)
        self.names[new] = value
        if axis is None:
            return new, False
        order = (axis, *(a for a in range(type_.rank) if a != axis))
        return (b.add1("transpose", new, permutation=order) if axis else new), True

    def _result(self, op: Op) -> tuple[int, bool]:
        if op.result == self.site.exp.result:
            return self._exponentials(op), True
        if not any(self._of(v)[1] for v in op.operands) and op.result not in self.site.axis:
            operands = [self._of(v)[0] for v in op.operands]
            return self.builder.add(op.opcode, operands, op.params)[0], False
        if op.opcode in ELEMENTWISE:
            given = self._batched if op.opcode in BINARY | COMPARE else self._repeated
            return self.builder.add(op.opcode, [given(v) for v in op.operands], op.params)[0], True
        if op.opcode == "dot_general":
            return self._product(op), True
        operand, has = self._of(op.operands[0])
        if has:
            return self.builder.add(op.opcode, (operand,), self._moved(op))[0], True
        if op.opcode != "broadcast_in_dim":
            raise Refused(f"expected something that is repeated along the keys, found {op.opcode}")
        return self.builder.add(op.opcode, (operand,), {**op.params, "shape": self._shape(op)})[0], False

    def _exponentials(self, op: Op) -> int:
        """Relative to the chunk's maximum where that is finite, so that a chunk that is masked as a whole adds zero."""
        b = self.builder
        scores, maximum = self._batched(self.site.scores), self._batched(self.site.shift)
        zero = b.constant(np.zeros(b.types[maximum].shape, np.float32))
        shift = b.add("select_n", (b.add1("is_finite", maximum), zero, maximum))[0]
        return b.add1("exp", b.add1("sub", scores, shift))

    def _product(self, op: Op) -> int:
        (left, right), (lead, other) = op.params["dimension_numbers"]
        numbers = (
            (tuple(a + 1 for a in left), tuple(a + 1 for a in right)),
            ((0, *(a + 1 for a in lead)), (0, *(a + 1 for a in other))),
        )
        operands = [self._repeated(v) for v in op.operands]
        return self.builder.add("dot_general", operands, {**op.params, "dimension_numbers": numbers})[0]

    def _repeated(self, value: int) -> int:
        new = self._batched(value)
        shape = self.builder.types[new].shape
        if not shape or shape[0] == self.count:
            return new
        dims = tuple(range(len(shape)))
        return self.builder.add1("broadcast_in_dim", new, shape=(self.count, *shape[1:]), broadcast_dimensions=dims)

    def _moved(self, op: Op) -> dict[str, Any]:
        """Parameters of an operation whose operand has an axis more in front."""
        p, shape = op.params, self._shape(op)
        match op.opcode:
            case "broadcast_in_dim":
                dims = (0, *(d + 1 for d in p["broadcast_dimensions"]))
                return {"shape": (self.count, *shape), "broadcast_dimensions": dims}
            case "transpose":
                return {"permutation": (0, *(a + 1 for a in p["permutation"]))}
            case "reshape":
                return {"new_sizes": (self.count, *shape)}
            case "squeeze":
                return {"dimensions": tuple(a + 1 for a in p["dimensions"])}
            case "reduce_max":
                return {**p, "axes": tuple(a + 1 for a in p["axes"])}
            case _:
                raise Refused(f"expected an operation that goes chunk by chunk, found {op.opcode}")

    def _shape(self, op: Op) -> tuple[int, ...]:
        """Shape of an operation's result for one chunk."""
        axis = self.site.axis.get(op.result)
        return tuple(n // self.count if a == axis else n for a, n in enumerate(op.type.shape))


# ---- all of them


def _second(site: Site, state: TensorType) -> Part:
    """The kernel that joins the chunks, with what the region computes from the result."""
    b = GraphBuilder()
    source = b.input(state)
    names: dict[int, Value] = {source: _STATE}
    width = state.shape[-1]

    def columns(start: int, stop: int) -> int:
        return b.add1(
            "slice",
            source,
            start_indices=(*(0 for _ in state.shape[:-1]), start),
            limit_indices=(*state.shape[:-1], stop),
            strides=None,
        )

    maxima = columns(width - 1, width)
    maximum = b.add1("reduce_max", maxima, axes=(0,))
    shape = b.types[maximum].shape
    whole = b.add1("broadcast_in_dim", maximum, shape=(1, *shape), broadcast_dimensions=tuple(range(1, len(shape) + 1)))
    repair = b.add1("exp", b.add1("sub", maxima, whole))
    total = b.add1("reduce_sum", b.add1("mul", repair, columns(width - 2, width - 1)), axes=(0,))
    result = b.add1("reduce_sum", b.add1("mul", repair, columns(0, width - 2)), axes=(0,))
    if site.divided:
        result = b.add1("div", result, total)
    lead, rank = len(site.batch[0]), b.types[result].rank
    if site.swapped:
        result = b.add1("transpose", result, permutation=(*range(lead), rank - 1, *range(lead, rank - 1)))
    known = {site.product.result: result}
    for op in site.region.ops:
        if any(v in known for v in op.operands):
            operands = [known[v] if v in known else _late(site, v, b, names, known) for v in op.operands]
            known[op.result] = b.add(op.opcode, operands, op.params, op.types)[0]
    output = site.region.outputs[0]
    part = _part(b.build([known[output]]), names, output, "join")
    try:
        return replace(part, func=_row_by_row(part.func, width - 2))
    except ScheduleError as error:
        raise Refused(str(error)) from error


def _late(site: Site, value: int, b: GraphBuilder, names: dict[int, Value], known: dict[int, int]) -> int:
    """What the region needs besides the result of the product: only what it is given."""
    if value in site.region.constants:
        constant = site.region.constants[value]
        known[value] = b.constant(constant.value, constant.type)
    elif value in site.region.inputs:
        known[value] = b.input(site.region.types[value])
        names[known[value]] = value
    else:
        raise Refused("expected nothing but arguments beside the result")
    return known[value]
