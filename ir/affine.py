"""Quasi-affine integer expressions: the one canonical form of every index, bound and guard.

An `AffineExpr` is ``sum(coefficient * atom) + constant`` where an atom is a variable name, or the floor-quotient or
remainder of another expression by a positive integer. Terms are sorted, so ``==`` is semantic for affine expressions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Range = tuple[int, int]
"""Smallest and largest value, both inclusive."""


@dataclass(frozen=True, slots=True)
class FloorDiv:
    """``operand // divisor``, rounded towards minus infinity."""

    operand: AffineExpr
    divisor: int

    def __str__(self) -> str:
        return _atom_text(self, {})


@dataclass(frozen=True, slots=True)
class Mod:
    """``operand % divisor``, always in ``[0, divisor)``."""

    operand: AffineExpr
    divisor: int

    def __str__(self) -> str:
        return _atom_text(self, {})


Atom = str | FloorDiv | Mod
Term = tuple[Atom, int]


class AffineExpr:
    """An immutable quasi-affine expression over integer variables.

    Args:
        terms: ``(atom, coefficient)`` pairs; repeated atoms are added up, zero coefficients dropped.
        const: the constant part.
    """

    __slots__ = ("_hash", "const", "terms")

    terms: tuple[Term, ...]
    const: int

    def __init__(self, terms: tuple[Term, ...] = (), const: int = 0) -> None:
        self.terms = _normal(terms) if terms else ()
        self.const = const
        self._hash = hash((self.terms, const))

    @property
    def is_constant(self) -> bool:
        """Whether no variable occurs."""
        return not self.terms

    def coefficient(self, name: str) -> int:
        """Coefficient of the variable ``name`` at top level (inside a quotient it does not count)."""
        for atom, k in self.terms:
            if atom == name:
                return k
        return 0

    def variables(self) -> frozenset[str]:
        """Names of all variables, those inside quotients and remainders included."""
        names: set[str] = set()
        for atom, _ in self.terms:
            if isinstance(atom, str):
                names.add(atom)
            else:
                names |= atom.operand.variables()
        return frozenset(names)

    def single_variable(self) -> str | None:
        """The variable's name if the expression is exactly one variable, else None."""
        if self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1 and isinstance(self.terms[0][0], str):
            return self.terms[0][0]
        return None

    def substitute(self, env: Mapping[str, AffineExpr]) -> AffineExpr:
        """The expression with every variable in ``env`` replaced."""
        if not self.terms:
            return self
        out: dict[Atom, int] = {}
        const = self.const
        for atom, k in self.terms:
            if isinstance(atom, str):
                new = env.get(atom)
                if new is None:
                    out[atom] = out.get(atom, 0) + k
                    continue
            else:
                inner = atom.operand.substitute(env)
                new = inner.floordiv(atom.divisor) if isinstance(atom, FloorDiv) else inner.mod(atom.divisor)
            for sub, j in new.terms:
                out[sub] = out.get(sub, 0) + k * j
            const += k * new.const
        return AffineExpr(tuple(out.items()), const)

    def rename(self, names: Mapping[str, str]) -> AffineExpr:
        """The expression with variables renamed."""
        return self.substitute({old: var(new) for old, new in names.items()})

    def floordiv(self, divisor: int) -> AffineExpr:
        """``self // divisor`` with every term that ``divisor`` divides taken out."""
        if divisor <= 0:
            raise ValueError(f"expected a positive divisor, found {divisor}")
        if divisor == 1:
            return self
        outer = tuple((a, k // divisor) for a, k in self.terms if k % divisor == 0)
        inner = AffineExpr(tuple((a, k) for a, k in self.terms if k % divisor), self.const % divisor)
        out = AffineExpr(outer, self.const // divisor)
        return out if inner.is_constant else out + AffineExpr(((FloorDiv(inner, divisor), 1),))

    def mod(self, divisor: int) -> AffineExpr:
        """``self % divisor`` with every term that ``divisor`` divides dropped."""
        if divisor <= 0:
            raise ValueError(f"expected a positive divisor, found {divisor}")
        inner = AffineExpr(tuple((a, k) for a, k in self.terms if k % divisor), self.const % divisor)
        return inner if inner.is_constant else AffineExpr(((Mod(inner, divisor), 1),))

    def bounds(self, ranges: Mapping[str, Range]) -> Range:
        """Interval of the expression's values.

        Args:
            ranges: inclusive range of every variable that occurs.

        Raises:
            KeyError: a variable has no range.
        """
        lo = hi = self.const
        for atom, k in self.terms:
            a, b = ranges[atom] if isinstance(atom, str) else _atom_bounds(atom, ranges)
            lo += k * a if k > 0 else k * b
            hi += k * b if k > 0 else k * a
        return lo, hi

    def simplify(self, ranges: Mapping[str, Range]) -> AffineExpr:
        """The expression with quotients and remainders removed where the ranges prove what they are."""
        if all(isinstance(a, str) for a, _ in self.terms):
            return self
        out = constant(self.const)
        for atom, k in self.terms:
            out = out + (var(atom) if isinstance(atom, str) else _simplify_atom(atom, ranges)) * k
        return out

    def evaluate(self, env: Mapping[str, int]) -> int:
        """The value with every variable given."""
        total = self.const
        for atom, k in self.terms:
            if isinstance(atom, str):
                total += k * env[atom]
            elif isinstance(atom, FloorDiv):
                total += k * (atom.operand.evaluate(env) // atom.divisor)
            else:
                total += k * (atom.operand.evaluate(env) % atom.divisor)
        return total

    def __add__(self, other: AffineExpr | int) -> AffineExpr:
        if isinstance(other, int):
            return self if other == 0 else AffineExpr(self.terms, self.const + other)
        if not other.terms:
            return self + other.const
        return AffineExpr(self.terms + other.terms, self.const + other.const)

    __radd__ = __add__

    def __mul__(self, factor: int) -> AffineExpr:
        if factor == 1:
            return self
        return AffineExpr(tuple((a, k * factor) for a, k in self.terms), self.const * factor)

    __rmul__ = __mul__

    def __neg__(self) -> AffineExpr:
        return self * -1

    def __sub__(self, other: AffineExpr | int) -> AffineExpr:
        return self + (-other)

    def __rsub__(self, other: int) -> AffineExpr:
        return -self + other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AffineExpr) and self.const == other.const and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def text(self, names: Mapping[str, str]) -> str:
        """The expression as text, with the variables in ``names`` renamed and the terms sorted by their new names."""
        terms = [(names.get(a, a) if isinstance(a, str) else _atom_text(a, names), k) for a, k in self.terms]
        if len(terms) > 1 and names:
            terms.sort()
        parts: list[str] = []
        for atom, k in terms:
            sign = "-" if k < 0 else "+"
            text = atom if k in (1, -1) else f"{abs(k)}*{atom}"
            parts.append(f"{sign} {text}" if parts else (f"-{text}" if k < 0 else text))
        if self.const or not parts:
            sign = "-" if self.const < 0 else "+"
            parts.append(f"{sign} {abs(self.const)}" if parts else str(self.const))
        return " ".join(parts)

    def __str__(self) -> str:
        return self.text({})

    def __repr__(self) -> str:
        return f"AffineExpr({self})"


def var(name: str) -> AffineExpr:
    """The expression of one variable."""
    return AffineExpr(((name, 1),))


def constant(value: int) -> AffineExpr:
    """The expression of one integer."""
    return AffineExpr((), value)


def as_expr(value: AffineExpr | int | str) -> AffineExpr:
    """An integer, a variable's name or an expression, as an expression."""
    if isinstance(value, AffineExpr):
        return value
    return var(value) if isinstance(value, str) else constant(value)


def linearize(index: tuple[AffineExpr, ...], shape: tuple[int, ...]) -> AffineExpr:
    """Row-major offset of ``index`` in an array of ``shape``, in elements."""
    if len(index) != len(shape):
        raise ValueError(f"expected {len(shape)} indices for shape {shape}, found {len(index)}")
    total, stride = constant(0), 1
    for expr, extent in zip(reversed(index), reversed(shape), strict=True):
        total = total + expr * stride
        stride *= extent
    return _joined(total)


def delinearize(offset: AffineExpr, shape: tuple[int, ...]) -> tuple[AffineExpr, ...]:
    """Indices into ``shape`` of the element at row-major ``offset`` (the inverse of `linearize`)."""
    out: list[AffineExpr] = []
    for axis in range(len(shape) - 1, -1, -1):
        extent = max(shape[axis], 1)  # an empty array has no elements to place, but still needs expressions
        out.append(offset.mod(extent) if axis else offset)
        offset = offset.floordiv(extent)
    return tuple(reversed(out))


def _joined(expr: AffineExpr) -> AffineExpr:
    """The expression with ``d * (x // d) + x % d`` as ``x``."""
    coefficients = dict(expr.terms)
    for atom, k in expr.terms:
        if isinstance(atom, Mod) and coefficients.get(FloorDiv(atom.operand, atom.divisor)) == k * atom.divisor:
            whole = FloorDiv(atom.operand, atom.divisor)
            kept = tuple(t for t in expr.terms if t[0] not in (atom, whole))
            return _joined(AffineExpr((*kept, *(atom.operand * k).terms), expr.const + atom.operand.const * k))
    return expr


def split_by(expr: AffineExpr, keep: Callable[[str], bool]) -> tuple[AffineExpr, AffineExpr]:
    """Cut an expression into the terms whose variables all satisfy ``keep``, and the rest with the constant."""
    kept = tuple(t for t in expr.terms if all(keep(n) for n in _names(t[0])))
    rest = tuple(t for t in expr.terms if t not in kept)
    return AffineExpr(kept), AffineExpr(rest, expr.const)


def _atom_text(atom: FloorDiv | Mod, names: Mapping[str, str]) -> str:
    inner = atom.operand.text(names)
    if atom.operand.single_variable() is None:
        inner = f"({inner})"
    return f"({inner} {'//' if isinstance(atom, FloorDiv) else '%'} {atom.divisor})"


def _names(atom: Atom) -> Iterator[str]:
    if isinstance(atom, str):
        yield atom
    else:
        yield from atom.operand.variables()


def _normal(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    if len(terms) == 1:
        return terms if terms[0][1] else ()
    merged: dict[Atom, int] = {}
    for atom, k in terms:
        merged[atom] = merged.get(atom, 0) + k
    return tuple(sorted(((a, k) for a, k in merged.items() if k), key=_term_key))


def _term_key(term: Term) -> str:
    return str(term[0])


def _atom_bounds(atom: FloorDiv | Mod, ranges: Mapping[str, Range]) -> Range:
    lo, hi = atom.operand.bounds(ranges)
    if isinstance(atom, FloorDiv):
        return lo // atom.divisor, hi // atom.divisor
    if lo // atom.divisor == hi // atom.divisor:
        return lo % atom.divisor, hi % atom.divisor
    return 0, atom.divisor - 1


def _simplify_atom(atom: FloorDiv | Mod, ranges: Mapping[str, Range]) -> AffineExpr:
    inner = atom.operand.simplify(ranges)
    try:
        lo, hi = inner.bounds(ranges)
    except KeyError:
        return inner.floordiv(atom.divisor) if isinstance(atom, FloorDiv) else inner.mod(atom.divisor)
    low, high = lo // atom.divisor, hi // atom.divisor
    if low == high:
        return constant(low) if isinstance(atom, FloorDiv) else inner - low * atom.divisor
    step = _common_step(inner, atom.divisor, ranges)
    if step > 1:
        return _simplify_steps(atom, inner, step, ranges)
    return inner.floordiv(atom.divisor) if isinstance(atom, FloorDiv) else inner.mod(atom.divisor)


def _common_step(expr: AffineExpr, divisor: int, ranges: Mapping[str, Range]) -> int:
    """A factor ``g`` of ``divisor`` such that the terms that ``g`` does not divide stay within ``[0, g)``; else 1."""
    for step in sorted({math.gcd(k, divisor) for _, k in expr.terms}, reverse=True):
        rest = AffineExpr(tuple(t for t in expr.terms if t[1] % step), expr.const % step)
        lo, hi = rest.bounds(ranges)
        if lo >= 0 and hi < step:
            return step
    return 1


def _simplify_steps(atom: FloorDiv | Mod, inner: AffineExpr, step: int, ranges: Mapping[str, Range]) -> AffineExpr:
    """``(g*a + r) // (g*b)`` is ``a // b`` where ``0 <= r < g``, and the remainder is ``g*(a % b) + r``."""
    rest = AffineExpr(tuple(t for t in inner.terms if t[1] % step), inner.const % step)
    whole = AffineExpr(tuple((a, k // step) for a, k in inner.terms if k % step == 0), inner.const // step)
    if isinstance(atom, FloorDiv):
        return whole.floordiv(atom.divisor // step).simplify(ranges)
    return whole.mod(atom.divisor // step).simplify(ranges) * step + rest
