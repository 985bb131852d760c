"""`python -m tilewright.bench`: run a suite, or compare two reports.

    python -m tilewright.bench --suite kernels --rows matmul-512,softmax -o out.json --html out.html
    python -m tilewright.bench compare before.json after.json

`--suite search` compares search strategies instead; its options are those of `python -m tilewright.bench.search`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .cases import SUITES, row_names
from .compare import MARGIN, compare, comparison_text
from .html import PageError, need_page_libraries, write_html
from .peers.base import PEERS
from .report import ReportError, SuiteOptions, load_report
from .runner import ROUNDS, at_most, expected_seconds, run_suite, suite_options
from .table import table_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        0 if all is well, 1 if a row failed, an output was not accurate or something became slower, 2 for wrong usage.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["compare"]:
            return _compare(given[1:])
        if given[:2] == ["--suite", "search"]:
            from . import search

            return search.main(given[2:])
        return _run(given)
    except PageError as error:
        print(f"error: {error}; {error.remedy}", file=sys.stderr)
        return 1
    except (ReportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(given: Sequence[str]) -> int:
    found = _parser().parse_args(given)
    options = suite_options(
        found.suite,
        rows=_names(found.rows),
        efforts=[int(effort) for effort in _names(found.efforts)],
        budget=found.budget,
        peers=_names(found.peers),
        repeats=found.repeats,
        rounds=found.rounds,
        timing_s=found.timing,
        row_timeout_s=found.row_timeout,
        accuracy_inputs=found.accuracy_inputs,
        seed=found.seed,
        draws=found.draws,
    )
    if found.list:
        _list(options)
        return 0
    if found.html is not None:
        need_page_libraries()
    report = run_suite(options, found.output, say=lambda text: print(text, file=sys.stderr, flush=True))
    print(table_text(report))
    if found.html is not None:
        write_html(report, found.html)
    return 0 if report.passed else 1


def _list(options: SuiteOptions) -> None:
    print("\n".join(options.rows))
    print(at_most(expected_seconds(options)), file=sys.stderr)


def _compare(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tilewright.bench compare", description="Compare two reports.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--margin", type=float, default=MARGIN, help="factor up to which a change counts as none")
    found = parser.parse_args(given)
    comparison = compare(load_report(found.before), load_report(found.after), found.margin)
    print(comparison_text(comparison))
    return 1 if comparison.regressed else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    rows = "; ".join(f"{suite}: {', '.join(row_names(suite))}" for suite in SUITES if suite != "random")
    parser = argparse.ArgumentParser(
        prog="python -m tilewright.bench",
        description=__doc__,
        epilog=f"Rows of the suites. {rows}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", default="kernels", help="kernels, models, random or search")
    parser.add_argument("--rows", default="", help="comma-separated names; all by default")
    parser.add_argument("--efforts", default="0,1", help="comma-separated, each 0 to 3")
    parser.add_argument("--budget", help="tuning time per row and allocator mode, for example 20s")
    parser.add_argument("--peers", default="", help=f"comma-separated, some of {', '.join(PEERS)}")
    parser.add_argument("--repeats", type=int, help="processes per row and allocator mode")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="most samples of a side per process")
    parser.add_argument("--timing", type=float, help="seconds of sampling per process")
    parser.add_argument("--row-timeout", type=float, default=600.0, help="seconds a row may take")
    parser.add_argument("--accuracy-inputs", type=int, default=1, help="inputs to compare with float64, 1 to 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, help="how many rows the random suite has")
    parser.add_argument("--list", action="store_true", help="print the rows and the expected time, and stop")
    parser.add_argument("-o", "--output", type=Path, help="write the report here; run again to go on after a stop")
    parser.add_argument("--html", type=Path, help="write a page here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
