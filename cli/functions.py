"""MODULE:FUNCTION: finding what a user named."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import CommandError, UsageError, describe, guess, near

_EXPECTED = "expected MODULE:FUNCTION, for example 'model:predict' or 'path/to/model.py:predict'"


def find_function(text: str, call: bool = False) -> Callable[..., Any]:
    """The function that `MODULE:FUNCTION` names.

    A module is looked for in the current folder and among the installed ones; `path/to/file.py` is run as a module.

    Args:
        text: What was typed.
        call: Whether it names a factory: it is called without arguments and returns the function.

    Raises:
        UsageError: there is no such module or function; the message says what there is.
        CommandError: the user's code failed while it was imported or called.
    """
    place, separator, path = text.rpartition(":")
    if not separator or not place or not path:
        raise UsageError(f"{_EXPECTED}, found {text!r}")
    found = _attribute(_module(place), place, path)
    if not callable(found):
        raise UsageError(f"{text}: expected a function, found {type(found).__name__}", "name something callable")
    if not call:
        if isinstance(found, type):
            raise UsageError(f"{text}: expected a function, found a class", "name a method, or a factory with --call")
        return found
    try:
        made = found()
    except (Exception, SystemExit) as error:
        raise CommandError(f"calling {text} without arguments failed: {describe(error)}") from error
    if not callable(made):
        raise UsageError(f"{text} with --call: expected it to return a function, found {type(made).__name__}")
    return made


def _module(place: str) -> ModuleType:
    if place.endswith(".py") or os.sep in place:
        return _from_file(Path(place))
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"{_EXPECTED}, found the module {place!r}")
    _put_first(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(f"no module {error.name!r} here or installed", _near_module(error.name)) from error
        raise _failed(place, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(place, error) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        remedy = guess(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        raise UsageError(f"{path}: expected a Python file, found {found}", remedy)
    _put_first(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: expected a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if known is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = known
        raise _failed(str(path), error) from error
    return module


def _failed(place: str, error: BaseException) -> CommandError:
    remedy = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        remedy = f"install {error.name!r} into {sys.prefix}"
    elif isinstance(error, SystemExit):
        remedy = 'put what only a script does under `if __name__ == "__main__":`'
    return CommandError(f"importing {place} failed: {describe(error)}", remedy)


def _attribute(module: ModuleType, place: str, path: str) -> Any:
    found: Any = module
    seen = place
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            public = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n, None))]
            raise UsageError(f"{seen} has no {name!r}", near(name, public)) from error
        seen = f"{seen}{':' if found is not module and seen == place else '.'}{name}"
    return found


def _put_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _near_module(name: str) -> str:
    """Modules that look like a name, from the current folder or installed; else those of its package or folder."""
    parent, _, last = name.rpartition(".")
    where = None
    if parent:
        where = list(getattr(sys.modules.get(parent), "__path__", []))
    installed = {item.name for item in pkgutil.iter_modules(where)}
    if parent:
        return near(last, installed)
    hint = guess(last, installed)
    if hint:
        return hint
    here = {item.name for item in pkgutil.iter_modules([str(Path.cwd())])}
    return near(last, here) or "run it in the folder of the module, or name the file: 'path/to/file.py:function'"
