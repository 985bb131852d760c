"""Legalisation: from a scheduled program to the form that code is generated from.

Deterministic and never recorded in a trace. In order: boxes start at 0 and lose iterators of one value; what interval
analysis decides disappears; guards move out of the loops they do not depend on; boxes too large to unroll become
loops; loops are peeled so that cut tiles are cut by constants only.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..ir.affine import AffineExpr, Range, constant, var
from ..ir.loop import (
    Access,
    Alloc,
    Apply,
    Block,
    Const,
    Expr,
    For,
    If,
    Iter,
    LoopFunc,
    Read,
    Seq,
    Stmt,
    bound_ranges,
    map_block_indices,
    map_expr,
    map_indices,
    operands,
    reads,
    rewrite,
    seq,
    substitute,
)
from ..ir.monoid import MONOIDS
from .choose import choose
from .decide import decided
from .peel import peel

MAX_STATEMENTS = 512
"""Most statements a box is unrolled into; where there are more than `LOOPED_STATEMENTS`, each counts as its work."""
POLYNOMIALS = frozenset(
    "exp exp2 expm1 log log1p logistic tanh sinh cosh erf erfc erf_inv sin cos tan asin acos atan atan2 asinh acosh "
    "atanh cbrt decay pow rem threefry lgamma digamma".split()
)
"""Functions that code generation computes by many instructions in line, mostly by polynomials."""
POLYNOMIAL_WORK = 16
LOOPED_STATEMENTS = 32
"""A box that is too large keeps at most this many statements; the rest becomes loops."""
VECTORS_PER_STEP = 4


def legalize(func: LoopFunc, lanes: int) -> LoopFunc:
    """Bring a scheduled program into the form that code is generated from.

    Args:
        func: a verified program.
        lanes: values per vector.

    Returns:
        An equivalent program: boxes start at 0 and are small, limits are gone except on loops, guards are hoisted.
    """
    body: Stmt | None = rewrite(func.body, lambda s: _normalize(s) if isinstance(s, Block) else s)
    body = _simplify(body, {})
    body = None if body is None else peel(body, {})
    body = _simplify(body, {})
    body = rewrite(body, lambda s: _limits_as_guards(s) if isinstance(s, Block) else s) if body is not None else None
    body = _simplify(choose(body, lanes), {}) if body is not None else None
    body = rewrite(body, lambda s: _skip_guard(s) if isinstance(s, Block) else s) if body else None
    body = _simplify(_hoist(body), {}) if body is not None else None
    body = _loops_from_boxes(body, lanes) if body is not None else None
    body = _simplify(body, {})
    return replace(func, body=seq(body))


# ---- boxes from 0, without iterators of one value


def _normalize(block: Block) -> Stmt | None:
    if any(i.extent == 0 for i in block.iters):
        return None
    env: dict[str, AffineExpr] = {}
    iters: list[Iter] = []
    for it in block.iters:
        lower = it.lower.substitute(env)
        if it.extent == 1 and it.limit is None:
            env[it.name] = lower
            continue
        env[it.name] = lower + var(it.name)
        limit = None if it.limit is None else it.limit.substitute(env) - lower
        iters.append(replace(it, lower=constant(0), limit=limit))
    moved = map_block_indices(replace(block, iters=()), lambda e: e.substitute(env))
    return replace(moved, iters=tuple(iters))


# ---- what intervals decide


def _simplify(stmt: Stmt | None, ranges: dict[str, Range]) -> Stmt | None:
    match stmt:
        case None:
            return None
        case Block():
            return _simplify_block(stmt, ranges)
        case For():
            return _simplify_for(stmt, ranges)
        case Alloc():
            body = _simplify(stmt.body, ranges)
            return None if body is None else replace(stmt, body=body)
        case Seq():
            return _sequence([_simplify(s, ranges) for s in stmt.body])
        case If():
            return _simplify_if(stmt, ranges)


def _sequence(items: list[Stmt | None]) -> Stmt | None:
    kept = [s for s in items if s is not None]
    return seq(*kept) if kept else None


def _simplify_for(loop: For, ranges: dict[str, Range]) -> Stmt | None:
    lower = tuple(e.simplify(ranges) for e in loop.lower)
    upper = _tightest(tuple(e.simplify(ranges) for e in loop.upper), ranges)
    loop = replace(loop, lower=lower, upper=upper)
    lo = max(e.bounds(ranges)[0] for e in lower)
    hi = min(e.bounds(ranges)[1] for e in upper)
    if hi <= lo:
        return None
    if loop.kind != "parallel" and all(e.is_constant for e in (*lower, *upper)) and hi - lo == 1:
        return _simplify(substitute(loop.body, {loop.name: constant(lo)}), ranges)
    body = _simplify(loop.body, {**ranges, loop.name: (lo, hi - 1)})
    return None if body is None else replace(loop, body=body)


def _tightest(bounds: tuple[AffineExpr, ...], ranges: dict[str, Range]) -> tuple[AffineExpr, ...]:
    """Upper bounds without those that another one always undercuts."""
    kept: list[AffineExpr] = []
    for i, bound in enumerate(bounds):
        others = [*kept, *bounds[i + 1 :]]
        if not any((bound - other).bounds(ranges)[0] >= 0 for other in others):
            kept.append(bound)
    return tuple(kept) or bounds[:1]


def _simplify_if(stmt: If, ranges: dict[str, Range]) -> Stmt | None:
    open_conditions: list[AffineExpr] = []
    for condition in stmt.conditions:
        condition = condition.simplify(ranges)
        lo, hi = condition.bounds(ranges)
        if hi < 0:
            return _simplify(stmt.orelse, ranges)
        if lo < 0:
            open_conditions.append(condition)
    then = _simplify(stmt.then, _refined(ranges, open_conditions))
    if not open_conditions:
        return then
    negated = [-open_conditions[0] - 1] if len(open_conditions) == 1 else []
    orelse = _simplify(stmt.orelse, _refined(ranges, negated))
    if then is None and orelse is None:
        return None
    return If(tuple(open_conditions), seq(then), orelse)


def _refined(ranges: dict[str, Range], conditions: list[AffineExpr]) -> dict[str, Range]:
    """The ranges where conditions over a single variable with coefficient 1 or -1 hold."""
    out = dict(ranges)
    for condition in conditions:
        if len(condition.terms) != 1:
            continue
        name, k = condition.terms[0]
        if not isinstance(name, str) or abs(k) != 1:
            continue
        lo, hi = out[name]
        lo, hi = (max(lo, -condition.const), hi) if k > 0 else (lo, min(hi, condition.const))
        out[name] = (lo, max(lo, hi))
    return out


def _simplify_block(block: Block, ranges: dict[str, Range]) -> Stmt | None:
    inner = dict(ranges)
    iters: list[Iter] = []
    for it in block.iters:
        it, empty = _cut(it, inner)
        if empty:
            return None
        inner[it.name] = (0, it.extent - 1)
        iters.append(it)
    inner.update(bound_ranges(block.value))
    write = Access(block.write.buffer, tuple(e.simplify(inner) for e in block.write.index))
    value = map_expr(map_indices(block.value, lambda e: e.simplify(inner)), lambda e: decided(e, inner))
    conditions = [e.simplify(inner) for e in block.guard]
    bounds = [e.bounds(inner) for e in conditions]
    guard = tuple(e for e, (low, _) in zip(conditions, bounds, strict=True) if low < 0)
    block = replace(block, iters=tuple(iters), write=write, value=value, guard=guard)
    if any(high < 0 for _, high in bounds):
        return _guard_fails(block)
    if any(i.extent == 1 and i.limit is None for i in block.iters):
        return _normalize(block)
    return block


def _cut(it: Iter, ranges: dict[str, Range]) -> tuple[Iter, bool]:
    """The iterator with a decided limit applied, and whether its range is empty."""
    if it.limit is None:
        return it, False
    limit = it.limit.simplify(ranges)
    lo, hi = limit.bounds(ranges)
    if hi <= 0:
        return it, True
    if lo >= it.extent:
        return replace(it, limit=None), False
    if limit.is_constant:
        return replace(it, extent=limit.const, limit=None), False
    return replace(it, limit=limit), False


def _guard_fails(block: Block) -> Stmt | None:
    if block.guard_mode == "skip":
        return None
    return replace(block, guard=(), value=Const(0, _dtype(block.value)))


def _dtype(expr: Expr) -> str:
    return expr.dtype


# ---- guards


def _limits_as_guards(block: Block) -> Block:
    """An iterator of one value that a limit may leave without any becomes a guard, which can move out of loops."""
    cut = [i for i in block.iters if i.extent == 1 and i.limit is not None and not i.vectorized]
    if not cut or (block.guard and block.guard_mode != "skip"):
        return block
    guards = tuple(i.limit - 1 for i in cut if i.limit is not None)
    rest = replace(block, iters=tuple(i for i in block.iters if i not in cut))
    moved = map_block_indices(rest, lambda e: e.substitute({i.name: constant(0) for i in cut}))
    return replace(moved, guard=(*moved.guard, *guards), guard_mode="skip")


def _skip_guard(block: Block) -> Block:
    """Padding that contributes nothing to a reduction becomes a guard of the Block, which can move out of loops.

    Conditions that differ between the lanes of vectors can't move; they stay with the read, as a mask.
    """
    if block.monoid is None or block.guard_mode != "skip":
        return block
    wide = {i.name for i in block.iters if i.vectorized and i.kind == "data"}
    identity = MONOIDS[block.monoid].identity(block.value.dtype)
    for read in reads(block.value):
        lanewise = tuple(g for g in read.guard if g.variables() & wide)
        shared = tuple(g for g in read.guard if g not in lanewise)
        if not shared:
            continue
        neutral = read is block.value and read.otherwise == identity
        vanishes = block.monoid == "sum" and read.otherwise == 0 and _is_factor(block.value, read)
        if neutral or vanishes:
            bare = replace(read, guard=lanewise)
            value = map_expr(block.value, lambda e, old=read, new=bare: new if e is old else e)
            return _skip_guard(replace(block, value=value, guard=(*block.guard, *shared)))
    return block


def _is_factor(expr: Expr, read: Read) -> bool:
    """Whether ``expr`` is zero wherever ``read`` is (infinities aside, which padding must not turn into NaN)."""
    if expr is read:
        return True
    return (
        isinstance(expr, Apply)
        and expr.op in ("mul", "convert_element_type")
        and any(_is_factor(a, read) for a in expr.args)
    )


def _hoist(stmt: Stmt) -> Stmt:
    """Move Block guards out to an If around the largest statement that they do not vary in."""
    out = rewrite(stmt, _hoist_step)
    assert out is not None
    return out


def _hoist_step(stmt: Stmt) -> Stmt:
    match stmt:
        case Block() if stmt.guard:
            own = {i.name for i in stmt.iters}
            fixed = tuple(g for g in stmt.guard if not g.variables() & own)
            if not fixed:
                return stmt
            bare = replace(stmt, guard=tuple(g for g in stmt.guard if g not in fixed))
            return If(fixed, bare, _guard_fails(replace(bare, guard=())))
        case For(body=If() as inner) if stmt.kind != "parallel":
            fixed = tuple(c for c in inner.conditions if stmt.name not in c.variables())
            if not fixed or inner.orelse is not None:
                return stmt
            rest = tuple(c for c in inner.conditions if c not in fixed)
            body = If(rest, inner.then) if rest else inner.then
            return If(fixed, replace(stmt, body=body))
        case _:
            return stmt


# ---- large boxes


def _loops_from_boxes(stmt: Stmt, lanes: int) -> Stmt:
    out = rewrite(stmt, lambda s: _loops_from_box(s, lanes) if isinstance(s, Block) else s)
    assert out is not None
    return out


def statements(iters: tuple[Iter, ...], lanes: int) -> int:
    """How many statements a box unrolls into."""
    return math.prod(-(-i.extent // lanes) if i.vectorized else i.extent for i in iters)


def _work(value: Expr) -> int:
    """Instructions of a statement, roughly: a function that is a polynomial counts as its terms."""
    inner = sum(_work(e) for e in operands(value))
    if isinstance(value, Apply) and value.op in POLYNOMIALS:
        return inner + POLYNOMIAL_WORK
    return inner + 1 if operands(value) else 0


def _unrolls(block: Block, lanes: int) -> bool:
    count = statements(block.iters, lanes)
    if any(i.limit is not None for i in block.iters):
        return False
    return count <= LOOPED_STATEMENTS or count * max(_work(block.value), 1) <= MAX_STATEMENTS


def _loops_from_box(block: Block, lanes: int) -> Stmt:
    if _unrolls(block, lanes):
        return block
    wide = next((i for i in block.iters if i.vectorized), None)
    if wide is not None and wide.limit is not None:
        block = replace(block, iters=tuple(replace(i, vectorized=False) for i in block.iters))
        return _loops_from_box(block, lanes)
    step = lanes * VECTORS_PER_STEP
    if wide is not None and wide.extent > step:
        return _split_vector(block, wide, step, lanes)
    loops: list[Iter] = []
    iters = list(block.iters)
    for it in block.iters:
        if it.vectorized:
            continue
        if it.limit is not None or statements(tuple(iters), lanes) > LOOPED_STATEMENTS:
            loops.append(it)
            iters.remove(it)
    body: Stmt = replace(block, iters=tuple(iters))
    for it in reversed(loops):
        name = f"{block.name}.{it.name}.box"
        upper = (constant(it.extent),) if it.limit is None else (constant(it.extent), it.limit)
        body = For(name, (constant(0),), upper, substitute(_rename_iter(body, it.name, name), {}))
    return body


def _rename_iter(stmt: Stmt, old: str, new: str) -> Stmt:
    env = {old: var(new)}
    if isinstance(stmt, Block):
        return map_block_indices(stmt, lambda e: e.substitute(env))
    return substitute(stmt, env)


def _split_vector(block: Block, wide: Iter, step: int, lanes: int) -> Stmt:
    """A long vectorised range becomes a loop over a few vectors, and a remainder."""
    trips, rest = divmod(wide.extent, step)
    name = f"{block.name}.{wide.name}.vec"

    def piece(start: AffineExpr, extent: int, suffix: str) -> Stmt:
        iters = tuple(replace(i, extent=extent) if i is wide else i for i in block.iters)
        moved = map_block_indices(replace(block, iters=()), lambda e: e.substitute({wide.name: start + var(wide.name)}))
        return _loops_from_box(replace(moved, iters=iters, name=block.name + suffix), lanes)

    main = For(name, (constant(0),), (constant(trips),), piece(var(name) * step, step, ""))
    return seq(main, piece(constant(trips * step), rest, "#rest")) if rest else main
