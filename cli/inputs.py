"""The grammar of `--input`: what an argument of a function is.

    input = [name "="] (dtype "[" [size {"," size}] "]" | "@" path)

`f32[1,224,224,3]` is an array of random values, `i32[]` a scalar, `x=f32[8]` a keyword argument. `@x.npy` is the array
of a file. `@x.npz` stands for all arrays of a file: `arr_0`, `arr_1`, ... (what `numpy.savez(path, a, b)` writes) are
positional arguments, other names keyword arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from .errors import UsageError, near

if TYPE_CHECKING:
    import numpy as np

_EXAMPLES = "write it like 'f32[1,224,224,3]', 'i32[]', 'name=f32[8]' or '@values.npz'"
_INPUT = re.compile(r"\s*(?:(?P<name>[^=@\[]*)=)?\s*(?P<value>.*?)\s*", re.DOTALL)
_ARRAY = re.compile(r"(?P<dtype>\w+)\s*\[(?P<sizes>[^\[\]]*)\]")
_POSITIONAL = re.compile(r"arr_(\d+)")
_DTYPE_NAMES = (*dtypes.FLOATS, *dtypes.INTEGERS, *dtypes.COMPLEX, dtypes.BOOL)


def _short(name: str) -> str:
    kind = name.rstrip("0123456789")
    bits = name.removeprefix(kind)
    if not bits:
        return name
    return f"{'bf' if kind == 'bfloat' else kind[0]}{bits}"


SHORT_NAMES = {name: _short(name) for name in _DTYPE_NAMES}
"""What element types are called for short."""
DTYPES = {short: name for name, short in SHORT_NAMES.items()} | {name: name for name in _DTYPE_NAMES}
"""Element types by what they may be called: NumPy's names and short ones."""


@dataclass(frozen=True, slots=True)
class ArrayType:
    """Element type and shape of an argument whose values don't matter."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{SHORT_NAMES.get(self.dtype, self.dtype)}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Input:
    """One `--input`.

    Args:
        name: of the argument if it is passed by name, else None.
        what: its type, or a file with values.
    """

    name: str | None
    what: ArrayType | Path


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a function is called with; arrays stand for their values, types for values to be drawn."""

    args: tuple[ArrayType | np.ndarray, ...]
    kwargs: dict[str, ArrayType | np.ndarray]

    def __str__(self) -> str:
        named = [f"{name}={type_of(value)}" for name, value in self.kwargs.items()]
        return f"({', '.join([*(str(type_of(value)) for value in self.args), *named])})"

    def types(self) -> list[ArrayType]:
        """The type of every argument, those by name last."""
        return [type_of(value) for value in (*self.args, *self.kwargs.values())]


def type_of(value: Any) -> ArrayType:
    """The type of an argument or array."""
    return value if isinstance(value, ArrayType) else ArrayType(str(value.dtype), tuple(value.shape))


def parse_input(text: str) -> Input:
    """Reads one `--input`.

    Raises:
        UsageError: it does not follow the grammar.
    """
    match = _INPUT.fullmatch(text)
    name, value = (match["name"], match["value"]) if match else (None, text)
    if name is not None:
        name = name.strip()
        if not name.isidentifier():
            raise UsageError(f"--input {text!r}: expected an argument's name before '=', found {name!r}", _EXAMPLES)
    if value.startswith("@"):
        if len(value) == 1:
            raise UsageError(f"--input {text!r}: expected a path after '@', found nothing", _EXAMPLES)
        return Input(name, Path(value[1:]))
    return Input(name, _array_type(text, value))


def _array_type(text: str, value: str) -> ArrayType:
    match = _ARRAY.fullmatch(value)
    if match is None:
        remedy = f"a scalar is '{value}[]'" if value in DTYPES else _EXAMPLES
        raise UsageError(f"--input {text!r}: expected an element type and a shape, found {value!r}", remedy)
    if match["dtype"] not in DTYPES:
        message = f"--input {text!r}: expected an element type, found {match['dtype']!r}"
        raise UsageError(message, near(match["dtype"], SHORT_NAMES.values()))
    sizes = [size.strip() for size in match["sizes"].split(",")] if match["sizes"].strip() else []
    for size in sizes:
        if not (size.isascii() and size.isdecimal()):
            raise UsageError(f"--input {text!r}: expected whole numbers >= 0 as sizes, found {size!r}", _EXAMPLES)
    return ArrayType(DTYPES[match["dtype"]], tuple(map(int, sizes)))


def parse_inputs(texts: Sequence[str]) -> list[Input]:
    """Reads every `--input`.

    Raises:
        UsageError: one does not follow the grammar, or a name occurs twice.
    """
    inputs = [parse_input(text) for text in texts]
    names = [item.name for item in inputs if item.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--input {name}=...: expected each argument once, found it twice", "leave one out")
    return inputs


def gather(inputs: Sequence[Input]) -> Arguments:
    """Reads the files among the inputs.

    Raises:
        UsageError: a file can't be read, does not fit where it is used, or gives an argument a second time.
    """
    args: list[ArrayType | np.ndarray] = []
    kwargs: dict[str, ArrayType | np.ndarray] = {}
    for item in inputs:
        if isinstance(item.what, ArrayType):
            named, values = ({item.name: item.what}, []) if item.name else ({}, [item.what])
        else:
            named, values = _from_file(item.name, item.what)
        for name, value in named.items():
            if name in kwargs:
                raise UsageError(f"--input gives the argument {name!r} more than once", "leave one out")
            kwargs[name] = value
        args += values
    return Arguments(tuple(args), kwargs)


def _from_file(name: str | None, path: Path) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Arguments by name and by position of a file."""
    from .arrays import read_arrays

    found = read_arrays(path)
    if name is not None:
        if len(found) != 1:
            listed = ", ".join(found)
            raise UsageError(f"--input {name}=@{path}: expected one array, found {len(found)}: {listed}")
        return {name: next(iter(found.values()))}, []
    numbers = {int(match[1]): key for key in found if (match := _POSITIONAL.fullmatch(key))}
    if sorted(numbers) != list(range(len(numbers))):
        raise UsageError(f"--input @{path}: expected arr_0, arr_1, ... without a gap, found {', '.join(found)}")
    named = {key: value for key, value in found.items() if key not in numbers.values()}
    return named, [found[numbers[number]] for number in range(len(numbers))]
