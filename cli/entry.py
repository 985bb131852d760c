"""The commands put together, and what happens when one of them ends early.

Exit codes: 0 fine; 1 it failed, or a problem was found; 2 wrong usage; 130 interrupted by Ctrl-C; 141 nobody reads the
output any more.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from . import bench, compile, database, doctor, explain, run, tune
from .errors import FAILED, FINE, INTERRUPTED, MISUSED, READER_GONE, CommandError, describe, one_line
from .help import command
from .output import OutputClosed, write

_PROGRAM = "tilewright"


class _Commands(TyperGroup):
    """Ends every command, however it fails, with an exit code and at most one line."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        """Runs what was typed; never returns."""
        typed = list(sys.argv[1:] if args is None else args)
        start = super().main
        sys.exit(_ended(lambda: start(typed or ["--help"], prog_name, **extra, standalone_mode=False), typed))


def _ended(start: Callable[[], Any], typed: list[str]) -> int:
    """Runs a command to its exit code."""
    # Read by hand, since parsing itself may have failed. Global options come before the command.
    debug = "--debug" in takewhile(lambda word: word.startswith("-"), typed)
    try:
        code = start()
        code = code if isinstance(code, int) else FINE
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except OutputClosed:
        _drop_output()
        return READER_GONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, message, remedy = _explained(error, typed)
        _tell(message, remedy, "--json" in typed)
        return code


def _explained(error: Exception, typed: list[str]) -> tuple[int, str, str]:
    """Exit code, what is wrong and what to do."""
    if isinstance(error, CommandError):
        return error.exit_code, error.message, error.remedy
    # What Typer raises for a wrong option has no public name in all of its releases.
    parsing = getattr(error, "format_message", None)
    if parsing is not None:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else _PROGRAM
        return MISUSED, parsing(), f"`{path} --help` shows how"
    if isinstance(error, OSError) and error.filename is not None:
        return FAILED, f"{error.filename}: {error.strerror}", ""
    if _has_its_own_remedy(error):
        return FAILED, str(error), ""
    return FAILED, describe(error), f"`{_PROGRAM} --debug {shlex.join(typed)}` shows where it comes from"


def _has_its_own_remedy(error: Exception) -> bool:
    """Whether it is one of the errors of this package that are written for users."""
    names = {"DatabaseError", "ArtifactError"}
    own = __name__.partition(".")[0] + "."
    return any(kind.__name__ in names and kind.__module__.startswith(own) for kind in type(error).__mro__)


def _tell(message: str, remedy: str, as_json: bool) -> None:
    message, remedy = one_line(message).rstrip("."), one_line(remedy)
    separator = " " if message.endswith("?") else "; "
    typer.echo(f"error: {message}{separator if remedy else ''}{remedy}", err=True)
    if as_json:
        write(sys.stdout, json.dumps({"error": message, "remedy": remedy}, indent=1) + "\n")


def _drop_output() -> None:
    """Makes the interpreter's last flush of standard output succeed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Log(logging.Handler):
    """What the compiler logs, a line each; tracebacks only on request."""

    def __init__(self, debug: bool) -> None:
        super().__init__(logging.INFO if debug else logging.WARNING)
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record on standard error."""
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and self._debug:
            line = "".join([line, "\n", *traceback.format_exception(error)])
        elif error is not None:
            line = f"{line} ({describe(error)})"
        typer.echo(line, err=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{_PROGRAM} {__version__}")
        raise typer.Exit


app = typer.Typer(name=_PROGRAM, cls=_Commands, pretty_exceptions_enable=False)


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors, and more of what the compiler logs.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """An autoscheduling compiler for JAX.

    Exit codes: 0 fine, 1 it failed or a problem was found, 2 wrong usage, 130 interrupted.
    """
    logger = logging.getLogger(_PROGRAM)
    logger.setLevel(logging.INFO if debug else logging.WARNING)
    logger.handlers[:] = [_Log(debug)]


command(app, "compile")(compile.compile_function)
command(app, "run")(run.run)
command(app, "tune")(tune.tune)
command(app, "explain")(explain.explain)
app.add_typer(bench.app, name="bench")
app.add_typer(database.app, name="db")
command(app, "doctor")(doctor.doctor)


def main() -> None:
    """Run the command line."""
    app()
