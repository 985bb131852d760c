"""The verifier: what every valid function satisfies, one rule per small function.

A rule yields faults; the first one is raised. Rules may rely on the rules before them in `RULES`. Here are those about
names, declarations, scope and types; `ir.verify_blocks` has those about what Blocks mean, and `ir.verify_memory` proves
that indices stay inside buffers and that threads don't race: what can't be proved is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

import numpy as np

from . import dtypes, elementwise, verify_blocks, verify_memory
from .affine import AffineExpr
from .loop import (
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    If,
    IndexValue,
    IterKind,
    Let,
    LoopFunc,
    LoopKind,
    Read,
    Stmt,
    Where,
    bound_ranges,
    operands,
    reads,
    subexpressions,
)
from .scanner import NAME
from .sites import Fault, Program, Site, program
from .text import excerpt

_NAME = re.compile(NAME, re.ASCII)


class VerifyError(ValueError):
    """A program that breaks a rule; the message says what and where, with the printed lines around the fault.

    Attributes:
        rule: name of the broken rule.
    """

    def __init__(self, rule: str, message: str, near: str) -> None:
        super().__init__(f"{message} (rule: {rule})\n{near}")
        self.rule = rule


def verify(func: LoopFunc) -> None:
    """Check that a function is valid.

    Args:
        func: any function, also one from a text of unknown origin.

    Raises:
        VerifyError: it breaks a rule.
    """
    checked = program(func)
    for rule in RULES:
        for place, message in rule(checked):
            raise VerifyError(rule.__name__, message, excerpt(func, place))


# ---- names


def legal_names(p: Program) -> Iterator[Fault]:
    """Names have the form that the text form can hold."""
    for place, name in _names(p):
        if not _NAME.fullmatch(name):
            yield place, f"expected a name of letters, digits, _, #, ' and inner dots, found {name!r}"


def unique_names(p: Program) -> Iterator[Fault]:
    """Buffers, loops and Blocks have names of their own; so have the iterators of one Block."""
    seen: set[tuple[str, str]] = set()
    for place, name in _names(p):
        kind = "buffer" if isinstance(place, Buffer) else type(place).__name__
        if (kind, name) in seen:
            yield place, f"expected a {kind} name that is not used yet, found {name} again"
        seen.add((kind, name))
    for site, block in p.blocks():
        names = [i.name for i in block.iters]
        if len(set(names)) != len(names):
            yield site.stmt, f"expected iterators with different names, found {', '.join(names)}"


def iterators_are_no_loops(p: Program) -> Iterator[Fault]:
    """No iterator is called like a loop."""
    loops = {s.stmt.name for s in p.sites if isinstance(s.stmt, For)}
    for site, block in p.blocks():
        for it in block.iters:
            if it.name in loops:
                yield site.stmt, f"expected an iterator name that no loop has, found {it.name}"


def _names(p: Program) -> Iterator[tuple[Stmt | Buffer, str]]:
    for buffer in p.func.params:
        yield buffer, buffer.name
    for site in p.sites:
        match site.stmt:
            case For() | Block():
                yield site.stmt, site.stmt.name
            case Alloc():
                yield site.stmt.buffer, site.stmt.buffer.name
            case _:
                pass


# ---- declarations


def parameters(p: Program) -> Iterator[Fault]:
    """There is an output; inputs are global or constant, outputs global, and only constants are packed."""
    func = p.func
    if not 1 <= func.num_outputs <= len(func.params):
        yield func.body, f"expected 1..{len(func.params)} outputs, found {func.num_outputs}"
        return
    for buffer in func.outputs:
        if buffer.scope not in ("global", "stream"):
            yield buffer, f"expected the output {buffer.name} in global memory or streamed, found {buffer.scope}"
    for buffer in func.inputs:
        if buffer.scope not in ("global", "constant"):
            yield buffer, f"expected the input {buffer.name} in global or constant memory, found {buffer.scope}"
    for buffer in func.params:
        if buffer.packing and buffer.scope != "constant":
            yield buffer, f"expected packing on constants only, found it on {buffer.name}"


def allocations(p: Program) -> Iterator[Fault]:
    """Allocated buffers live in global, cache or register memory, unpacked."""
    for site in p.sites:
        if isinstance(site.stmt, Alloc):
            buffer = site.stmt.buffer
            if buffer.scope not in ("global", "cache", "register"):
                yield buffer, f"expected {buffer.name} in global, cache or register memory, found {buffer.scope}"
            if buffer.packing:
                yield buffer, f"expected packing on constants only, found it on {buffer.name}"


def buffer_types(p: Program) -> Iterator[Fault]:
    """Element types are known, extents are not negative, and the packed shape follows from the packing."""
    for buffer in (*p.func.params, *(s.stmt.buffer for s in p.sites if isinstance(s.stmt, Alloc))):
        if not dtypes.is_known(buffer.dtype):
            yield buffer, f"expected a known element type for {buffer.name}, found {buffer.dtype}"
        if any(type(n) is not int or n < 0 for n in buffer.shape):
            yield buffer, f"expected extents of at least 0 for {buffer.name}, found {buffer.shape}"
        if not _unpacks(buffer):
            yield buffer, f"expected a packing that gives the shape {buffer.shape}, found {buffer.packing}"


def _unpacks(buffer: Buffer) -> bool:
    shape = buffer.shape
    for pack in reversed(buffer.packing):
        if pack.factor < 1 or pack.extent < 0 or not 0 <= pack.axis < len(shape) - 1:
            return False
        if shape[0] != -(-pack.extent // pack.factor) or shape[-1] != pack.factor:
            return False
        shape = (*shape[1 : pack.axis + 1], pack.extent, *shape[pack.axis + 1 : -1])
    return True


def loop_kinds(p: Program) -> Iterator[Fault]:
    """Loops have bounds and a known kind; unrolled and parallel ones have constant bounds."""
    for site in p.sites:
        loop = site.stmt
        if not isinstance(loop, For):
            continue
        if loop.kind not in get_args(LoopKind):
            yield loop, f"expected one of {', '.join(get_args(LoopKind))}, found {loop.kind}"
        if not loop.lower or not loop.upper:
            yield loop, f"expected a lower and an upper bound of {loop.name}"
        elif loop.kind != "serial" and not all(e.is_constant for e in (*loop.lower, *loop.upper)):
            yield loop, f"expected constant bounds of the {loop.kind} loop {loop.name}"


def branches(p: Program) -> Iterator[Fault]:
    """Every If has a condition."""
    for site in p.sites:
        if isinstance(site.stmt, If) and not site.stmt.conditions:
            yield site.stmt, "expected at least one condition"


def boxes(p: Program) -> Iterator[Fault]:
    """Iterators have a known kind and an extent of at least 0; at most one is vectorised."""
    for site, block in p.blocks():
        for it in block.iters:
            if it.kind not in get_args(IterKind):
                yield site.stmt, f"expected {it.name} to be data or reduce, found {it.kind}"
            if type(it.extent) is not int or it.extent < 0:
                yield site.stmt, f"expected an extent of at least 0 for {it.name}, found {it.extent}"
        lanes = [i.name for i in block.iters if i.vectorized]
        if len(lanes) > 1:
            yield site.stmt, f"expected at most one vectorised iterator, found {', '.join(lanes)}"


# ---- uses


def variables_in_scope(p: Program) -> Iterator[Fault]:
    """Index expressions use surrounding loops and, in accesses and guards, the Block's iterators and bound names."""
    for site in p.sites:
        loops = {loop.name for loop in site.loops}
        outer, inner = _variables(site.stmt)
        iters = {i.name for i in site.stmt.iters} if isinstance(site.stmt, Block) else set()
        for names, allowed in ((outer, loops), (inner, loops | iters)):
            if names - allowed:
                yield site.stmt, f"expected variables in scope here, found {', '.join(sorted(names - allowed))}"


