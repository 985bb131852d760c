"""`tilewright compile`: make a function faster and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, BudgetText, Call, DatabasePath, EffortLevel, FunctionName, InputTexts, Seed, Strategy
from .output import is_interactive, printing, size


def compile_function(
    function: FunctionName,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Where to save the model: a .tw file.", show_default=False),
    ],
    inputs: InputTexts = None,
    call: Call = False,
    budget: BudgetText = None,
    effort: EffortLevel = None,
    database: DatabasePath = None,
    seed: Seed = None,
    strategy: Strategy = None,
    as_json: AsJson = False,
) -> None:
    """Compile a function for given shapes, tune it unless the database knows the answer, and save it.

    The file runs with `tilewright run`, or in Python with `tilewright.load`. Ctrl-C during the search ends the search;
    the best so far is saved.

    Examples:
        tilewright compile model:predict --input 'f32[1,32,32,3]' -o model.tw
        tilewright compile model.py:predict -i 'f32[1,32,32,3]' --effort 2 --budget 60s -o model.tw
        tilewright compile model:build --call -i x=@batch.npy --database tuning.db -o model.tw
    """
    from .preparing import prepare, typed_budget
    from .replacing import MODEL, check_target

    check_target(output, MODEL)
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
        path = subject.compiled.save(output, *args, **kwargs)
        report = subject.compiled.report()
        count = path.stat().st_size
        data = {
            "function": function,
            "inputs": [str(item) for item in subject.arguments.types()],
            "path": str(path),
            "bytes": count,
            "report": report.to_dict(),
        }
        out.result(data, f"{report}\nsaved to {path} ({size(count)})")
