"""`tilewright db`: look into tuning databases, and move records between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import CommandError, UsageError, guess
from .help import command
from .listing import plan_rows, record_rows, show_rows
from .options import AsJson, DatabasePath
from .output import counted, printing

if TYPE_CHECKING:
    from ..database.exchange import MergeReport
    from ..database.store import Database

app = typer.Typer(
    help="Look into tuning databases, and move records between them.\n\nRecords are data: they are validated when they "
    "are read and never executed.",
)

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows at most.")]


@command(app, "ls")
def list_records(
    workload: Annotated[
        str, typer.Option(metavar="PREFIX", help="Only workloads (with --plans: graphs) whose digest begins so.")
    ] = "",
    target: Annotated[str, typer.Option(metavar="PREFIX", help="Only machines whose fingerprint begins so.")] = "",
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only results like `ok`, `crash` or `wrong_result`.")
    ] = None,
    plans: Annotated[
        bool, typer.Option("--plans", help="Decisions for whole functions instead of candidates.")
    ] = False,
    limit: Limit = 20,
    database: DatabasePath = None,
    as_json: AsJson = False,
) -> None:
    """List records: candidates, the fastest of each workload first, or decisions for whole functions.

    Examples:
        tilewright db ls
        tilewright db ls --database tuning.db --workload 3f9c --status ok --limit 5
        tilewright db ls --plans --json
    """
    if plans and status is not None:
        raise UsageError("--status holds for candidates, found it with --plans", "leave one of them out")
    with printing(as_json) as out, _existing(database) as opened:
        rows = plan_rows(opened, workload, target) if plans else record_rows(opened, workload, target, _status(status))
        shown = rows[:limit]
        counts = opened.counts()
        data = {
            "database": place(opened),
            "counts": counts,
            "matching": len(rows),
            "damaged": len(opened.skipped),
            "plans" if plans else "records": shown,
        }
        if opened.skipped:
            reasons = Counter(opened.skipped.values())
            out.note(f"left out {counted(len(opened.skipped), 'damaged record')}: {_first(reasons)}")
        head = (
            f"{opened.name}: {counted(counts['records'], 'candidate')} of {counted(counts['workloads'], 'workload')}, "
            f"{counted(counts['plans'], 'plan')}"
        )
        out.result(data, lambda console: show_rows(console, head, shown, len(rows)))


@command(app, "show")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or how it begins.", show_default=False)],
    database: DatabasePath = None,
    as_json: AsJson = False,
) -> None:
    """Print a record; for a candidate with its workload, its schedule and the scheduled loops.

    Examples:
        tilewright db show 5d02c1 --database tuning.db
    """
    with printing(as_json) as out, _existing(database) as opened:
        try:
            record, text = opened.find(id), opened.show(id)
        except LookupError as error:
            raise UsageError(str(error), "`tilewright db ls` lists what there is") from error
        out.result({"record": record.to_json(), "text": text}, text)


@command(app, "export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    database: DatabasePath = None,
    as_json: AsJson = False,
) -> None:
    """Write all records as JSON lines, a record per line; such files are merged by concatenation.

    Examples:
        tilewright db export tuning.jsonl --database tuning.db
    """
    from ..database.exchange import export_lines

    if file.is_file() and not force:
        raise UsageError(f"{file}: expected a new file, found one", "choose another name, or overwrite it with --force")
    with printing(as_json) as out, _existing(database) as opened:
        try:
            with file.open("w", encoding="utf-8") as lines:
                count = export_lines(opened, lines)
        except OSError as error:
            raise CommandError(f"{file}: can't be written: {error.strerror or error}") from error
        skipped = len(opened.skipped)
        data = {"database": place(opened), "file": str(file), "records": count, "damaged": skipped}
        left_out = f", {counted(skipped, 'damaged one')} left out" if skipped else ""
        out.result(data, f"{counted(count, 'record')} written to {file}{left_out}")


@command(app, "import")
def import_records(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON lines.", show_default=False)],
    database: DatabasePath = None,
    as_json: AsJson = False,
) -> None:
    """Add the records of JSON lines that `export` wrote; what is there already, or is no record, is left out.

    Exits with 1 if a line was no record.

    Examples:
        tilewright db import tuning.jsonl --database tuning.db
    """
    from ..database.exchange import import_lines
    from ..database.store import Database

    for file in files:
        _check_file(file)
    with printing(as_json) as out, Database(database) as opened:
        reports = []
        for file in files:
            try:
                with file.open(encoding="utf-8") as lines:
                    reports.append(import_lines(opened, lines))
            except UnicodeDecodeError as error:
                remedy = "a database is merged with `tilewright db merge`"
                raise CommandError(f"{file}: expected JSON lines, found other bytes", remedy) from error
        out.result(_merged(opened, reports), _merged_text(opened, reports))
    raise typer.Exit(int(any(report.skipped for report in reports)))


@command(app, "merge")
def merge(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Databases to read: paths or URLs.", show_default=False)
    ],
    into: Annotated[
        str, typer.Option("--into", metavar="PATH|URL", help="Database to add to; may be new.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Copy all records of databases into another one; the sources stay as they are, and repeating changes nothing.

    Exits with 1 if a record was damaged.

    Examples:
        tilewright db merge mine.db colleague.db --into both.db
    """
    from ..database import exchange
    from ..database.store import Database

    for source in sources:
        if "://" not in source:
            _check_file(Path(source))
    with printing(as_json) as out, Database(into) as opened:
        reports = [exchange.merge(opened, source) for source in sources]
        out.result(_merged(opened, reports), _merged_text(opened, reports))
    raise typer.Exit(int(any(report.skipped for report in reports)))


