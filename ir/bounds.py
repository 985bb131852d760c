"""What is known about loop variables and iterators at a place of a program, and what follows from it.

Interval analysis decides most questions. Conditions (guards, limits, loop bounds) are then used by eliminating a
variable that they share with the question, and small domains are enumerated, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .affine import AffineExpr, FloorDiv, Range, constant, var
from .loop import Block, For, bound_ranges

# How many conditions one proof may combine, and the largest domain that is enumerated (a millisecond or so).
_DEPTH = 2
_MAX_POINTS = 200_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds at a place.

    Args:
        ranges: inclusive range of every variable in scope, and of the relative variables in ``origins``.
        origins: for a variable whose first value is not constant: that value plus a relative variable (``name~``).
        conditions: expressions known to be ``>= 0``, in resolved form (see `resolve`).
        empty: whether the place is never reached.
    """

    ranges: dict[str, Range] = field(default_factory=dict)
    origins: dict[str, AffineExpr] = field(default_factory=dict)
    conditions: tuple[AffineExpr, ...] = ()
    empty: bool = False

    def resolve(self, expr: AffineExpr) -> AffineExpr:
        """The expression in terms of relative variables, so that a common origin cancels, simplified."""
        return expr.substitute(self.origins).simplify(self.ranges)

    def assume(self, conditions: Iterable[AffineExpr]) -> Facts:
        """The facts where every one of ``conditions`` is ``>= 0``."""
        new = tuple(self.resolve(c) for c in conditions)
        never = any(c.bounds(self.ranges)[1] < 0 for c in new)
        return Facts(self.ranges, self.origins, self.conditions + new, self.empty or never)

    def enter_loop(self, loop: For) -> Facts:
        """The facts inside a loop."""
        low = max(e.bounds(self.ranges)[0] for e in loop.lower)
        high = min(e.bounds(self.ranges)[1] for e in loop.upper) - 1
        trips = high - low + 1
        if len(loop.lower) == 1:
            first = self.resolve(loop.lower[0])
            trips = min((self.resolve(e) - first).bounds(self.ranges)[1] for e in loop.upper)
        inside = self._with(loop.name, (low, high), loop.lower[0] if len(loop.lower) == 1 else None, trips)
        this = var(loop.name)
        known = [this - e for e in loop.lower if not e.is_constant]
        return inside.assume(known + [e - 1 - this for e in loop.upper if not e.is_constant])

    def enter_box(self, block: Block) -> Facts:
        """The facts at a point of a Block's box, its guard not yet included."""
        facts = self
        for it in block.iters:
            low, high = it.lower.bounds(self.ranges)
            high += it.extent - 1
            if it.limit is not None:
                high = min(high, it.limit.bounds(self.ranges)[1] - 1)
            facts = facts._with(it.name, (low, high), it.lower, it.extent)
        for name, values in bound_ranges(block.value).items():
            facts = facts._with(name, values, None, values[1] + 1)
        return facts.assume([i.limit - 1 - var(i.name) for i in block.iters if i.limit is not None])

    def _with(self, name: str, values: Range, lower: AffineExpr | None, extent: int) -> Facts:
        empty = values[1] < values[0] or extent <= 0
        ranges = {**self.ranges, name: (values[0], max(values))}
        origins = self.origins
        if lower is not None and not lower.is_constant:
            ranges[f"{name}~"] = (0, max(extent - 1, 0))
            origins = {**origins, name: lower.substitute(origins) + var(f"{name}~")}
        return Facts(ranges, origins, self.conditions, self.empty or empty)

    def proves(self, expr: AffineExpr) -> bool:
        """Whether ``expr >= 0`` is certain here (False: it is not, or can't be told)."""
        if self.empty or expr.bounds(self.ranges)[0] >= 0:
            return True
        resolved = self.resolve(expr)
        return self._derives(resolved, _DEPTH) or self._holds_everywhere(resolved)

    def inside(self, expr: AffineExpr, extent: int) -> bool:
        """Whether ``0 <= expr < extent`` is certain here."""
        if self.empty:
            return True
        low, high = expr.bounds(self.ranges)
        return (low >= 0 or self.proves(expr)) and (high < extent or self.proves(constant(extent - 1) - expr))

    def bounds(self, expr: AffineExpr) -> Range:
        """An interval that holds every value of a resolved expression, each condition taken into account by itself."""
        low, high = expr.bounds(self.ranges)
        for known in self.conditions:
            low = max(low, (expr - known).bounds(self.ranges)[0])
            high = min(high, (expr + known).bounds(self.ranges)[1])
        return low, max(low, high)

    def _derives(self, expr: AffineExpr, depth: int) -> bool:
        if expr.bounds(self.ranges)[0] >= 0:
            return True
        whole = _without_quotients(expr)
        if whole is not expr and self._derives(whole, depth):
            return True
        if depth == 0:
            return False
        coefficients = dict(expr.terms)
        for known in self.conditions:
            for atom, k in known.terms:
                mine = coefficients.get(atom, 0)
                # expr * |k| - known * |mine| >= 0 and known >= 0 together give expr >= 0.
                if mine * k > 0 and self._derives(expr * abs(k) - known * abs(mine), depth - 1):
                    return True
        return False

    def _holds_everywhere(self, expr: AffineExpr) -> bool:
        """Whether the expression is ``>= 0`` at every point that meets the conditions, by trying them all."""
        names = set(expr.variables())
        relevant: list[AffineExpr] = []
        for known in (*self.conditions, *self.conditions):
            if known not in relevant and names & known.variables():
                relevant.append(known)
                names |= known.variables()
        order = sorted(names)
        points = 1
        for name in order:
            points *= self.ranges[name][1] - self.ranges[name][0] + 1
            if points > _MAX_POINTS:
                return False
        grid: Any = np.meshgrid(*(np.arange(a, b + 1) for a, b in (self.ranges[n] for n in order)), indexing="ij")
        env = dict(zip(order, grid, strict=True))
        holds = np.asarray(expr.evaluate(env) >= 0)
        for known in relevant:
            holds = holds | np.asarray(known.evaluate(env) < 0)
        return bool(holds.all())


def _without_quotients(expr: AffineExpr) -> AffineExpr:
    """An expression without quotients whose being ``>= 0`` implies that ``expr`` is."""
    for atom, k in expr.terms:
        if isinstance(atom, FloorDiv):
            rest = (expr - AffineExpr(((atom, k),))) * atom.divisor
            if k == 1:
                return _without_quotients(rest + atom.operand)
            if k == -1:
                return _without_quotients(rest - atom.operand + (atom.divisor - 1))
            slack = (1 - atom.divisor) * k if k > 0 else 0
            return _without_quotients(rest + atom.operand * k + slack)
    return expr
