"""Code for one Block: its box unrolled into instructions in the order of its iterators."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...ir import dtypes
from ...ir.affine import AffineExpr, var
from ...ir.loop import Apply, Const, Expr, IndexValue, Iter, Let, Read, Where, reads
from ...ir.monoid import MONOIDS
from . import elementwise
from .access import I64
from .block_choices import BlockChoices
from .block_memory import Point, Value
from .builder import VType, vtype
from .lanes import Mask
from .memory import CodegenError

_REDUCE = {
    "sum": ("fadd", "add", "add"),
    "prod": ("fmul", "mul", "mul"),
    "max": ("fmaximum", "smax", "umax"),
    "larger": ("fmax", "", ""),
    "min": ("fminimum", "smin", "umin"),
    "and": ("and", "and", "and"),
    "or": ("or", "or", "or"),
}
_HALVES = frozenset(2.0**-n for n in range(64))


def _exact_product(e: Expr) -> bool:
    """Whether an expression is a number times a power of two up to 1: no rounding but of what denormals are."""
    if not isinstance(e, Apply) or e.op != "mul" or e.dtype not in ("float32", "float64"):
        return False
    return any(isinstance(a, Const) and a.value in _HALVES for a in e.args)


@dataclass(slots=True)
class BlockEmitter(BlockChoices):
    """Emits one Block.

    Args:
        builder: gets the instructions.
        scopes: values of loop variables.
        memory: places of buffers.
        block: a legalised Block: box from 0, no limits.
    """

    def emit(self) -> None:
        """Emit the whole box."""
        block = self.block
        for it in block.iters:
            if it.limit is not None or not it.lower.is_constant or it.lower.const:
                raise CodegenError(f"expected a legalised box in {block.name}, found {it}")
        # Points write different elements, so that only the next step of a reduction reads what was stored.
        self._forwards = all(r.buffer != block.write.buffer for r in reads(block.value))
        self._wide = next((i for i in block.iters if i.vectorized), None)
        self.lanes = self.memory.lanes if self._wide is not None else 0
        across = self._across()
        if across is not None:
            self._store_transposed(across)
        else:
            for point in self._points():
                self._memo.clear()
                self._guarded(point)
        self._flush()

    @property
    def _horizontal(self) -> bool:
        """Whether lanes are combined with each other."""
        return self._wide is not None and self._wide.kind == "reduce"

    def _points(self) -> Iterator[Point]:
        """Points in program order, along the vectorised iterator one per vector; one for all of them if it reduces."""
        step = max((i.extent for i in self.block.iters), default=1) if self._horizontal else self.lanes
        spans = [range(0, i.extent, step) if i is self._wide else range(i.extent) for i in self.block.iters]
        names = [i.name for i in self.block.iters]
        for values in itertools.product(*spans):
            yield dict(zip(names, values, strict=True))

    # ---- guards

    def _guarded(self, point: Point) -> None:
        conditions: list[AffineExpr] = []
        for guard in self._split(self.block.guard)[0]:
            resolved = self._at(guard, point)
            if not resolved.is_constant:
                conditions.append(resolved)
            elif resolved.const < 0:
                self._otherwise(point)
                return
        if not conditions:
            self._guarded_lanes(point)
            return
        self._branch(lambda: self._holds(conditions), point, self._guarded_lanes)

    def _guarded_lanes(self, point: Point) -> None:
        """The statement in those lanes that the guard leaves."""
        lanewise = self._split(self.block.guard)[1]
        if not lanewise or self._horizontal:
            self._statement(point)
            return
        allowed = self._lanes_of(lanewise, point)
        if allowed.full:
            self._statement(point)
        elif allowed.empty:
            self._otherwise(point)
        elif allowed.value:  # reads that all lanes share must not happen where no lane is left
            self._branch(lambda: allowed.any(self.builder), point, lambda p: self._some_lanes(allowed, p))
        else:
            self._some_lanes(allowed, point)

    def _some_lanes(self, allowed: Mask, point: Point) -> None:
        self._allowed = allowed
        if self.block.guard_mode == "skip":
            self._statement(point)
            self._allowed = None
            return
        t = vtype(self.block.value.dtype, self.lanes)
        value = self._widen(self._eval(self.block.value, point), t)
        self._allowed = None
        self._store(point, (self.builder.select(t, allowed.text(self.builder), value, self.builder.const(0, t)), t))

    def _branch(self, holds: Callable[[], str], point: Point, then: Callable[[Point], None]) -> None:
        b = self.builder
        self._flush()
        inside, outside, after = b.fresh_label("in"), b.fresh_label("out"), b.fresh_label("after")
        b.cond_br(holds(), inside, outside)
        for label, run in ((inside, then), (outside, self._otherwise)):
            b.label(label)
            self.scopes.push()
            run(point)
            self._flush()
            self.scopes.pop()
            b.br(after)
        b.label(after)

    def _otherwise(self, point: Point) -> None:
        if self.block.guard_mode == "zero":
            self._store_zero(point)

    def _store_zero(self, point: Point) -> None:
        t = vtype(self.block.value.dtype)
        self._store(point, (self.builder.const(0, t), t))

    # ---- statements

    def _statement(self, point: Point) -> None:
        block = self.block
        if self._wide is not None and self._horizontal:
            self._combine_lanes(self._wide, point)
            return
        if block.monoid is None:
            self._store(point, self._eval(block.value, point))
            return
        old = self._load_written(point)
        self._store(point, self._combined(block.monoid, old, block.value, point))

    def _combined(self, monoid: str, old: Value, value: Expr, point: Point) -> Value:
        t = old[1]
        fused = (
            monoid == "sum" and isinstance(value, Apply) and value.op == "mul" and t.is_float
            and (t.dtype in ("float32", "float64")) and "fma" in self.builder.features
        )  # fmt: skip
        if fused and isinstance(value, Apply):
            a, b = (self._widen(self._eval(x, point), t) for x in value.args)
            return self.builder.intrinsic("fma", t, a, b, old[0]), t
        new = self._widen(self._eval(value, point), t)
        return elementwise.binary(self.builder, MONOIDS[monoid].combine, t, old[0], new), t

    def _combine_lanes(self, wide: Iter, point: Point) -> None:
        """A vectorised reduce iterator: combine whole vectors first, then the lanes of one."""
        monoid = self.block.monoid
        assert monoid is not None
        total = self._vector_total(monoid, wide, dict(point))
        lanes, self._wide = self.lanes, None
        self.lanes = 0
        old = self._load_written(point)
        new = elementwise.binary(self.builder, MONOIDS[monoid].combine, old[1], old[0], total)
        self._store(point, (new, old[1]))
        self.lanes, self._wide = lanes, wide

    def _vector_total(self, monoid: str, wide: Iter, point: Point) -> str:
        b = self.builder
        t = vtype(self.block.value.dtype, self.lanes)
        identity = b.const(MONOIDS[monoid].identity(t.dtype), t)
        total = identity if monoid == "larger" else ""  # which NaN leaves alone only as the second operand
        for start in range(0, wide.extent, self.lanes):
            self._memo.clear()
            point[wide.name] = start
            lanewise = self._split(self.block.guard)[1]
            self._allowed = self._lanes_of(lanewise, point) if lanewise else None
            new = self._value_of_lanes(t, point)
            mask = self._mask(t, point)
            if mask is not None:
                new = b.select(t, mask.text(b), new, identity)
            self._allowed = None
            total = new if not total else elementwise.binary(b, MONOIDS[monoid].combine, t, total, new)
        names = _REDUCE[monoid]
        name = names[0] if t.is_float else names[1] if t.dtype in dtypes.SIGNED else names[2]
        return b.reduce(name, t, total)

    def _value_of_lanes(self, t: VType, point: Point) -> str:
        """The Block's value in the lanes that its guard leaves; what the others hold does not matter."""

        def value() -> Value:
            return self._widen(self._eval(self.block.value, point), t), t

        allowed = self._allowed
        if allowed is not None and allowed.empty:
            return self.builder.const(0, t)
        if allowed is not None and allowed.value:
            return self._where(allowed.any(self.builder), value, 0)[0]
        return value()[0]

    # ---- expressions

    def _eval(self, expr: Expr, point: Point) -> Value:
        known = self._memo.get(id(expr))
        if known is None:
            known = self._compute(expr, point)
            self._memo[id(expr)] = known
        return known

    def _compute(self, expr: Expr, point: Point) -> Value:
        match expr:
            case Const():
                t = vtype(expr.dtype)
                return self.builder.const(expr.value, t), t
            case Read():
                return self._read(expr, point)
            case IndexValue():
                return self._index_value(expr, point)
            case Apply():
                return self._apply(expr, point)
            case Where():
                return self._chosen(expr, point)
            case Let():
                return self._bound(expr, point)

    def _apply(self, expr: Apply, point: Point) -> Value:
        if expr.op == "sub" and _exact_product(expr.args[0]) and "fma" in self.builder.features:
            return self._fused_difference(expr, point)
        args = [self._eval(a, point) for a in expr.args]
        lanes = max(t.lanes for _, t in args)
        types = [vtype(t.dtype, lanes) for _, t in args]
        values = [self._widen(a, t) for a, t in zip(args, types, strict=True)]
        result = vtype(expr.dtype, lanes)
        return elementwise.apply(self.builder, expr.op, result, types, values, expr.params), result

    def _fused_difference(self, expr: Apply, point: Point) -> Value:
        """``x c - y`` rounded once, which is no other number where ``x c`` is exact."""
        product = expr.args[0]
        assert isinstance(product, Apply)
        args = [self._eval(a, point) for a in (*product.args, expr.args[1])]
        t = vtype(expr.dtype, max(t.lanes for _, t in args))
        x, c, y = (self._widen(a, t) for a in args)
        return self.builder.intrinsic("fma", t, x, c, self.builder.fneg(t, y)), t

    def _index_value(self, expr: IndexValue, point: Point) -> Value:
        b, wide = self.builder, self._wide
        resolved = self.scopes.resolve(expr.expr)
        if wide is None or wide.name not in resolved.variables():
            first = self.scopes.value(self._at(expr.expr, point))
            return self._convert_index(first, I64, vtype(expr.dtype)), vtype(expr.dtype)
        step = resolved.coefficient(wide.name)
        if wide.name in (resolved - var(wide.name) * step).variables():
            return self._scattered_index(expr, point)
        # Sums that wrap give the same low bits, so that int32 needs no wider lanes.
        indices = vtype("int32" if expr.dtype == "int32" else "int64", self.lanes)
        first = self._convert_index(self.scopes.value(self._at(expr.expr, point)), I64, vtype(indices.dtype))
        lanes = b.lanes([step * i for i in range(self.lanes)], indices)
        values = b.op("add", indices, self._widen((first, vtype(indices.dtype)), indices), lanes)
        t = vtype(expr.dtype, self.lanes)
        return self._convert_index(values, indices, t), t

    def _scattered_index(self, expr: IndexValue, point: Point) -> Value:
        """An index that does not grow evenly along the lanes."""
        assert self._wide is not None
        b, t = self.builder, vtype(expr.dtype, self.lanes)
        indices, values = vtype("int64", self.lanes), "poison"
        for lane in range(self.lanes):
            at = {**point, self._wide.name: point[self._wide.name] + lane}
            values = b.insert(indices, values, self.scopes.value(self._at(expr.expr, at)), lane)
        return self._convert_index(values, indices, t), t

    def _convert_index(self, value: str, source: VType, t: VType) -> str:
        if t.dtype == source.dtype:
            return value
        return elementwise.apply(self.builder, "convert_element_type", t, [source], [value], ())

    # ---- reads

    def _read(self, expr: Read, point: Point) -> Value:
        shared, lanewise = self._split(expr.guard)
        conditions = [self._at(g, point) for g in shared]
        guard = self._lanes_of(lanewise, point) if lanewise else None
        if any(c.is_constant and c.const < 0 for c in conditions) or (guard is not None and guard.empty):
            t = vtype(expr.dtype)
            return self.builder.const(expr.otherwise, t), t
        dynamic = [c for c in conditions if not c.is_constant]
        if not dynamic:
            return self._load(expr, point, guard)
        return self._where(self._holds(dynamic), lambda: self._load(expr, point, guard), expr.otherwise)

    def _load(self, expr: Read, point: Point, guard: Mask | None) -> Value:
        if guard is not None and not guard.full:
            return self._load_lanes(expr, point, guard)
        place = self.memory.places[expr.buffer]
        flat = self._flatten(expr, place)
        return self._load_at(place, flat, point)
