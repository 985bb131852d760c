"""Statements of a function together with what surrounds them: loops, living buffers, conditions and proven facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .affine import AffineExpr
from .bounds import Facts
from .loop import Alloc, Block, Buffer, For, If, LoopFunc, Stmt, children

Fault = tuple[Stmt | Buffer, str]
"""Where a rule is broken, and how."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A statement and what surrounds it.

    Args:
        stmt: the statement.
        parent: the site of the statement directly around it.
        loops: the loops around it, outermost first.
        scope: the buffers that are alive, by name.
        branch: what the parent's being an If tells here: conditions ``>= 0``.
    """

    stmt: Stmt
    parent: Site | None
    loops: tuple[For, ...]
    scope: Mapping[str, Buffer]
    branch: tuple[AffineExpr, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A function and its sites.

    Args:
        func: the function.
        sites: one per statement, in program order.
    """

    func: LoopFunc
    sites: tuple[Site, ...]
    _facts: dict[int, Facts] = field(default_factory=dict)

    def facts(self, site: Site) -> Facts:
        """What holds where a statement stands; inside its box and before its guard, if it is a Block.

        Raises:
            KeyError: a bound or condition uses a variable that is not in scope.
        """
        known = self._facts.get(id(site))
        if known is None:
            known = Facts() if site.parent is None else self.facts(site.parent)
            if site.parent is not None and isinstance(site.parent.stmt, For):
                known = known.enter_loop(site.parent.stmt)
            if site.branch:
                known = known.assume(site.branch)
            if isinstance(site.stmt, Block):
                known = known.enter_box(site.stmt)
            self._facts[id(site)] = known
        return known

    def blocks(self) -> list[tuple[Site, Block]]:
        """The sites of Blocks, in program order."""
        return [(s, s.stmt) for s in self.sites if isinstance(s.stmt, Block)]


def program(func: LoopFunc) -> Program:
    """Find every statement of a function with its surroundings."""
    found: list[Site] = []
    _collect(Site(func.body, None, (), {b.name: b for b in func.params}), found)
    return Program(func, tuple(found))


def _collect(site: Site, found: list[Site]) -> None:
    found.append(site)
    stmt, loops, scope = site.stmt, site.loops, site.scope
    if isinstance(stmt, For):
        loops = (*loops, stmt)
    if isinstance(stmt, Alloc):
        scope = {**scope, stmt.buffer.name: stmt.buffer}
    for child in children(stmt):
        branch = _branch(stmt, child) if isinstance(stmt, If) else ()
        _collect(Site(child, site, loops, scope, branch), found)


def _branch(choice: If, child: Stmt) -> tuple[AffineExpr, ...]:
    if child is choice.then:
        return choice.conditions
    # Of several conditions it is unknown which one failed.
    return (-choice.conditions[0] - 1,) if len(choice.conditions) == 1 else ()


def path(site: Site) -> tuple[Stmt, ...]:
    """The statements around a site, outermost first."""
    return () if site.parent is None else (*path(site.parent), site.parent.stmt)
