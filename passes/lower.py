"""Lowering: a region of the graph becomes structured loops, the workload.

Reductions, contractions, convolutions and pooling become an initialising and an updating Block over a buffer of their
own; elementwise operations and views are folded into the expressions of the Blocks that read them. Nothing is tiled
or ordered here: that is what schedules are for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..ir import dtypes
from ..ir.affine import AffineExpr, Range, constant, delinearize, linearize, var
from ..ir.graph import Graph, Op, TensorType
from ..ir.infer import BINARY, COMPARE, ELEMENTWISE, UNARY
from ..ir.loop import Access, Alloc, Apply, Block, Buffer, Const, Expr, IndexValue, Iter, LoopFunc, Read, Stmt, seq
from ..ir.monoid import MONOIDS
from .closed_form import closed_form, has_closed_form
from .collapse import collapse
from .expand import expand
from .lower_blocks import (
    AXIS_REDUCTIONS,
    BLOCK_RULES,
    CONTRACTIONS,
    EXTREME_PLACES,
    WINDOWS,
    BlockRule,
    LoweringError,
)
from .lower_moves import MOVES
from .naming import align_names
from .widen import widen

__all__ = ["ALIASES", "DTYPES", "IDENTITIES", "MOVES", "VIEWS", "Lowering", "LoweringError", "Workload", "lower"]

VIEWS = frozenset("reshape squeeze transpose broadcast_in_dim rev slice pad".split())
"""Operations that only move elements; they become index expressions."""
ALIASES = frozenset(("reshape", "squeeze"))
"""Views that leave the row-major order of elements as it is."""
IDENTITIES = frozenset(("copy", "stop_gradient", "name"))
DTYPES = frozenset((*dtypes.FLOATS, *dtypes.INTEGERS, dtypes.BOOL))
"""Element types that kernels compute on."""

_ROUNDING = {"AWAY_FROM_ZERO": 0, "TO_NEAREST_EVEN": 1}
_DEEPEST = 100
"""Nested operations in one expression; longer chains are stored in between."""
_INLINE_COST = 4
_INLINE_COST_OF_SCALAR = 64
_CHEAP = UNARY & frozenset(("neg", "abs", "square", "sign", "not", "copy", "stop_gradient")) | BINARY | COMPARE
_CHEAP = (_CHEAP - {"div", "rem", "pow", "atan2"}) | {"select_n", "clamp", "convert_element_type", "iota"}


@dataclass(frozen=True, slots=True)
class Workload:
    """A lowered region.

    Args:
        func: the program; its parameters are the values below in order, with unit axes dropped and axes merged.
        inputs: graph values of the parameters that are inputs.
        constants: graph values of the parameters whose contents are known.
        outputs: graph values of the outputs.
    """

    func: LoopFunc
    inputs: tuple[int, ...]
    constants: tuple[int, ...]
    outputs: tuple[int, ...]


def lower(region: Graph, name: str = "region") -> Workload:
    """Lower a region.

    Args:
        region: a graph of transparent, pure operations.
        name: for people.

    Raises:
        LoweringError: an operation, a parameter or an element type has no loops.
    """
    return Lowering(region).run(name)


@dataclass(slots=True)
class Lowering:
    """Lowers one region: an instance is used once, by `lower`.

    Args:
        graph: the region.
        storage: buffer of each value that has one.
        allocated: buffers of intermediate values, in the order in which they are computed.
        body: the Blocks so far.
        ranges: of the iterators of the Block that is being made.
        memo: elements of values in that Block.
        uses: how often each value is read.
        reducing: whether the Block reduces: what it reads of padding it skips.
        from_reductions: values that reductions in the region lead to.
        depths: how deeply the expressions of values are nested that have no buffer.
    """

    graph: Graph
    storage: dict[int, Buffer] = field(default_factory=dict)
    allocated: list[Buffer] = field(default_factory=list)
    body: list[Stmt] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)
    memo: dict[tuple[int, tuple[AffineExpr, ...]], Expr] = field(default_factory=dict)
    uses: Counter[int] = field(default_factory=Counter)
    reducing: bool = False
    from_reductions: frozenset[int] = frozenset()
    depths: dict[int, int] = field(default_factory=dict)

    def run(self, name: str) -> Workload:
        """The workload, called ``name``."""
        graph = self.graph
        for value, type_ in graph.types.items():
            if type_.dtype not in DTYPES:
                raise LoweringError(f"expected element types {sorted(DTYPES)}, found {type_} in %{value}")
        self.from_reductions = self._of_reductions()
        self.uses = Counter(v for op in graph.ops for v in op.operands) + Counter(graph.outputs)
        self.uses.update(v for op in graph.ops if op.opcode in EXTREME_PLACES for v in op.operands)  # read twice
        constants = tuple(v for v in graph.constants if not self._formed(v))
        inputs = tuple(graph.inputs)
        outputs = tuple(v for v in dict.fromkeys(graph.outputs))
        params = [self._parameter(v, f"x{i}") for i, v in enumerate(inputs)]
        params += [self._parameter(v, f"w{i}", True) for i, v in enumerate(constants)]
        for number, value in enumerate(outputs):
            if graph.producer(value) is None:
                raise LoweringError("expected every output to be computed in the region")
            self.storage[value] = Buffer(f"y{number}", graph.types[value].shape, graph.types[value].dtype)
            params.append(self.storage[value])
        written: set[int] = set()
        for op in graph.ops:
            self._op(op, written)
        body = seq(*self.body)
        for buffer in reversed(self.allocated):
            body = Alloc(buffer, body)
        func = LoopFunc(name, tuple(params), len(outputs), body)
        return Workload(widen(align_names(expand(collapse(func)))), inputs, constants, outputs)

    def _formed(self, value: int) -> bool:
        array = self.graph.constant(value)
        if array is None:
            return self.graph.constants[value].type.size == 1
        return has_closed_form(array, self.graph.types[value].dtype)

    def _parameter(self, value: int, name: str, known: bool = False) -> Buffer:
        type_ = self.graph.types[value]
        self.storage[value] = Buffer(name, type_.shape, type_.dtype, "constant" if known else "global")
        return self.storage[value]

    # ---- which values get a buffer

    def _op(self, op: Op, written: set[int]) -> None:
        rule = BLOCK_RULES.get(op.opcode)
        if rule is None and op.opcode not in ELEMENTWISE | VIEWS | IDENTITIES | MOVES.keys() | {"iota"}:
            raise LoweringError(f"expected an operation that loops can express, found {op.opcode}")
        if op.effects or op.opaque:
            raise LoweringError(f"expected a pure transparent operation, found {op.opcode}")
        value = op.result
        if rule is not None:
            self._operands_in_buffers(op)
            self._store_reduction(op, value, rule)
        elif value in self.graph.outputs or self._kept(op):
            self._store_elementwise(op, value)
        written.add(value)

    def _store_reduction(self, op: Op, value: int, rule: BlockRule) -> None:
        """Reductions accumulate in a buffer of their own, which schedules may keep in registers."""
        output = self.storage.pop(value, None)
        buffer = self._target(value, "t")
        self.reducing = True
        rule(self, op, buffer)
        self.reducing = False
        if output is not None:
            iters, index = self.box(output.shape)
            read = Read(buffer.name, index, buffer.dtype)
            self.body.append(Block(f"store.{output.name}", iters, Access(output.name, index), read))

    def _target(self, value: int, hint: str) -> Buffer:
        """The buffer a value is computed into: an output's own, or a new one."""
        known = self.storage.get(value)
        if known is not None:
            return known
        type_ = self.graph.types[value]
        self.storage[value] = self.temporary(type_.shape, type_.dtype, hint)
        return self.storage[value]

    def temporary(self, shape: tuple[int, ...], dtype: str, hint: str = "t") -> Buffer:
        """A new buffer of an intermediate value."""
        buffer = Buffer(f"{hint}{len(self.allocated)}", shape, dtype)
        self.allocated.append(buffer)
        return buffer

    def _kept(self, op: Op) -> bool:
        """Whether an elementwise value gets a buffer."""
        value = op.result
        return self._shared_and_costly(value) or self._spread_and_costly(value) or self._nested_deeply(op)

    def _shared_and_costly(self, value: int) -> bool:
        """Expressions are trees: a value that is used twice is computed twice, or kept."""
        most = _INLINE_COST if self.graph.types[value].size > 1 else _INLINE_COST_OF_SCALAR
        return self.uses[value] > 1 and self._costs_more(value, most)

    def _nested_deeply(self, op: Op) -> bool:
        """Whether an expression would be nested so deeply that walking through it exceeds Python's recursion."""
        depth = 1 + max((self.depths.get(v, 0) for v in op.operands if v not in self.storage), default=0)
        self.depths[op.result] = depth
        return depth > _DEEPEST

    def _spread_and_costly(self, value: int) -> bool:
        """What is made of a reduction's results (a mean, a scale) is computed once, not for each element it serves."""
        size = self.graph.types[value].size
        users = (self.graph.ops[user] for user in self.graph.users[value])
        if value not in self.from_reductions or not any(user.type.size > size for user in users):
            return False
        return self._costs_more(value, _INLINE_COST)

    def _of_reductions(self) -> frozenset[int]:
        """Values that are computed from results of reductions over axes in this region, these included."""
        found: set[int] = set()
        for op in self.graph.ops:
            if op.opcode in AXIS_REDUCTIONS or not found.isdisjoint(op.operands):
                found.update(op.results)
        return frozenset(found)

    def _costs_more(self, value: int, most: int) -> bool:
        """Whether computing an element in place takes more than about so many instructions."""
        total, waiting = 0, [value]
        while waiting and total <= most:
            at = waiting.pop()
            op = self.graph.producer(at)
            if op is None or at in self.storage:
                total += 1
                continue
            if op.opcode not in VIEWS | IDENTITIES:
                total += 1 if op.opcode in _CHEAP else 16
            waiting += op.operands
        return total > most

    def _operands_in_buffers(self, op: Op) -> None:
        """Contractions and windows read their operands many times: what is computed is computed once."""
        if op.opcode not in CONTRACTIONS and op.opcode not in WINDOWS:
            return
        for value in op.operands:
            root = self._through_views(value)
            producer = self.graph.producer(root)
            if producer is not None and root not in self.storage:
                self._store_elementwise(producer, root)

    def _through_views(self, value: int) -> int:
        while value not in self.storage:
            op = self.graph.producer(value)
            if op is None or op.opcode not in VIEWS | IDENTITIES:
                return value
            value = op.operands[0]
        return value

    def _store_elementwise(self, op: Op, value: int) -> None:
        type_ = self.graph.types[value]
        buffer = self.storage.pop(value, None)
        iters, index = self.box(type_.shape)
        expr = self._compute(op, value, index)
        if buffer is not None:
            self.storage[value] = buffer
        buffer = buffer or self._target(value, "t")
        self.body.append(Block(f"{op.opcode}.{buffer.name}", iters, Access(buffer.name, index), expr))

    # ---- expressions

    def box(self, shape: tuple[int, ...]) -> tuple[tuple[Iter, ...], tuple[AffineExpr, ...]]:
        """Data iterators over a shape; starts a new Block."""
        self.memo.clear()
        self.ranges = {f"i{n}": (0, max(extent - 1, 0)) for n, extent in enumerate(shape)}
        iters = tuple(Iter(f"i{n}", constant(0), extent) for n, extent in enumerate(shape))
        return iters, tuple(var(i.name) for i in iters)

    def reduced(self, extents: tuple[int, ...]) -> tuple[tuple[Iter, ...], tuple[AffineExpr, ...]]:
        """Reduce iterators of the Block that `_box` started."""
        iters = tuple(Iter(f"r{n}", constant(0), extent, "reduce") for n, extent in enumerate(extents))
        self.ranges.update({i.name: (0, max(i.extent - 1, 0)) for i in iters})
        return iters, tuple(var(i.name) for i in iters)

    def element(self, value: int, index: tuple[AffineExpr, ...]) -> Expr:
        """The scalar expression of one element of a value."""
        key = (value, index)
        known = self.memo.get(key)
        if known is None:
            known = self._element(value, index)
            self.memo[key] = known
        return known

    def _element(self, value: int, index: tuple[AffineExpr, ...]) -> Expr:
        buffer = self.storage.get(value)
        if buffer is not None:
            return Read(buffer.name, index, buffer.dtype)
        array = self.graph.constant(value)
        formed = None if array is None else closed_form(array, self.graph.types[value].dtype, index)
        if formed is not None:
            return formed
        op = self.graph.producer(value)
        if op is None:
            raise LoweringError(f"expected plain data as a constant, found %{value}")
        return self._compute(op, value, index)

    def _compute(self, op: Op, value: int, index: tuple[AffineExpr, ...]) -> Expr:
        """One element of what an elementwise operation or a view computes."""
        type_ = self.graph.types[value]
        if op.opcode in IDENTITIES:
            return self.element(op.operands[0], index)
        if op.opcode in MOVES:
            return MOVES[op.opcode](self, op, index)
        if op.opcode in VIEWS:
            return self._view(op, index)
        if op.opcode == "iota":
            return IndexValue(index[op.params["dimension"]], type_.dtype)
        args = tuple(self.element(v, _aligned(self.graph.types[v], type_, index)) for v in op.operands)
        return _elementwise(op, args, type_.dtype)

    def guarded(self, value: int, index: tuple[AffineExpr, ...], guard: tuple[AffineExpr, ...], other: float) -> Expr:
        """An element where the guard holds, else a constant."""
        inner = self.element(value, index)
        guard = tuple(g for g in guard if g.bounds(self.ranges)[0] < 0)
        if not guard:
            return inner
        if not isinstance(inner, Read) or (inner.guard and inner.otherwise != other):
            raise LoweringError("expected a padded operand in memory")
        return Read(inner.buffer, inner.index, inner.dtype, (*inner.guard, *guard), other)

    # ---- views

    def _view(self, op: Op, index: tuple[AffineExpr, ...]) -> Expr:
        source = op.operands[0]
        type_ = self.graph.types[source]
        match op.opcode:
            case "reshape" | "squeeze":
                return self.element(source, self._reshaped(op.type.shape, type_.shape, index))
            case "transpose":
                order = op.params["permutation"]
                return self.element(source, tuple(index[order.index(axis)] for axis in range(type_.rank)))
            case "broadcast_in_dim":
                axes = op.params["broadcast_dimensions"]
                shape = op.params["shape"]
                picked = tuple(
                    constant(0) if size == 1 and shape[axis] != 1 else index[axis]
                    for axis, size in zip(axes, type_.shape, strict=True)
                )
                return self.element(source, picked)
            case "rev":
                axes = op.params["dimensions"]
                flipped = (
                    constant(n - 1) - i if a in axes else i
                    for a, (i, n) in enumerate(zip(index, type_.shape, strict=True))
                )
                return self.element(source, tuple(flipped))
            case _:
                starts, strides = op.params["start_indices"], op.params["strides"] or (1,) * type_.rank
                return self.element(source, tuple(i * s + b for i, s, b in zip(index, strides, starts, strict=True)))

    def _reshaped(
        self, new: tuple[int, ...], old: tuple[int, ...], index: tuple[AffineExpr, ...]
    ) -> tuple[AffineExpr, ...]:
        wide = [i for i, n in zip(index, new, strict=True) if n != 1]
        if [n for n in new if n != 1] == [n for n in old if n != 1]:
            rest = iter(wide)
            return tuple(constant(0) if n == 1 else next(rest) for n in old)
        flat = linearize(index, new)
        return tuple(e.simplify(self.ranges) for e in delinearize(flat, old))

    # ---- Blocks

    def reduction(
        self,
        op: Op,
        buffer: Buffer,
        monoid: str,
        write: tuple[AffineExpr, ...],
        iters: tuple[Iter, ...],
        value: Expr,
        guard: tuple[AffineExpr, ...] = (),
    ) -> None:
        """Append the initialising and the updating Block of a reduction; it skips steps for which a guard fails."""
        data = tuple(i for i in iters if i.kind == "data")
        identity = Const(MONOIDS[monoid].identity(buffer.dtype), buffer.dtype)
        self.body.append(Block(f"{op.opcode}.{buffer.name}.init", data, Access(buffer.name, write), identity))
        access = Access(buffer.name, write)
        self.body.append(Block(f"{op.opcode}.{buffer.name}", iters, access, value, monoid, guard))