def _variables(stmt: Stmt) -> tuple[set[str], set[str]]:
    """Variables of expressions over loops only, and of those over loops and iterators."""
    match stmt:
        case For():
            return _names_in(*stmt.lower, *stmt.upper), set()
        case If():
            return _names_in(*stmt.conditions), set()
        case Block():
            box = [e for i in stmt.iters for e in (i.lower, i.limit) if e is not None]
            return _names_in(*box), _names_in(*stmt.write.index, *stmt.guard) | _free(stmt.value)
        case _:
            return set(), set()


def _names_in(*exprs: AffineExpr) -> set[str]:
    return {n for e in exprs for n in e.variables()}


def _free(expr: Expr) -> set[str]:
    """Variables of a scalar expression that are not bound inside it."""
    match expr:
        case Read():
            return _names_in(*expr.index, *expr.guard)
        case IndexValue():
            return _names_in(expr.expr)
        case Let():
            return _free(expr.value) | (_free(expr.body) - {expr.name})
        case Where():
            return _names_in(expr.condition) | _free(expr.then) | _free(expr.orelse)
        case _:
            return set().union(*map(_free, operands(expr)))


def bound_names(p: Program) -> Iterator[Fault]:
    """What a Let binds is an integer of at least one value, called like no loop or iterator.

    Only inputs are read with it: what is computed inside is placed by affine indices.
    """
    loops = {s.stmt.name for s in p.sites if isinstance(s.stmt, For)}
    inputs = {b.name for b in p.func.inputs}
    for site, block in p.blocks():
        iters = {i.name for i in block.iters}
        for expr in subexpressions(block.value):
            if isinstance(expr, Let):
                message = _binding_fault(expr, loops | iters)
                if message:
                    yield site.stmt, message
        bound = bound_ranges(block.value).keys()
        for read in reads(block.value):
            if read.buffer not in inputs and _names_in(*read.index, *read.guard) & bound:
                yield site.stmt, f"expected data-dependent indices of inputs only, found one of {read.buffer}"


