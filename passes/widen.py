"""Arithmetic on 16-bit floats becomes arithmetic on float32: processors store them, but hardly compute in them.

Results are rounded where they are stored or where the program itself converts them, not after every operation, and
reductions accumulate in float32. That is at least as accurate as rounding each time, and saves most conversions. What
integers and booleans are computed from is rounded after every operation, as XLA does: they have to be equal to XLA's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ..ir import dtypes
from ..ir.lanes import element_types
from ..ir.loop import (
    Alloc,
    Apply,
    Block,
    Const,
    Expr,
    Let,
    LoopFunc,
    Read,
    Stmt,
    Where,
    blocks,
    reads,
    rewrite,
    subexpressions,
    walk,
)

NARROW = frozenset(("float16", "bfloat16"))
_WIDE = "float32"
_CONVERT = "convert_element_type"
_MOVES = frozenset(("copy", "select_n", "neg", "abs"))
"""Functions that round nothing, so that 16 bits do."""
_STORED = frozenset((_CONVERT, "bitcast_convert_type", "nextafter"))
"""Functions whose result depends on how many bits it has."""


def widen(func: LoopFunc) -> LoopFunc:
    """Compute in float32 what is stated in float16 and bfloat16.

    Before: ``y[i] = add(mul(a[i], b[i]), c[i])`` in bfloat16. After: ``y[i] = convert(add(mul(convert(a[i]),
    convert(b[i])), convert(c[i])))``, add and mul in float32.

    Args:
        func: an unscheduled program.

    Returns:
        The program with the same parameters. Temporaries that are computed are float32, except those that integers or
        booleans depend on; sums and the like always are.
    """
    if not NARROW & element_types(func):
        return func
    exact = _exact_buffers(func)
    pass_ = _Widening(exact, _wide_buffers(func, exact))
    body = rewrite(func.body, pass_.stmt)
    assert body is not None
    return replace(func, body=body)


def _exact_buffers(func: LoopFunc) -> frozenset[str]:
    """Buffers that integers or booleans depend on."""
    exact: set[str] = set()
    for block in reversed(list(blocks(func.body))):  # readers before writers
        if block.write.buffer in exact or not dtypes.is_float(block.value.dtype):
            exact |= {r.buffer for r in reads(block.value)}
        else:
            exact |= {r.buffer for e in _applied(block.value) if not dtypes.is_float(e.dtype) for r in reads(e)}
    return frozenset(exact)


def _wide_buffers(func: LoopFunc, exact: frozenset[str]) -> frozenset[str]:
    """Narrow temporaries that become float32."""
    allocated = {s.buffer.name for s in walk(func.body) if isinstance(s, Alloc) and s.buffer.dtype in NARROW}
    computed = {
        b.write.buffer
        for b in blocks(func.body)
        if b.monoid is not None or (b.write.buffer not in exact and _rounds(b.value))
    }
    return frozenset(allocated & computed)


def _applied(expr: Expr) -> Iterator[Apply]:
    return (e for e in subexpressions(expr) if isinstance(e, Apply))


def _inside(expr: Where | Let, change: Callable[[Expr], Expr], index: Callable[[Expr], Expr]) -> Expr:
    """A choice or a data-dependent index with its values changed; ``index`` changes what an index is computed from."""
    if isinstance(expr, Where):
        return replace(expr, then=change(expr.then), orelse=change(expr.orelse))
    return replace(expr, value=index(expr.value), body=change(expr.body))


def _rounds(expr: Expr) -> bool:
    """Whether a narrow value is computed rather than moved."""
    return any(e.dtype in NARROW and e.op not in _MOVES for e in _applied(expr))


def _computes(expr: Apply) -> bool:
    """Whether a function computes a narrow value, in a way that float32 is right for."""
    return expr.dtype in NARROW and expr.op not in _MOVES | _STORED


def _converted(expr: Expr, dtype: str) -> Expr:
    return expr if expr.dtype == dtype else Apply(_CONVERT, (expr,), dtype)


@dataclass(slots=True)
class _Widening:
    """Rewrites Blocks.

    Args:
        exact: buffers whose contents are rounded after every operation.
        wide: narrow buffers that become float32.
        memo: expressions that were rewritten, as widened or in their own type.
    """

    exact: frozenset[str]
    wide: frozenset[str]
    memo: dict[tuple[bool, int], Expr] = field(default_factory=dict)

    def stmt(self, stmt: Stmt) -> Stmt:
        """A statement with its Block or buffer widened."""
        if isinstance(stmt, Alloc) and stmt.buffer.name in self.wide:
            return replace(stmt, buffer=replace(stmt.buffer, dtype=_WIDE))
        return replace(stmt, value=self._stored(stmt)) if isinstance(stmt, Block) else stmt

    def _stored(self, block: Block) -> Expr:
        value, name = block.value, block.write.buffer
        if name in self.exact or not dtypes.is_float(value.dtype):
            value = self._stepwise(value)
            return _converted(value, _WIDE) if name in self.wide else value
        return self._widened(value) if name in self.wide else self._own(value)

    def _stepwise(self, expr: Expr) -> Expr:
        """Rounded after every operation, but not where the program converts the result to a wider type at once."""
        if isinstance(expr, Read):
            return _converted(self._read(expr), expr.dtype)
        if isinstance(expr, Where | Let):
            return _inside(expr, self._stepwise, self._stepwise)
        if not isinstance(expr, Apply):
            return expr
        inner = expr.args[0]
        if expr.op == _CONVERT and dtypes.is_float(expr.dtype) and isinstance(inner, Apply) and _computes(inner):
            args = (self._stepwise(a) for a in inner.args)
            wide = tuple(_converted(a, _WIDE) if a.dtype in NARROW else a for a in args)
            return _converted(replace(inner, args=wide, dtype=_WIDE), expr.dtype)
        return replace(expr, args=tuple(map(self._stepwise, expr.args)))

    def _read(self, read: Read) -> Read:
        return replace(read, dtype=_WIDE) if read.buffer in self.wide else read

    def _own(self, expr: Expr) -> Expr:
        """An expression in its own type."""
        key = (False, id(expr))
        if key not in self.memo:
            self.memo[key] = self._make_own(expr)
        return self.memo[key]

    def _make_own(self, expr: Expr) -> Expr:
        if isinstance(expr, Read):
            return _converted(self._read(expr), expr.dtype)
        if isinstance(expr, Where | Let):
            return _inside(expr, self._own, self._own)
        if not isinstance(expr, Apply):
            return expr
        if not dtypes.is_float(expr.dtype):
            return self._stepwise(expr)
        if expr.op == _CONVERT and expr.args[0].dtype in NARROW:
            return _converted(self._widened(expr.args[0]), expr.dtype)
        if expr.dtype in NARROW and expr.op not in _STORED and _rounds(expr):
            return _converted(self._widened(expr), expr.dtype)
        return replace(expr, args=tuple(map(self._own, expr.args)))

    def _widened(self, expr: Expr) -> Expr:
        """A narrow expression in float32, its last result not rounded."""
        key = (True, id(expr))
        if key not in self.memo:
            self.memo[key] = self._make_widened(expr)
        return self.memo[key]

    def _make_widened(self, expr: Expr) -> Expr:
        if isinstance(expr, Read):
            return _converted(self._read(expr), _WIDE)
        if isinstance(expr, Const):
            return Const(float(dtypes.to_numpy(expr.dtype).type(expr.value)), _WIDE)
        if isinstance(expr, Where | Let):
            return _inside(expr, self._widened, self._own)
        if not isinstance(expr, Apply) or expr.op in _STORED:
            return _converted(self._own(expr), _WIDE)
        args = (self._widened(a) if a.dtype in NARROW else self._own(a) for a in expr.args)
        return replace(expr, args=tuple(args), dtype=_WIDE)
