"""`tilewright tune`: search schedules for a function and remember them."""

from __future__ import annotations

from typing import Annotated

import typer

from .database import place
from .options import AsJson, BudgetText, Call, DatabasePath, FunctionName, InputTexts, Seed, Strategy
from .output import is_interactive, printing


def tune(
    function: FunctionName,
    inputs: InputTexts = None,
    call: Call = False,
    budget: BudgetText = None,
    effort: Annotated[
        int | None, typer.Option("--effort", min=1, max=3, help="How hard to try. Default: 1.", show_default=False)
    ] = None,
    database: DatabasePath = None,
    seed: Seed = None,
    strategy: Strategy = None,
    as_json: AsJson = False,
) -> None:
    """Search schedules for a function, fill the database, and report what was found.

    Searches also where the database has an answer already. Ctrl-C ends the search; the best so far is kept.

    Examples:
        tilewright tune model:predict --input 'f32[1,32,32,3]' --budget 20s
        tilewright tune model.py:predict -i @batch.npz --database tuning.db --json
    """
    from .preparing import prepare, typed_budget

    options = {
        "budget": typed_budget(budget),
        "effort": effort,
        "database": database,
        "seed": seed,
        "strategy": strategy,
        "progress": is_interactive(),
    }
    with printing(as_json) as out:
        subject = prepare(function, inputs, call, options)
        args, kwargs = subject.values(seed or 0)
        found = subject.compiled.tune(*args, **kwargs)
        search = found.search
        where = place(subject.compiled.options.open_database())
        data = {
            "function": function,
            "inputs": [str(item) for item in subject.arguments.types()],
            "database": where,
            "trials": search.trials if search else 0,
            "seconds": search.elapsed_s if search else 0.0,
            "stopped": search.stopped if search else "nothing to tune",
            "error": search.error if search else "",
            "report": found.report.to_dict(),
        }
        kept = "kept nowhere" if where == ":memory:" else f"kept in {where}"
        out.result(data, f"{found}\n{kept}")
    if search is not None and search.stopped == "runner failed":
        raise typer.Exit(1)
