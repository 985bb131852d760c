"""Code for one Block: its box unrolled into instructions in the order of its iterators."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir import dtypes
from ...ir.affine import AffineExpr, var
from ...ir.loop import Apply, Const, Expr, IndexValue, Iter, Read, reads
from ...ir.monoid import MONOIDS
from . import elementwise
from .access import I64
from .block_memory import BlockMemory, Point, Value
from .builder import VType, vtype
from .memory import CodegenError

_REDUCE = {
    "sum": ("fadd", "add", "add"),
    "prod": ("fmul", "mul", "mul"),
    "max": ("fmaximum", "smax", "umax"),
    "min": ("fminimum", "smin", "umin"),
    "and": ("and", "and", "and"),
    "or": ("or", "or", "or"),
}


@dataclass(slots=True)
class BlockEmitter(BlockMemory):
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
        if self._wide is not None and self._lane_dependent_guard(self._wide.name):
            self._wide = None
        self.lanes = self.memory.lanes if self._wide is not None else 0
        for point in self._points():
            self._memo.clear()
            self._guarded(point)
        self._flush()

    @property
    def _horizontal(self) -> bool:
        """Whether lanes are combined with each other."""
        return self._wide is not None and self._wide.kind == "reduce"

    def _lane_dependent_guard(self, name: str) -> bool:
        return any(name in g.variables() for g in self.block.guard)

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
        for guard in self.block.guard:
            resolved = self._at(guard, point)
            if not resolved.is_constant:
                conditions.append(resolved)
            elif resolved.const < 0:
                if self.block.guard_mode == "zero":
                    self._store_zero(point)
                return
        if not conditions:
            self._statement(point)
            return
        self._branch(conditions, point)

    def _holds(self, conditions: list[AffineExpr]) -> str:
        b = self.builder
        tests = [b.compare("ge", I64, self.scopes.value(c), "0") for c in conditions]
        out = tests[0]
        for test in tests[1:]:
            out = b.op("and", vtype("bool"), out, test)
        return out

    def _branch(self, conditions: list[AffineExpr], point: Point) -> None:
        b = self.builder
        self._flush()
        inside, outside, after = b.fresh_label("in"), b.fresh_label("out"), b.fresh_label("after")
        b.cond_br(self._holds(conditions), inside, outside)
        for label, run in ((inside, self._statement), (outside, self._otherwise)):
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
        total = ""
        for start in range(0, wide.extent, self.lanes):
            self._memo.clear()
            point[wide.name] = start
            new = self._widen(self._eval(self.block.value, point), t)
            active = self._active(point)
            if active < self.lanes:
                mask = b.lanes([i < active for i in range(self.lanes)], vtype("bool", self.lanes))
                new = b.select(t, mask, new, identity)
            total = new if not total else elementwise.binary(b, MONOIDS[monoid].combine, t, total, new)
        names = _REDUCE[monoid]
        name = names[0] if t.is_float else names[1] if t.dtype in dtypes.SIGNED else names[2]
        return b.reduce(name, t, total)

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

    def _apply(self, expr: Apply, point: Point) -> Value:
        args = [self._eval(a, point) for a in expr.args]
        lanes = max(t.lanes for _, t in args)
        types = [vtype(t.dtype, lanes) for _, t in args]
        values = [self._widen(a, t) for a, t in zip(args, types, strict=True)]
        result = vtype(expr.dtype, lanes)
        return elementwise.apply(self.builder, expr.op, result, types, values, expr.params), result

    def _index_value(self, expr: IndexValue, point: Point) -> Value:
        b, wide = self.builder, self._wide
        resolved = self.scopes.resolve(expr.expr)
        if wide is None or wide.name not in resolved.variables():
            first = self.scopes.value(self._at(expr.expr, point))
            return self._convert_index(first, I64, vtype(expr.dtype)), vtype(expr.dtype)
        indices = vtype("int64", self.lanes)
        step = resolved.coefficient(wide.name)
        if wide.name in (resolved - var(wide.name) * step).variables():
            values = "poison"
            for lane in range(self.lanes):
                at = {**point, wide.name: point[wide.name] + lane}
                values = b.insert(indices, values, self.scopes.value(self._at(expr.expr, at)), lane)
        else:
            first = self._widen((self.scopes.value(self._at(expr.expr, point)), I64), indices)
            values = b.op("add", indices, first, b.lanes([step * i for i in range(self.lanes)], indices))
        t = vtype(expr.dtype, self.lanes)
        return self._convert_index(values, indices, t), t

    def _convert_index(self, value: str, source: VType, t: VType) -> str:
        if t.dtype == "int64":
            return value
        return elementwise.apply(self.builder, "convert_element_type", t, [source], [value], ())

    # ---- reads

    def _read(self, expr: Read, point: Point) -> Value:
        if self._wide is not None and any(self._wide.name in g.variables() for g in expr.guard):
            return self._lanewise(expr, point)
        conditions = [self._at(g, point) for g in expr.guard]
        if any(c.is_constant and c.const < 0 for c in conditions):
            t = vtype(expr.dtype)
            return self.builder.const(expr.otherwise, t), t
        dynamic = [c for c in conditions if not c.is_constant]
        if not dynamic:
            return self._load(expr, point)
        return self._diamond(dynamic, expr, point)

    def _diamond(self, conditions: list[AffineExpr], expr: Read, point: Point) -> Value:
        """Load where the conditions hold, else the padding value, without touching memory."""
        b = self.builder
        holds = self._holds(conditions)
        before = b.block
        inside, after = b.fresh_label("read"), b.fresh_label("join")
        b.cond_br(holds, inside, after)
        b.label(inside)
        self.scopes.push()
        loaded, splats = dict(self._loaded), dict(self._splats)
        value, t = self._load(expr, point)
        self._loaded, self._splats = loaded, splats
        self.scopes.pop()
        end = b.block
        b.br(after)
        b.label(after)
        out = b.phi(t.text, value, end)
        b.add_incoming(out, b.const(expr.otherwise, t), before)
        return out, t

    def _lanewise(self, expr: Read, point: Point) -> Value:
        """A read whose guard differs between lanes: one guarded scalar read per lane."""
        b, wide = self.builder, self._wide
        assert wide is not None
        t = vtype(expr.dtype, self.lanes)
        # Lanes that are not in use are computed with all the same, and dividing by poison is undefined.
        out, active = "zeroinitializer", self._active(point)
        self._wide = None
        for lane in range(active):
            element, _ = self._read(expr, {**point, wide.name: point[wide.name] + lane})
            out = b.insert(t, out, element, lane)
        self._wide = wide
        return out, t

    def _load(self, expr: Read, point: Point) -> Value:
        place = self.memory.places[expr.buffer]
        flat = self._flatten(expr, place)
        return self._load_at(place, flat, point)
