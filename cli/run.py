"""`tilewright run`: run a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson
from .output import printing


def run(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="What `tilewright compile` saved.", show_default=False)
    ],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Arguments: a .npz file (`arr_0`, `arr_1`, ... by position, others by name), or a .npy file for a "
            "single one. By default random values.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the results to this .npz file.", show_default=False),
    ] = None,
    repeat: Annotated[int, typer.Option(min=0, help="Call it so often again and time the calls.")] = 0,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Run machine code that was saved elsewhere, too; only from sources you trust."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random values.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a saved model and time it: to the first result since the process was started, and in repeated calls.

    Examples:
        tilewright run model.tw
        tilewright run model.tw --input batch.npz --output result.npz
        tilewright run model.tw --repeat 100 --json
    """
    from .running import run_model

    with printing(as_json) as out:
        run_model(out, model, inputs, output, repeat, trust, seed)