def _aligned(operand: TensorType, result: TensorType, index: tuple[AffineExpr, ...]) -> tuple[AffineExpr, ...]:
    """Index into an operand of an elementwise operation: scalars and axes of size 1 broadcast."""
    if not operand.shape:
        return ()
    pairs = zip(index, operand.shape, result.shape, strict=True)
    return tuple(constant(0) if n == 1 and m != 1 else i for i, n, m in pairs)


def _elementwise(op: Op, args: tuple[Expr, ...], dtype: str) -> Expr:
    if op.opcode == "clamp":
        low, x, high = args
        return Apply("min", (Apply("max", (x, low), dtype), high), dtype)
    if op.opcode == "select_n" and (len(args) != 3 or args[0].dtype != dtypes.BOOL):
        raise LoweringError("expected a boolean selection between two cases")
    if dtype == dtypes.BOOL and op.opcode in ("and", "or"):
        for known, other in ((args[0], args[1]), (args[1], args[0])):
            if isinstance(known, Const):
                return other if known.value == (op.opcode == "and") else known
    if op.opcode == "integer_pow":
        return Apply(op.opcode, args, dtype, (op.params["y"],))
    if op.opcode == "round":
        return Apply(op.opcode, args, dtype, (_ROUNDING[op.params["rounding_method"]],))
    if op.opcode == "reduce_precision":
        raise LoweringError("expected no reduced precision")
    return Apply(op.opcode, args, dtype)