def place(database: Database) -> str:
    """A database's path or URL, without a password."""
    return database.name.removeprefix("tuning database ")


def _existing(path: str | None) -> Database:
    """A database that is there already: looking at one must not create it."""
    from ..database.engine import default_database_path
    from ..database.store import Database

    text = path if path is not None else str(default_database_path())
    check_exists(text)
    return Database(text)


def check_exists(text: str | None) -> None:
    """See that a database that was typed is there; None and `:memory:` are not typed names of files.

    Raises:
        UsageError: there is none.
    """
    if text in (None, ":memory:") or "://" in text or Path(text).exists():
        return
    raise UsageError(f"{text}: there is no such database", "`tilewright tune` fills one; name it with --database")


def _check_file(file: Path) -> None:
    if not file.is_file():
        folder = file.parent
        remedy = guess(file.name, [p.name for p in folder.iterdir() if p.is_file()]) if folder.is_dir() else ""
        found = "a folder" if file.is_dir() else "nothing"
        raise UsageError(f"{file}: expected a file, found {found}", remedy)


def _status(text: str | None) -> Any:
    from ..ir.measure import STATUSES

    if text is not None and text not in STATUSES:
        raise UsageError(f"--status: expected one of {', '.join(STATUSES)}, found {text!r}", guess(text, STATUSES))
    return text


def _merged(database: Database, reports: list[MergeReport]) -> dict[str, Any]:
    skipped = sum((report.skipped for report in reports), Counter[str]())
    return {
        "database": place(database),
        "added": sum(report.added for report in reports),
        "present": sum(report.present for report in reports),
        "refused": sum(skipped.values()),
        "reasons": dict(skipped),
    }


def _merged_text(database: Database, reports: list[MergeReport]) -> str:
    found = _merged(database, reports)
    text = f"{database.name}: {counted(found['added'], 'record')} added, {found['present']} there already"
    if not found["refused"]:
        return text
    return f"{text}, {found['refused']} refused: {_first(Counter(found['reasons']))}"


def _first(reasons: Counter[str]) -> str:
    """The most frequent reason."""
    (reason, _), *more = reasons.most_common()
    return f"{reason}{' and other reasons' if more else ''}"
