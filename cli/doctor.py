"""`tilewright doctor`: is the set-up all right?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .options import AsJson, DatabasePath
from .output import counted, printing

if TYPE_CHECKING:
    from rich.console import Console

    from ..backends.measure.machine import MachineLimits
    from ..ir.target import Target
    from .diagnosis import Check, Diagnosis

_COLOURS = {"fine": "green", "note": "yellow", "problem": "red"}


def doctor(database: DatabasePath = None, as_json: AsJson = False) -> None:
    """Check the set-up: versions, processor, database, and a small function compiled and run.

    Exits with 0 if everything works and 1 if something does not; what to do about it stands beside it.

    Examples:
        tilewright doctor
        tilewright doctor --json > report-of-a-problem.json
    """
    from .diagnosis import diagnose

    with printing(as_json) as out:
        found = diagnose(database, out.note)
        out.result(found.to_dict(), lambda console: _show(found, console))
    raise typer.Exit(0 if found.fine else 1)


def _show(found: Diagnosis, console: Console) -> None:
    from rich.table import Table

    versions = ", ".join(f"{name} {text or 'missing'}" for name, text in found.versions.items())
    console.print(versions)
    console.print(_target_text(found.target), markup=False)
    if found.limits is not None:
        console.print(_limits_text(found.limits))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in found.checks:
        table.add_row(*_row(check))
    console.print(table)
    problems = sum(check.status == "problem" for check in found.checks)
    if problems:
        console.print(f"{counted(problems, 'problem')} found.", style="bold red")
    else:
        console.print("Everything works.", style="bold green")


def _row(check: Check) -> tuple[str, str, str]:
    from rich.markup import escape

    colour = _COLOURS[check.status]
    remedy = f"\n[{colour}]-> {escape(check.remedy)}[/{colour}]" if check.remedy else ""
    return check.name, f"[{colour}]{check.status}[/{colour}]", escape(check.found) + remedy


def _target_text(target: Target) -> str:
    caches = " / ".join(f"{size // 1024} KiB" for size in (target.l1_bytes, target.l2_bytes, target.l3_bytes))
    features = " ".join(sorted(target.feature_set))
    return f"{target.name} ({target.arch}), caches {caches}\n{features}"


def _limits_text(limits: MachineLimits) -> str:
    return (
        f"multiply-add {limits.fma_gflops_one:.0f} GFLOP/s with one thread, {limits.fma_gflops_all:.0f} with "
        f"{limits.threads}; memory {limits.read_gbs_one:.0f} and {limits.read_gbs_all:.0f} GB/s; "
        f"last-level cache {limits.l3_gbs_one:.0f} and {limits.l3_gbs_all:.0f} GB/s"
    )
