"""Addresses: from affine indices to pointers, with everything that does not change computed once.

An access is cut into a part over loop variables in registers, computed once per loop (`Scopes`), and a part that is
known while a box is unrolled, which becomes a constant offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.affine import AffineExpr, FloorDiv, linearize
from ...ir.loop import Buffer, Index
from .builder import Builder, vtype

I64 = vtype("int64")


@dataclass(slots=True)
class Scopes:
    """Values of affine expressions and pointers, per nested region of code in which they dominate."""

    builder: Builder
    registers: dict[str, str] = field(default_factory=dict)
    constants: dict[str, AffineExpr] = field(default_factory=dict)
    _values: list[dict[AffineExpr, str]] = field(default_factory=lambda: [{}])
    _pointers: list[dict[tuple[str, AffineExpr], str]] = field(default_factory=lambda: [{}])

    def push(self) -> None:
        """Enter a region."""
        self.builder.enter()
        self._values.append({})
        self._pointers.append({})

    def pop(self) -> None:
        """Leave a region; what was computed in it no longer dominates."""
        self.builder.leave()
        self._values.pop()
        self._pointers.pop()

    def resolve(self, expr: AffineExpr) -> AffineExpr:
        """The expression with unrolled loop variables replaced by their values."""
        return expr.substitute(self.constants) if self.constants else expr

    def value(self, expr: AffineExpr) -> str:
        """An i64 holding the value of a resolved expression."""
        if expr.is_constant:
            return str(expr.const)
        for known in reversed(self._values):
            if expr in known:
                return known[expr]
        out = ""
        for atom, k in expr.terms:
            term = self._atom(atom) if k == 1 else self.builder.op("mul", I64, self._atom(atom), str(k), "nsw")
            out = term if not out else self.builder.op("add", I64, out, term, "nsw")
        if expr.const:
            out = self.builder.op("add", I64, out, str(expr.const), "nsw")
        self._values[-1][expr] = out
        return out

    def _atom(self, atom: object) -> str:
        if isinstance(atom, str):
            return self.registers[atom]
        inner, divisor = self.value(atom.operand), str(atom.divisor)  # type: ignore[attr-defined]
        quotient = self._floor(inner, divisor)
        if isinstance(atom, FloorDiv):
            return quotient
        whole = self.builder.op("mul", I64, quotient, divisor)
        return self.builder.op("sub", I64, inner, whole)

    def _floor(self, value: str, divisor: str) -> str:
        """Quotient rounded towards minus infinity."""
        b = self.builder
        quotient = b.op("sdiv", I64, value, divisor)
        back = b.op("mul", I64, quotient, divisor)
        above = b.compare("lt", I64, value, back)
        return b.op("sub", I64, quotient, b.value(f"zext i1 {above} to i64"))

    def pointer(self, buffer: str, base: str, element: str, dynamic: AffineExpr, offset: int) -> str:
        """Address of an element: ``base + dynamic + offset``, in elements of LLVM type ``element``."""
        if dynamic.terms:
            base = self._moved(buffer, base, element, dynamic)
        return base if offset == 0 else self.builder.gep(element, base, offset)

    def _moved(self, buffer: str, base: str, element: str, dynamic: AffineExpr) -> str:
        key = (buffer, dynamic)
        for known in reversed(self._pointers):
            if key in known:
                return known[key]
        out = self.builder.gep(element, base, self.value(dynamic))
        self._pointers[-1][key] = out
        return out


@dataclass(frozen=True, slots=True)
class FlatAccess:
    """A row-major offset, split for unrolling a box: ``dynamic + constant + sum(steps[i] * iterator_i)``.

    Args:
        dynamic: terms over loop variables, no constant.
        constant: elements.
        steps: coefficient of each iterator that occurs, by name.
        irregular: terms in which iterators stand inside quotients or remainders; None if there are none.
    """

    dynamic: AffineExpr
    constant: int
    steps: Mapping[str, int]
    irregular: AffineExpr | None

    def at(self, point: Mapping[str, int]) -> tuple[AffineExpr, int]:
        """Loop part and constant part of the offset at a point of the box."""
        offset = self.constant
        for name, step in self.steps.items():
            offset += step * point[name]
        if self.irregular is None:
            return self.dynamic, offset
        rest = self.irregular.substitute({n: AffineExpr((), v) for n, v in point.items()})
        return self.dynamic + AffineExpr(rest.terms), offset + rest.const


def flatten(buffer: Buffer, index: Index, scopes: Scopes, iters: frozenset[str]) -> FlatAccess:
    """Split the row-major offset of an access; see `FlatAccess`."""
    return split_offset(scopes.resolve(linearize(index, buffer.shape)), iters)


def split_offset(expr: AffineExpr, iters: frozenset[str]) -> FlatAccess:
    """Split a resolved expression over loop variables and iterators; see `FlatAccess`."""
    dynamic, irregular = [], []
    steps: dict[str, int] = {}
    for atom, k in expr.terms:
        if isinstance(atom, str):
            if atom in iters:
                steps[atom] = k
            else:
                dynamic.append((atom, k))
        elif atom.operand.variables() & iters:
            irregular.append((atom, k))
        else:
            dynamic.append((atom, k))
    return FlatAccess(
        AffineExpr(tuple(dynamic)), expr.const, steps, AffineExpr(tuple(irregular)) if irregular else None
    )
