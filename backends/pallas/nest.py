"""Which kernels a program becomes: nests of grid loops, and what runs when a cell of the grid does.

The statements at the top of a program are cut into kernels: each nest of grid loops is one, and so is each run of
statements without a grid in between. Inside a nest, a statement beside an inner grid loop runs in the first or last
cells of that loop only; what stands innermost runs in every cell. So a reduction over tiles of the grid is an
initialisation (first), an update (every) and an epilogue (last).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...ir.loop import Alloc, Buffer, For, LoopFunc, Seq, Stmt, blocks, reads, seq, walk
from .errors import PallasError

When = Literal["first", "every", "last"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A statement of a kernel and the cells in which it runs.

    Args:
        stmt: the statement, without grid loops.
        depth: how many grid loops are around it.
        when: in which cells of the grid loops that are not around it.
    """

    stmt: Stmt
    depth: int
    when: When


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a program.

    Args:
        root: the whole statement, grid loops included.
        grid: the grid loops, outermost first.
        phases: what runs in a cell, in order.
        kept: buffers that live from cell to cell.
        inputs: buffers from outside that are only read.
        outputs: buffers from outside that are written.
    """

    root: Stmt
    grid: tuple[For, ...]
    phases: tuple[Phase, ...]
    kept: tuple[Buffer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def trips(self) -> tuple[int, ...]:
        """Extents of the grid."""
        return tuple(loop.upper[0].const - loop.lower[0].const for loop in self.grid)


def kernels(func: LoopFunc) -> tuple[Kernel, ...]:
    """Cut a prepared program into kernels, in the order in which they run.

    Raises:
        PallasError: grid loops stand where kernels have none, or two kernels write one buffer.
    """
    allocated: dict[str, Buffer] = {}
    groups = _groups(_flat(func.body, allocated))
    used = [_touched(group) for group in groups]
    found: list[Kernel] = []
    for number, group in enumerate(groups):
        others = set().union(*(u for n, u in enumerate(used) if n != number))
        own = tuple(b for name, b in allocated.items() if name in used[number] - others)
        found.append(_kernel(group, own))
    _check_writers(found)
    return tuple(found)


def _has_grid(stmt: Stmt) -> bool:
    return any(isinstance(s, For) and s.kind == "grid" for s in walk(stmt))


def _flat(stmt: Stmt, allocated: dict[str, Buffer]) -> list[Stmt]:
    """The statements inside sequences and allocations at the top."""
    match stmt:
        case Alloc():
            allocated[stmt.buffer.name] = stmt.buffer
            return _flat(stmt.body, allocated)
        case Seq():
            return [inner for s in stmt.body for inner in _flat(s, allocated)]
        case _:
            return [stmt]


def _groups(items: list[Stmt]) -> list[Stmt]:
    """One statement per kernel."""
    out: list[Stmt] = []
    run: list[Stmt] = []
    for item in items:
        if not _has_grid(item):
            run.append(item)
            continue
        out += [seq(*run), item] if run else [item]
        run = []
    return [*out, seq(*run)] if run else out


def _touched(stmt: Stmt) -> set[str]:
    return {name for b in blocks(stmt) for name in (b.write.buffer, *(r.buffer for r in reads(b.value)))}


@dataclass(slots=True)
class _Nest:
    grid: list[For] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    kept: list[Buffer] = field(default_factory=list)

    def visit(self, stmt: Stmt) -> None:
        depth = len(self.grid)
        if not _has_grid(stmt):
            self.phases.append(Phase(stmt, depth, "every"))
            return
        match stmt:
            case For(kind="grid"):
                self.grid.append(stmt)
                self.visit(stmt.body)
            case Alloc():
                self.kept.append(stmt.buffer)
                self.visit(stmt.body)
            case Seq():
                within = [n for n, s in enumerate(stmt.body) if _has_grid(s)]
                if len(within) > 1:
                    raise PallasError("expected one grid loop per sequence inside a kernel, found several")
                self.phases += [Phase(s, depth, "first") for s in stmt.body[: within[0]]]
                self.visit(stmt.body[within[0]])
                self.phases += [Phase(s, depth, "last") for s in stmt.body[within[0] + 1 :]]
            case For():
                raise PallasError(f"expected grid loops inside grid loops only, found one inside {stmt.name}")
            case _:
                raise PallasError(f"expected no grid loop inside a {type(stmt).__name__}")


def _kernel(group: Stmt, own: tuple[Buffer, ...]) -> Kernel:
    """The kernel of a statement; ``own`` are buffers allocated around it that only it uses."""
    nest = _Nest()
    nest.visit(group)
    if not nest.grid:
        stmt = group
        for buffer in reversed(own):
            stmt = Alloc(buffer, stmt)
        nest.phases, own = [Phase(stmt, 0, "every")], ()
    private = {b.name for b in own} | {s.buffer.name for p in nest.phases for s in walk(p.stmt) if isinstance(s, Alloc)}
    private |= {b.name for b in nest.kept}
    writes = dict.fromkeys(b.write.buffer for b in blocks(group) if b.write.buffer not in private)
    read = dict.fromkeys(r.buffer for b in blocks(group) for r in reads(b.value))
    inputs = tuple(name for name in read if name not in private and name not in writes)
    return Kernel(group, tuple(nest.grid), tuple(nest.phases), (*own, *nest.kept), inputs, tuple(writes))


def _check_writers(found: list[Kernel]) -> None:
    seen: set[str] = set()
    for kernel in found:
        for name in kernel.outputs:
            if name in seen:
                raise PallasError(f"expected one kernel to write all of {name}, found two; bring its writers together")
            seen.add(name)
