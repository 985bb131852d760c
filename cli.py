"""The `tilewright` command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__
from .doctor import Check, Diagnosis, diagnose
from .ir.target import Target

if TYPE_CHECKING:
    from .backends.measure.machine import MachineLimits

app = typer.Typer(
    name="tilewright",
    help="An autoscheduling compiler for JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_COLOURS = {"fine": "green", "note": "yellow", "problem": "red"}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tilewright {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """An autoscheduling compiler for JAX."""


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    database: Annotated[
        str | None, typer.Option(help="Tuning database to look at: a path or URL. By default the user's own.")
    ] = None,
) -> None:
    """Check the set-up: versions, processor, database, and a small function compiled and run.

    Exits with 0 if everything works and 1 if something does not; what to do about it stands beside it.
    """
    errors = Console(stderr=True)
    found = diagnose(database, lambda text: errors.print(text, style="dim"))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        _show(found, Console())
    raise typer.Exit(0 if found.fine else 1)


def _show(found: Diagnosis, console: Console) -> None:
    versions = ", ".join(f"{name} {text or 'missing'}" for name, text in found.versions.items())
    console.print(versions, highlight=False)
    console.print(_target_text(found.target), highlight=False, markup=False)
    if found.limits is not None:
        console.print(_limits_text(found.limits), highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in found.checks:
        table.add_row(*_row(check))
    console.print(table)
    problems = sum(check.status == "problem" for check in found.checks)
    if problems:
        console.print(f"{problems} problem{'s' if problems > 1 else ''} found.", style="bold red")
    else:
        console.print("Everything works.", style="bold green")


def _row(check: Check) -> tuple[str, str, str]:
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


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