def _binding_fault(let: Let, taken: set[str]) -> str | None:
    if let.name in taken or not _NAME.fullmatch(let.name):
        return f"expected a bound name that no loop or iterator has, found {let.name}"
    if not dtypes.is_integer(let.value.dtype):
        return f"expected an integer to bind to {let.name}, found {let.value.dtype}"
    if type(let.extent) is not int or let.extent < 1:
        return f"expected an extent of at least 1 for {let.name}, found {let.extent}"
    return None


def buffers_in_scope(p: Program) -> Iterator[Fault]:
    """Every buffer that is read or written is a parameter or allocated around the Block."""
    for site, block in p.blocks():
        for name in (block.write.buffer, *(r.buffer for r in reads(block.value))):
            if name not in site.scope:
                yield site.stmt, f"expected a buffer that is alive here, found {name}"


def index_arity(p: Program) -> Iterator[Fault]:
    """Every access has one index per axis."""
    for site, block in p.blocks():
        for access in (block.write, *reads(block.value)):
            rank = len(site.scope[access.buffer].shape)
            if len(access.index) != rank:
                yield site.stmt, f"expected {rank} indices of {access.buffer}, found {len(access.index)}"


def expression_types(p: Program) -> Iterator[Fault]:
    """Element types, recomputed from the leaves, are the stated ones; a Block's value has its buffer's type."""
    for site, block in p.blocks():
        for expr in subexpressions(block.value):
            message = _type_fault(expr, site)
            if message:
                yield site.stmt, message
        stored = site.scope[block.write.buffer].dtype
        if block.value.dtype != stored:
            yield site.stmt, f"expected a value of {stored} for {block.write.buffer}, found {block.value.dtype}"


def _type_fault(expr: Expr, site: Site) -> str | None:
    match expr:
        case Const():
            return _constant_fault(expr.value, expr.dtype)
        case IndexValue():
            if not dtypes.is_float(expr.dtype) and not dtypes.is_integer(expr.dtype):
                return f"expected an integer or float type for an index value, found {expr.dtype}"
        case Read():
            held = site.scope[expr.buffer].dtype
            if expr.dtype != held:
                return f"expected {expr.buffer} to be read as {held}, found {expr.dtype}"
            return _constant_fault(expr.otherwise, expr.dtype)
        case Apply():
            try:
                elementwise.check(expr.op, [a.dtype for a in expr.args], expr.dtype, expr.params)
            except ValueError as error:
                return str(error)
        case Where() if expr.then.dtype != expr.orelse.dtype:
            return f"expected both parts of a choice of one type, found {expr.then.dtype} and {expr.orelse.dtype}"
        case _:
            pass
    return None


def _constant_fault(value: float | int | bool, dtype: str) -> str | None:
    if not dtypes.is_known(dtype):
        return f"expected a constant of a known type, found {dtype}"
    if not isinstance(value, bool | int | float | np.generic):
        return f"expected a Python number, found {type(value).__name__}"
    number = float(value) if isinstance(value, float | np.floating) else int(value)
    if dtypes.is_integer(dtype):
        info = np.iinfo(dtype)
        if not math.isfinite(number) or number != int(number) or not info.min <= number <= info.max:
            return f"expected an integer in {info.min}..{info.max} for {dtype}, found {number}"
    if dtype == dtypes.BOOL and number not in (0, 1):
        return f"expected true or false, found {number}"
    return None


RULES: tuple[Callable[[Program], Iterable[Fault]], ...] = (
    legal_names,
    unique_names,
    iterators_are_no_loops,
    parameters,
    allocations,
    buffer_types,
    loop_kinds,
    branches,
    boxes,
    variables_in_scope,
    buffers_in_scope,
    bound_names,
    index_arity,
    expression_types,
    verify_blocks.inputs_are_read_only,
    verify_blocks.reductions,
    verify_blocks.distinct_elements,
    verify_blocks.initialised,
    verify_blocks.outputs_written,
    verify_blocks.streams,
    verify_memory.self_reads,
    verify_memory.indices_inside,
    verify_memory.registers,
    verify_memory.parallel_loops,
    verify_memory.no_races,
)
