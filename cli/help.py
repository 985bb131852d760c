"""The help text of a command: its docstring, laid out for a terminal."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

_KEPT = "\b\n"
"""Before a paragraph whose lines are to stay as they are."""
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


def command(app: typer.Typer, name: str) -> Callable[[_FunctionT], _FunctionT]:
    """Registers a function as a command with its docstring as help."""

    def register(function: _FunctionT) -> _FunctionT:
        return app.command(name, help=help_text(function))(function)

    return register


def help_text(function: Callable[..., Any]) -> str:
    """The docstring with every paragraph in one line, for the terminal's width to break; examples stay as they are."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(_KEPT + p if "\n    " in p else p.replace("\n", " ") for p in paragraphs)
