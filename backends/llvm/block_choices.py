"""Values of one Block that depend on where a point lies (`Where`) and on data (`Let`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...ir import dtypes
from ...ir.affine import AffineExpr, var
from ...ir.loop import Expr, Index, Let, Where
from .access import I64
from .block_memory import Point, Value
from .block_stores import BlockStores
from .builder import VType, vtype
from .lanes import Mask, prefix


@dataclass(slots=True)
class BlockChoices(BlockStores):
    """What a Block chooses."""

    def _split(self, guard: Index) -> tuple[Index, Index]:
        """Conditions that hold for all lanes alike, and those that differ between lanes."""
        wide = self._wide
        if wide is None or not guard:
            return guard, ()
        lanewise = tuple(g for g in guard if wide.name in g.variables())
        return tuple(g for g in guard if g not in lanewise), lanewise

    def _holds(self, conditions: list[AffineExpr]) -> str:
        b = self.builder
        tests = [b.compare("ge", I64, self.scopes.value(c), "0") for c in conditions]
        out = tests[0]
        for test in tests[1:]:
            out = b.op("and", vtype("bool"), out, test)
        return out

    # ---- choices between two expressions

    def _chosen(self, expr: Where, point: Point) -> Value:
        """One of two values; the other one is not computed, so that it touches no memory."""
        shared, lanewise = self._split((expr.condition,))
        if lanewise:
            return self._chosen_lanes(expr, point, self._lanes_of(lanewise, point))
        condition = self._at(shared[0], point)
        if condition.is_constant:
            return self._part(expr.then if condition.const >= 0 else expr.orelse, point, None)
        t = self._type_of(expr)
        return self._either(
            self._holds([condition]),
            lambda: self._widen(self._part(expr.then, point, None), t),
            lambda: self._widen(self._part(expr.orelse, point, None), t),
            t,
        )

    def _type_of(self, expr: Expr) -> VType:
        return vtype(expr.dtype, self.lanes if self._wide is not None else 0)

    def _chosen_lanes(self, expr: Where, point: Point, mask: Mask) -> Value:
        """A choice that differs between the lanes of a vector."""
        b = self.builder
        used = self._mask(vtype("bool", self.lanes), point) or prefix(self.lanes, self.lanes)
        inside, outside = used.both(mask, b), used.both(mask.negated(b), b)
        if outside.empty:
            return self._part(expr.then, point, inside)
        if inside.empty:
            return self._part(expr.orelse, point, outside)
        t = self._type_of(expr)
        then = self._some(expr.then, point, inside, t)
        orelse = self._some(expr.orelse, point, outside, t)
        return b.select(t, mask.text(b), then, orelse), t

    def _some(self, expr: Expr, point: Point, mask: Mask, t: VType) -> str:
        """The expression in some lanes; where it is not known in advance that there are any, under a branch."""

        def value() -> Value:
            return self._widen(self._part(expr, point, mask), t), t

        return self._where(mask.any(self.builder), value, 0)[0] if mask.value else value()[0]

    def _part(self, expr: Expr, point: Point, mask: Mask | None) -> Value:
        """The expression at a point, memory touched only in those lanes; values known before stay known."""
        with self._kept_memo():
            allowed = self._allowed
            self._allowed = mask if mask is not None else allowed
            value = self._eval(expr, point)
            self._allowed = allowed
        return value

    @contextmanager
    def _kept_memo(self) -> Iterator[None]:
        """What is computed inside is forgotten after: it may not hold, or not dominate, outside."""
        known = dict(self._memo)
        yield
        self._memo = known

    def _either(self, holds: str, then: Callable[[], str], orelse: Callable[[], str], t: VType) -> Value:
        b = self.builder
        yes, no, after = b.fresh_label("then"), b.fresh_label("else"), b.fresh_label("chosen")
        b.cond_br(holds, yes, no)
        ends: list[tuple[str, str]] = []
        for label, part in ((yes, then), (no, orelse)):
            b.label(label)
            self.scopes.push()
            loaded, splats = dict(self._loaded), dict(self._splats)
            value = part()
            self._loaded, self._splats = loaded, splats
            self.scopes.pop()
            ends.append((value, b.block))
            b.br(after)
        b.label(after)
        out = b.phi(t.text, *ends[0])
        b.add_incoming(out, *ends[1])
        return out, t

    # ---- data-dependent indices

    def _bound(self, expr: Let, point: Point) -> Value:
        """The body with a name bound: once for all lanes where they agree on the value, else lane by lane."""
        value, t = self._eval(expr.value, point)
        if t.lanes:
            return self._bound_lanes(expr, point, value, t)
        with self._alias(expr, value, t), self._kept_memo():
            return self._eval(expr.body, point)

    @contextmanager
    def _alias(self, expr: Let, value: str, t: VType) -> Iterator[None]:
        """The name stands for a variable of its own per value: what is known of one must not be taken for another."""
        index = self._clamped(value, t, expr.extent)
        alias = f"{expr.name}@{index}"
        self.scopes.registers[alias] = index
        hidden = self.scopes.constants.get(expr.name)
        self.scopes.constants[expr.name] = var(alias)
        self._aliases = (*self._aliases, alias)
        yield
        self._aliases = self._aliases[:-1]
        del self.scopes.constants[expr.name]
        if hidden is not None:
            self.scopes.constants[expr.name] = hidden

    def _clamped(self, value: str, t: VType, extent: int) -> str:
        """An i64 between 0 and ``extent - 1``."""
        b, last = self.builder, extent - 1
        signed = t.dtype in dtypes.SIGNED
        if not extent <= 1 << (8 * dtypes.itemsize(t.dtype) - signed):
            last = (1 << (8 * dtypes.itemsize(t.dtype) - signed)) - 1
        if signed:
            value = b.intrinsic("smax", t, value, "0")
            value = b.intrinsic("smin", t, value, str(last))
        else:
            value = b.intrinsic("umin", t, value, str(last))
        if t.text == I64.text:
            return value
        return b.value(f"zext {t.text} {value} to i64")

    def _bound_lanes(self, expr: Let, point: Point, value: str, t: VType) -> Value:
        b, wide, lanes = self.builder, self._wide, self.lanes
        assert wide is not None
        result = vtype(expr.dtype, lanes)
        mask = self._mask(result, point) or prefix(lanes, lanes)
        bits, allowed, out = mask.text(b) if mask.value else "", self._allowed, "zeroinitializer"
        self._wide, self.lanes, self._allowed = None, 0, None
        for lane in (n for n, used in enumerate(mask.lanes) if used):
            at = {**point, wide.name: point[wide.name] + lane}
            index = b.extract(t, value, lane)

            def element(at: Point = at, index: str = index) -> Value:
                with self._kept_memo(), self._alias(expr, index, t.scalar):
                    self._memo.clear()
                    return self._eval(expr.body, at)

            if bits:
                found = self._where(b.extract(vtype("bool", lanes), bits, lane), element, 0)
            else:
                found = element()
            out = b.insert(result, out, found[0], lane)
        self._wide, self.lanes, self._allowed = wide, lanes, allowed
        return out, result
