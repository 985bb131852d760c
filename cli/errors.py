"""What a command ends with when it can't do what was asked: one line with the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

FINE, FAILED, MISUSED, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141
"""Exit codes. The last two are 128 and the number of the signal, as shells have it."""
_MAX_TEXT = 1000
_MAX_NAMES = 16
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class CommandError(Exception):
    """Something failed while doing what was asked.

    Args:
        message: What was expected and what was found.
        remedy: What to do about it, or empty.
    """

    exit_code = FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(CommandError):
    """What was typed can't be done: a name, a value or a file that is not there."""

    exit_code = MISUSED


def printable(text: str) -> str:
    """A text of any origin without what would command a terminal."""
    return text.translate(_CONTROL)


def one_line(text: str) -> str:
    """A text of any origin in one line of bounded length."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."


def describe(error: BaseException) -> str:
    """Type and message of a foreign exception in one line."""
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "))


def guess(name: str, known: Iterable[str]) -> str:
    """Those of the known names that look like `name`, as a question; empty if there are none."""
    found = get_close_matches(name, sorted(set(known)), n=3, cutoff=0.7)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def near(name: str, known: Iterable[str]) -> str:
    """What `guess` says, else which names there are; empty if none is known."""
    names = sorted(set(known))
    shown = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
    return guess(name, names) or (f"there is {shown}" if names else "")
