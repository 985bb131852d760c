"""`tilewright bench`: run a benchmark suite, and compare two of its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import CommandError, UsageError, guess
from .help import command, help_text
from .options import AsJson
from .output import Output, printing

if TYPE_CHECKING:
    from ..bench.report import SuiteOptions, SuiteReport

app = typer.Typer()
SEARCH = "search"
_SEARCH_FOLDER = Path("search-comparison")


def bench(
    context: typer.Context,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="kernels, models, random or search.", show_default=False)
    ] = None,
    rows: Annotated[str, typer.Option(metavar="NAMES", help="Only these rows, with commas between them.")] = "",
    efforts: Annotated[
        str | None,
        typer.Option(metavar="0,1,...", help="Efforts to measure. By default 0 and 1.", show_default=False),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Tuning time per row, like 20s.", show_default=False)
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Other runtimes to measure beside, with commas between them.", show_default=False
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Processes per row and allocator mode.", show_default=False)
    ] = None,
    timing: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of sampling per process.", show_default=False)
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="With random: how many rows. 100 by default.", show_default=False)
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="With search: candidates per search.", show_default=False)
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="With search: searches per strategy and workload.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="With search: stop after this time; the same command goes on there.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the report as JSON; a run that was stopped goes on there. With search, a folder.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with figures.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides inputs, order and random rows.")] = 0,
    list_rows: Annotated[bool, typer.Option("--list", help="Print the rows, and how long they take at most.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a benchmark suite: kernels, models or random shapes against jax.jit, or search strategies side by side.

    All sides of a row are measured in turn, in processes of their own. Exits with 1 if a row failed or a result was
    not accurate.

    Examples:
        tilewright bench --suite kernels --list
        tilewright bench --suite kernels --rows softmax,gemv -o out.json
        tilewright bench --suite models -o models.json --html models.html
        tilewright bench --suite random --draws 100 --seed 1 -o random.json
        tilewright bench --suite search --trials 64 --minutes 30
        tilewright bench compare before.json after.json
    """
    if context.invoked_subcommand is not None:
        return
    for_suites = {
        "efforts": None if efforts is None else [int(word) for word in _words(efforts) if _is_effort(word)],
        "budget": budget,
        "peers": None if peers is None else _words(peers),
        "repeats": repeats,
        "timing_s": timing,
        "draws": draws,
    }
    for_search = {"trials": trials, "seeds": seeds, "minutes": minutes}
    with printing(as_json) as out:
        if suite == SEARCH:
            _refuse({**for_suites, "html": html}, "kernels, models and random")
            _search(out, _words(rows), for_search, output, list_rows)
            return
        _refuse(for_search, SEARCH)
        options = _options(suite, _words(rows), seed, for_suites)
        if list_rows:
            _list(out, options)
            return
        report = _report(out, options, output, html)
    raise typer.Exit(0 if report.passed else 1)


app.callback(invoke_without_command=True, help=help_text(bench))(bench)


@command(app, "compare")
def compare_reports(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="An earlier report.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="A later report.", show_default=False)],
    margin: Annotated[float, typer.Option(min=1.0, help="Factor up to which a change counts as none.")] = 1.05,
    as_json: AsJson = False,
) -> None:
    """Compare two reports of a suite: what became faster or slower, told apart from noise.

    Exits with 1 if something became slower or has no result any more.

    Examples:
        tilewright bench compare before.json after.json
        tilewright bench compare before.json after.json --margin 1.1 --json
    """
    from dataclasses import asdict

    from ..bench.compare import compare, comparison_text
    from ..bench.report import ReportError, load_report

    for path in (before, after):
        if not path.is_file():
            raise UsageError(f"{path}: expected a report, found {'a folder' if path.is_dir() else 'nothing'}")
    with printing(as_json) as out:
        try:
            reports = load_report(before), load_report(after)
        except ReportError as error:
            raise CommandError(str(error)) from error
        try:
            found = compare(*reports, margin)
        except ValueError as error:
            raise UsageError(str(error)) from error
        changes = [
            {**asdict(c), "ratio": None if c.ratio is None else c.ratio.model_dump(mode="json")} for c in found.changes
        ]
        data = {"regressed": found.regressed, "counts": found.counts(), "notes": list(found.notes), "changes": changes}
        out.result(data, comparison_text(found))
    raise typer.Exit(1 if found.regressed else 0)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _is_effort(word: str) -> bool:
    if word not in ("0", "1", "2", "3"):
        raise UsageError(f"--efforts: expected some of 0, 1, 2, 3, found {word!r}")
    return True


def _refuse(options: dict[str, Any], suites: str) -> None:
    """Refuses options that only other suites have."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name.removesuffix('_s')} holds for --suite {suites} only", "leave it out")


def _options(suite: str | None, rows: Sequence[str], seed: int, given: dict[str, Any]) -> SuiteOptions:
    from ..bench.cases import SUITES
    from ..bench.runner import suite_options

    suites = (*SUITES, SEARCH)
    if suite not in suites:
        found = "none" if suite is None else repr(suite)
        raise UsageError(f"--suite: expected one of {', '.join(suites)}, found {found}", guess(suite or "", suites))
    try:
        return suite_options(suite, rows, seed=seed, **{n: value for n, value in given.items() if value is not None})
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _list(out: Output, options: SuiteOptions) -> None:
    from ..bench.runner import at_most, expected_seconds

    seconds = expected_seconds(options)
    data = {"suite": options.suite, "rows": list(options.rows), "minutes_at_most": round(seconds / 60, 1)}
    out.note(at_most(seconds))
    out.result(data, "\n".join(options.rows))


def _report(out: Output, options: SuiteOptions, output: Path | None, html: Path | None) -> SuiteReport:
    """Runs a suite and shows what it found."""
    from ..bench.html import PageError, need_page_libraries, write_html
    from ..bench.runner import run_suite
    from ..bench.table import table_text
    from .replacing import PAGE, REPORT, check_target

    for path, kind in ((output, REPORT), (html, PAGE)):
        if path is not None:
            check_target(path, kind)
    if html is not None:
        try:
            need_page_libraries()
        except PageError as error:
            raise CommandError(str(error), error.remedy) from error
    report = run_suite(options, output, say=out.note)
    if html is not None:
        write_html(report, html)
    out.result(report.model_dump(mode="json"), table_text(report))
    return report


def _search(out: Output, rows: Sequence[str], given: dict[str, Any], output: Path | None, list_rows: bool) -> None:
    """Compares search strategies."""
    from ..bench import search
    from ..bench.search_cases import CASES

    unknown = [name for name in rows if name not in CASES]
    if unknown:
        raise UsageError(f"--rows: expected some of {', '.join(CASES)}, found {', '.join(unknown)}")
    if list_rows:
        out.result({"suite": SEARCH, "rows": list(CASES)}, "\n".join(CASES))
        return
    folder = output or _SEARCH_FOLDER
    words = ["--folder", str(folder), *(["--workloads", ",".join(rows)] if rows else [])]
    for name, value in given.items():
        words += [] if value is None else [f"--{name}", str(value)]
    if search.main(words):
        raise CommandError("the comparison is not complete", "run the same command again to go on")
    if out.as_json:  # otherwise the table is printed already
        out.result(json.loads((folder / "report.json").read_text()), "")
