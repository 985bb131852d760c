"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

FunctionName = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FUNCTION",
        help="What to work on: `package.module:function` or `path/to/file.py:function`; dotted names reach into "
        "classes and objects.",
        show_default=False,
    ),
]
InputTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="INPUT",
        help="One argument of the function: `f32[1,224,224,3]`, a scalar `i32[]`, `name=f32[8]` for a keyword "
        "argument, or values from `@file.npy` or `@file.npz`. Give it once per argument, in order.",
        show_default=False,
    ),
]
Call = Annotated[
    bool, typer.Option("--call", help="Call what MODULE:FUNCTION names, without arguments, to get the function.")
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME|TRIALS",
        help='Limit of the search: a time like "60s" or "2m", or a number of candidates. By default what the effort '
        "allows.",
        show_default=False,
    ),
]
EffortLevel = Annotated[
    int | None,
    typer.Option("--effort", min=0, max=3, help="How hard to try: 0 times nothing. Default: 1.", show_default=False),
]
DatabasePath = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="PATH|URL",
        help='Tuning database; ":memory:" keeps nothing. By default the user\'s own.',
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of the search and of random values. Default: 0.", show_default=False),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="Who proposes candidates: mcts or evolutionary.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; everything else goes to standard error.")]
