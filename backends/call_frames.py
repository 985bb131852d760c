"""The arguments of a call that makes JAX compile a function, found in the frames of the interpreter.

JAX hands a function that it traces only the shapes of its arguments. Keeping a record of every call, or merely making
it through a Python function, costs up to half a microsecond each time; frames are looked at by compiling alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple


class Arguments(NamedTuple):
    """Arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def same(self, other: Arguments | None) -> bool:
        """Whether another call has the very same objects as arguments."""
        if other is None or len(self.args) != len(other.args) or self.kwargs.keys() != other.kwargs.keys():
            return False
        by_name = ((value, other.kwargs[name]) for name, value in self.kwargs.items())
        return all(a is b for a, b in (*zip(self.args, other.args, strict=True), *by_name))


def arguments_of(owner: Any, code: CodeType) -> Arguments | None:
    """Arguments of a method's innermost call in this thread if it is a call of this object's, else None.

    Args:
        owner: the object.
        code: of the method, which takes `self, *args, **kwargs`.
    """
    found = _innermost(lambda frame: frame.f_code is code)
    return Arguments(found["args"], found["kwargs"]) if found and found["self"] is owner else None


def arguments_shown_by_jax(function: Callable[..., Any]) -> Arguments | None:
    """The same for a function given to `jax.jit`, as JAX's own frames show them; None where they do not.

    What these frames look like is no public interface: compare with `arguments_of` before relying on it.

    Args:
        function: what was jitted.
    """
    found = _innermost(lambda frame: frame.f_code.co_name == "cache_miss" and "fun" in frame.f_locals)
    if not found or found["fun"] is not function or not {"args", "kwargs"} <= found.keys():
        return None
    return Arguments(found["args"], found["kwargs"])


def _innermost(wanted: Callable[[FrameType], bool]) -> dict[str, Any] | None:
    """Local variables of the innermost frame of a kind."""
    frame = inspect.currentframe()
    while frame is not None and not wanted(frame):
        frame = frame.f_back
    return None if frame is None else dict(frame.f_locals)
