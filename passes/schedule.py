"""Schedules as data: steps, traces, primitives and their replay.

A schedule is a `Trace`, a tuple of plain `Step`s. `replay` applies them in order to an unscheduled `LoopFunc` (the
workload), always from the root. A *primitive* is one function registered with `primitive`: it returns a new program or
refuses with a `ScheduleError` that says what was expected and what was found.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.loop import LoopFunc

SCHEDULE_VERSION = 2
"""What primitives mean; part of every tuning record's key."""

Arg = int | str


@dataclass(frozen=True, slots=True)
class Step:
    """One application of a primitive.

    Args:
        primitive: its registered name.
        target: name of the Block, loop or buffer it applies to.
        args: further arguments, integers and names.
    """

    primitive: str
    target: str
    args: tuple[Arg, ...] = ()

    def __str__(self) -> str:
        return f"{self.primitive}({', '.join([self.target, *map(str, self.args)])})"


Trace = tuple[Step, ...]


class ScheduleError(ValueError):
    """A primitive refused: the message says what was expected and what was found."""


class ReplayError(ScheduleError):
    """A step of a trace was refused.

    Args:
        index: which step, from 0.
        step: the step.
        reason: the primitive's message.
    """

    def __init__(self, index: int, step: Step, reason: str) -> None:
        super().__init__(f"step {index}, {step}: {reason}")
        self.index = index
        self.step = step
        self.reason = reason


PrimitiveFn = Callable[..., LoopFunc]
PRIMITIVES: dict[str, PrimitiveFn] = {}


def primitive(fn: PrimitiveFn) -> PrimitiveFn:
    """Register a loop rewrite under its function name; its signature is ``(func, target, *args) -> LoopFunc``."""
    PRIMITIVES[fn.__name__] = fn
    return fn


def primitives() -> Mapping[str, PrimitiveFn]:
    """Every primitive by name, whichever modules were imported before."""
    importlib.import_module(f"{__package__}.primitives")
    return PRIMITIVES


def apply_step(func: LoopFunc, step: Step) -> LoopFunc:
    """Apply one step.

    Raises:
        ScheduleError: the primitive does not exist, takes other arguments, or refuses.
    """
    fn = primitives().get(step.primitive)
    if fn is None:
        raise ScheduleError(f"expected one of the primitives {sorted(PRIMITIVES)}, found {step.primitive!r}")
    _check_arguments(step, _signature(fn))
    return fn(func, step.target, *step.args)


@functools.cache
def _signature(fn: PrimitiveFn) -> inspect.Signature:
    return inspect.signature(fn, eval_str=True)


def _check_arguments(step: Step, signature: inspect.Signature) -> None:
    """Number and types of the arguments, which may come from a file."""
    try:
        bound = signature.bind(None, step.target, *step.args)
    except TypeError as error:
        raise ScheduleError(f"wrong arguments for {step.primitive}: {error}") from None
    for name, given in list(bound.arguments.items())[1:]:
        wanted = signature.parameters[name].annotation
        for value in given if isinstance(given, tuple) else (given,):
            if type(value) is not wanted:
                raise ScheduleError(f"expected {name} of {step.primitive} to be {wanted.__name__}, found {value!r}")


def replay(func: LoopFunc, trace: Trace) -> LoopFunc:
    """Apply a trace to an unscheduled program.

    Raises:
        ReplayError: a step was refused; carries its index and the reason.
    """
    for index, step in enumerate(trace):
        try:
            func = apply_step(func, step)
        except ScheduleError as error:
            raise ReplayError(index, step, str(error)) from error
    return func


def trace_to_json(trace: Trace) -> str:
    """Canonical JSON text of a trace."""
    return json.dumps([[s.primitive, s.target, list(s.args)] for s in trace], separators=(",", ":"))


def trace_from_json(text: str) -> Trace:
    """Parse what `trace_to_json` wrote; nothing is executed and unknown primitives are only refused by `replay`.

    Raises:
        ScheduleError: the text is not a trace.
    """
    try:
        rows: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"expected a trace as JSON, found {text[:40]!r}: {error}") from None
    if not isinstance(rows, list):
        raise ScheduleError(f"expected a list of steps, found {type(rows).__name__}")
    return tuple(_step(row) for row in rows)


def _step(row: Any) -> Step:
    match row:
        case [str(name), str(target), list(args)] if all(type(a) in (int, str) for a in args):
            return Step(name, target, tuple(args))
    raise ScheduleError(f"expected [primitive, target, [integers and strings]], found {str(row)[:80]}")
