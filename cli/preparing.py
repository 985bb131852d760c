"""From what was typed to a compiled function and its arguments: what `compile`, `tune` and `explain` begin with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import CommandError, UsageError, describe
from .functions import find_function
from .inputs import Arguments, ArrayType, gather, parse_inputs
from .output import counted

if TYPE_CHECKING:
    from ..compiler import Compiled

_WIDE = {"float64": "f32", "int64": "i32", "uint64": "u32", "complex128": "c64"}
"""64-bit types, and what JAX makes of them unless it is told not to."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A function and what it is called with.

    Args:
        function: as it was written.
        compiled: it with the options that were asked for.
        arguments: of the call.
    """

    function: Callable[..., Any]
    compiled: Compiled[..., Any]
    arguments: Arguments

    def shapes(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments without values, as `jax.ShapeDtypeStruct`."""
        return _shapes(self.arguments)

    def values(self, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with values: those of files, random ones for the others.

        Raises:
            UsageError: they don't fit into memory.
        """
        import jax
        import numpy as np

        from .arrays import random_array

        rng = np.random.default_rng(seed)

        def value(item: Any) -> Any:
            return jax.numpy.asarray(random_array(item, rng) if isinstance(item, ArrayType) else item)

        arguments = self.arguments
        return tuple(map(value, arguments.args)), {name: value(item) for name, item in arguments.kwargs.items()}


def prepare(name: str, inputs: Sequence[str] | None, call: bool, options: Mapping[str, Any]) -> Subject:
    """Finds the function, reads the inputs, and sees that they go together.

    Args:
        name: MODULE:FUNCTION.
        inputs: One text per argument.
        call: Whether the name is that of a factory.
        options: Arguments of `tilewright.compile` that were typed; None stands for the function's own or the default.

    Raises:
        UsageError: something that was typed is not right.
        CommandError: the user's code failed.
    """
    parsed = parse_inputs(inputs or ())
    found = find_function(name, call)
    arguments = gather(parsed)
    function, compiled = _compiled(found, {key: value for key, value in options.items() if value is not None})
    _check_width(arguments)
    _check_signature(name, function, arguments)
    _check_trace(name, function, arguments)
    return Subject(function, compiled, arguments)


def typed_budget(text: str | None) -> str | int | None:
    """A budget as `tilewright.compile` takes it: a whole number is one of trials."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else text


def _compiled(found: Callable[..., Any], given: Mapping[str, Any]) -> tuple[Callable[..., Any], Compiled[..., Any]]:
    """The plain function, and it with the given options; one that is compiled already keeps its own otherwise."""
    from .. import compiler

    known = found if isinstance(found, compiler.Compiled) else None
    function: Callable[..., Any] = vars(known)["__wrapped__"] if known else found
    try:
        made = compiler.compile(function, **given)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--{error}") from error
    if known is None:
        return function, made
    changed = {name: getattr(made.options, name) for name in given}
    return function, compiler.Compiled(function, replace(known.options, **changed))


def _check_width(arguments: Arguments) -> None:
    import jax

    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return
    for item in (*arguments.args, *arguments.kwargs.values()):
        if isinstance(item, ArrayType) and item.dtype in _WIDE:
            remedy = f"set JAX_ENABLE_X64=1 in the environment, or ask for {_WIDE[item.dtype]}"
            raise UsageError(f"--input {item}: JAX is set to 32 bits", remedy)


def _check_signature(name: str, function: Callable[..., Any], arguments: Arguments) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments.args, **arguments.kwargs)
    except TypeError as error:
        count = len(arguments.types())
        found = counted(count, "input") if count else "no --input"
        remedy = "give one --input per argument, or name a function that takes arrays only"
        raise UsageError(f"{name} takes {signature}, found {found}: {error}", remedy) from error


def _check_trace(name: str, function: Callable[..., Any], arguments: Arguments) -> None:
    """Tells a mistake in the user's function or inputs from one of ours."""
    import jax

    args, kwargs = _shapes(arguments)
    try:
        jax.eval_shape(function, *args, **kwargs)
    except Exception as error:
        remedy = "see whether the types and shapes of --input are what it expects"
        raise CommandError(f"{name} can't be traced with {arguments}: {describe(error)}", remedy) from error


def _shapes(arguments: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import jax

    def shape(item: Any) -> Any:
        if isinstance(item, ArrayType):
            return jax.ShapeDtypeStruct(item.shape, jax.numpy.dtype(item.dtype))
        return jax.eval_shape(jax.numpy.asarray, item)

    return tuple(map(shape, arguments.args)), {name: shape(item) for name, item in arguments.kwargs.items()}
