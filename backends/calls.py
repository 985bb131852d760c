"""The way from the caller of a compiled function to the function that JAX jitted, and the arguments of a call.

JAX hands a function that it traces only the shapes of its arguments. Keeping a record of every call, or merely making
it through a Python function, costs up to half a microsecond each time. So the arguments of a call that makes JAX
compile are found in the frames of the interpreter, which nobody pays for but compiling.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple

import jax

from ..ir.graph import Graph
from .recycling import Recycler, Recycling, worth_recycling


class Arguments(NamedTuple):
    """Arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def same(self, other: Arguments) -> bool:
        """Whether another call has the very same objects as arguments."""
        if len(self.args) != len(other.args) or self.kwargs.keys() != other.kwargs.keys():
            return False
        by_name = ((value, other.kwargs[name]) for name, value in self.kwargs.items())
        return all(a is b for a, b in (*zip(self.args, other.args, strict=True), *by_name))


class Calls:
    """How calls of one function go.

    They go through a method of this class at first. Once JAX's own frames have shown the arguments of a call that made
    it compile, nothing stands between the caller and JAX's function, unless large results are recycled.

    Args:
        traced: what JAX traces.
        may_recycle: whether the function may recycle large results.
        **options: of `jax.jit`.

    Attributes:
        entry: what a call runs.
        jitted: JAX's function.
    """

    def __init__(self, traced: Callable[..., Any], may_recycle: bool, **options: Any) -> None:
        self.jitted: Any = jax.jit(traced, **options)
        self.entry: Callable[..., Any] = self._watched
        self._traced = traced
        self._may_recycle = may_recycle
        self._recycling: Recycling | None = None
        self._new: dict[int, tuple[Arguments, Recycler]] = {}  # for calls in progress, by thread
        self._compile_anew = False

    def arguments(self) -> Arguments | None:
        """Arguments of the call in progress that makes JAX compile; None if that is no call of this function."""
        found = compiled_by_jax()
        if found is None:
            return arguments_of(self, Calls._watched.__code__)
        function, call = found
        return call if function is self._traced else None

    def compiled(self, call: Arguments, program: Graph | None, numbers: Sequence[int]) -> None:
        """Decide how later calls go.

        Args:
            call: `arguments` of a call in progress.
            program: what was made of the function for it; None for the function as it is.
            numbers: for each of the program's inputs the number of the argument it is.
        """
        watched = arguments_of(self, Calls._watched.__code__)
        seen = watched is not None and watched.same(call)
        if program is not None and self._may_recycle and worth_recycling(program):
            if seen:
                self._new[threading.get_ident()] = call, Recycler(program, numbers)
            elif self._recycling is None:  # it is not known under which settings of JAX such calls are made
                self._compile_anew = True
            self._recycling = self._recycling or Recycling()
            self.entry = self._watched
        elif seen and self._recycling is None and compiled_by_jax() is not None:
            self.entry = self.jitted

    def forget(self) -> None:
        """Have everything compiled anew."""
        self._recycling, self._compile_anew = None, False
        self.entry = self._watched
        self.jitted.clear_cache()

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        """A call that may be the first one, or recycle its results."""
        if self._compile_anew:
            self._compile_anew = False
            self.jitted.clear_cache()
        recycler = None if self._recycling is None else self._recycling.find(args, kwargs)
        try:
            return self.jitted(*args, **kwargs) if recycler is None else recycler(args, kwargs, self.jitted)
        finally:
            if self._new:
                self._start_recycling(Arguments(args, kwargs))

    def _start_recycling(self, call: Arguments) -> None:
        """Let later calls like this one recycle their large results if this one was compiled just now."""
        compiled, recycler = self._new.pop(threading.get_ident(), (None, None))
        if compiled is not None and recycler is not None and self._recycling is not None and call.same(compiled):
            self._recycling.add(*call, recycler)


def arguments_of(owner: Any, code: CodeType) -> Arguments | None:
    """Arguments of a method's innermost call in this thread if it is a call of this object's, else None.

    Args:
        owner: the object.
        code: of the method, which takes `self, *args, **kwargs`.
    """
    found = _innermost(lambda frame: frame.f_code is code)
    return Arguments(found["args"], found["kwargs"]) if found and found["self"] is owner else None


def compiled_by_jax() -> tuple[Callable[..., Any], Arguments] | None:
    """Which function JAX compiles in this thread for which call, as its own frames show it; None where they do not.

    How these frames look is no public interface.
    """
    found = _innermost(lambda frame: frame.f_code.co_name == "cache_miss")
    if found is None or not {"fun", "args", "kwargs"} <= found.keys():
        return None
    return found["fun"], Arguments(found["args"], found["kwargs"])


def _innermost(wanted: Callable[[FrameType], bool]) -> dict[str, Any] | None:
    """Local variables of the innermost frame of a kind."""
    frame = inspect.currentframe()
    while frame is not None and not wanted(frame):
        frame = frame.f_back
    return None if frame is None else dict(frame.f_locals)
