"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import typer

from .errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 160
"""Columns of tables that no terminal shows: wide enough not to break the lines that a program reads."""


class OutputClosed(Exception):
    """Whoever read the output has gone, as in `tilewright explain ... | head`."""


class Output:
    """Where a command's result goes.

    Args:
        as_json: Whether the result is one JSON object rather than a text.
        stream: Standard output.
    """

    def __init__(self, as_json: bool, stream: TextIO) -> None:
        self.as_json = as_json
        self._stream = stream

    def note(self, text: str) -> None:
        """Says what is going on, on standard error."""
        typer.echo(text, err=True)

    def result(self, data: Mapping[str, Any], text: str | Callable[[Console], None]) -> None:
        """Prints the result.

        Args:
            data: It as plain data, for programs.
            text: It for people; or prints it on a console.
        """
        if self.as_json:
            write(self._stream, json.dumps(_finite(data), indent=1, allow_nan=False) + "\n")
        elif isinstance(text, str):
            write(self._stream, printable(text).removesuffix("\n") + "\n")
        else:
            write(self._stream, self._rendered(text))

    def _rendered(self, show: Callable[[Console], None]) -> str:
        from rich.console import Console

        console = Console(file=self._stream, highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = _PIPED_WIDTH
        with console.capture() as captured:
            show(console)
        return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


@contextlib.contextmanager
def printing(as_json: bool) -> Iterator[Output]:
    """Lets a command print; with `as_json`, what the user's code prints goes to standard error."""
    stream = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield Output(as_json, stream)


def write(stream: TextIO, text: str) -> None:
    """Writes all of a text now.

    Raises:
        OutputClosed: nobody reads it.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error


def _finite(data: Any) -> Any:
    """Plain data with null for what JSON has no number for."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def is_interactive() -> bool:
    """Whether somebody watches standard error, so that progress is worth drawing."""
    return sys.stderr.isatty()


def duration(seconds: float) -> str:
    """A time with a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} us"


def size(count: int) -> str:
    """A number of bytes with a unit that suits it."""
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
