"""`compile`, and the callable it returns.

A `Compiled` is one `jax.jit` function. JAX runs its body only when it meets new shapes; the body traces the user's
function and binds the primitive `tilewright_call`, and that primitive's lowering calls `build` below, which makes the
faster graph. What a call costs, how arguments are donated, cached and checked is therefore exactly JAX's own.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import jax
from jax.core import ShapedArray, Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import mlir

from .artifact.writer import Signature, portable_graph, write_function
from .backends.calls import Arguments, Calls
from .backends.jax_call import call, prune
from .database.store import Database
from .driver.lowered import Lowered, lower
from .driver.options import Options, make_options
from .driver.outcome import Outcome
from .driver.pipeline import Driver, host, measured_host
from .driver.report import Report, make_report
from .driver.verdicts import allocator_mode
from .frontends.avals import type_of
from .frontends.jaxpr import to_graph
from .ir.graph import Graph
from .search.strategies import DEFAULT_STRATEGY
from .search.tune import TuneResult as Search

P = ParamSpec("P")
R = TypeVar("R")


@overload
def compile(
    fn: Callable[P, R],
    *,
    budget: str | int | None = ...,
    effort: int = ...,
    database: str | os.PathLike[str] | Database | None = ...,
    target: str = ...,
    static_argnums: int | Sequence[int] = ...,
    donate_argnums: int | Sequence[int] = ...,
    seed: int = ...,
    progress: bool = ...,
    strategy: str = ...,
) -> Compiled[P, R]: ...


@overload
def compile(
    fn: None = None,
    *,
    budget: str | int | None = ...,
    effort: int = ...,
    database: str | os.PathLike[str] | Database | None = ...,
    target: str = ...,
    static_argnums: int | Sequence[int] = ...,
    donate_argnums: int | Sequence[int] = ...,
    seed: int = ...,
    progress: bool = ...,
    strategy: str = ...,
) -> Callable[[Callable[P, R]], Compiled[P, R]]: ...


def compile(
    fn: Callable[..., Any] | None = None,
    *,
    budget: str | int | None = None,
    effort: int = 1,
    database: str | os.PathLike[str] | Database | None = None,
    target: str = "cpu",
    static_argnums: int | Sequence[int] = (),
    donate_argnums: int | Sequence[int] = (),
    seed: int = 0,
    progress: bool = False,
    strategy: str = DEFAULT_STRATEGY,
) -> Any:
    """Makes a function faster. Use it where you would use `jax.jit`, as a call or as a decorator.

    Args:
        fn: A function of arrays (or pytrees of arrays) that `jax.jit` accepts. Left out in `@compile(effort=2)`.
        budget: Limit on tuning for each new set of shapes: a time like `"60s"`, `"2m"` or `"1h"`, or a number of
            measured candidates. None leaves it to `effort`.
        effort: How hard to try, 0 (no measuring) to 3.
        database: A tuning database or its path or URL (`":memory:"` keeps nothing); None for the user's own.
        target: What to compile for: `"cpu"`.
        static_argnums: Positions of arguments that are compile-time constants, as in `jax.jit`.
        donate_argnums: Positions of arguments whose memory may be reused, as in `jax.jit`.
        seed: Seed of the search.
        progress: Whether to show progress while tuning.
        strategy: How candidates are searched, "mcts" or "evolutionary".

    Returns:
        A `Compiled` with the signature of `fn`, or a decorator that makes one.

    Raises:
        TypeError: `fn` can't be called, or an option has the wrong type.
        ValueError: An option has a value that is not allowed; the message says which are.
    """
    options = make_options(budget, effort, database, target, seed, progress, strategy)

    def wrap(function: Callable[P, R]) -> Compiled[P, R]:
        if not callable(function):
            raise TypeError(f"expected a function to compile, found {function!r} of type {type(function).__name__}")
        return Compiled(function, options, static_argnums, donate_argnums)

    return wrap if fn is None else wrap(fn)


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What tuning found.

    Attributes:
        report: What became of the function.
        search: Candidates, latencies and failures of each workload; None if nothing could be tuned.
    """

    report: Report
    search: Search | None

    def __str__(self) -> str:
        if self.search is None:
            return str(self.report)
        head = f"{self.search.trials} trials in {self.search.elapsed_s:.1f} s, ended by: {self.search.stopped}"
        return f"{head}\n{self.report}"


class _Call(property):
    """What Python calls in place of an object: no frame of ours is in between. Called itself, as a method would be."""

    def __call__(self, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.__get__(called)(*args, **kwargs)


class Compiled(Generic[P, R]):
    """A function that runs as the compiler decided; made by `compile`.

    Args:
        fn: The user's function.
        options: What was asked for.
        static_argnums: See `compile`.
        donate_argnums: See `compile`.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        options: Options,
        static_argnums: int | Sequence[int] = (),
        donate_argnums: int | Sequence[int] = (),
    ) -> None:
        functools.update_wrapper(self, fn)
        self.name = getattr(fn, "__name__", type(fn).__name__)
        self.options = options
        self._last: Outcome | None = None
        self._fn: Callable[..., Any] = fn
        self._static = _positions(static_argnums)
        self._static_names = _static_names(fn, self._static)

        @functools.wraps(fn)
        def traced(*args: Any, **kwargs: Any) -> Any:
            return self._trace(args, kwargs)

        donated = _positions(donate_argnums)
        may_recycle = allocator_mode() == "stock" and not donated and not self._static
        self._calls = Calls(traced, may_recycle, static_argnums=self._static, donate_argnums=donated)

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Calls the function, compiling it first for shapes not met before."""
            ...
    else:
        __call__ = _Call(
            operator.attrgetter("_calls.entry"),
            doc="Calls the function, compiling it first for shapes not met before.",
        )

    @property
    def _database(self) -> Database:
        return self.options.open_database()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Binds like a function, so that methods can be compiled."""
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<tilewright.Compiled of {self._fn!r}>"

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered:
        """Shows every stage for these arguments (arrays or `jax.ShapeDtypeStruct`) without running or measuring.

        Raises:
            UnsupportedProgram: the function uses something that graphs have no form for; it runs as plain JAX.
        """
        closed, _ = prune(self._make_jaxpr(args, kwargs)[0])
        return lower(to_graph(closed), Driver(self.options, self._database, host()))

    def tune(self, *args: P.args, **kwargs: P.kwargs) -> TuneResult:
        """Searches schedules for these arguments now, also where the database has a verdict already.

        Ctrl-C ends it with the best so far. Later calls with such arguments use what was found.

        Args:
            *args: Concrete arguments, as in a call.
            **kwargs: The same by name.

        Returns:
            What was found.

        Raises:
            UnsupportedProgram: the function uses something that graphs have no form for.
            ValueError: an argument is being traced, so there is nothing to measure.
        """
        leaves = jax.tree.leaves(self._dynamic(args, kwargs))
        if any(isinstance(value, Tracer) for value in leaves):
            raise ValueError(f"{self.name}.tune: expected concrete arguments, found values that are being traced")
        closed, kept = prune(self._make_jaxpr(args, kwargs)[0])
        options = replace(self.options, effort=max(self.options.effort, 1))
        driver = Driver(options, self._database, host())
        outcome = driver.run(to_graph(closed), [v for v, keep in zip(leaves, kept, strict=True) if keep], recall=False)
        self._last = outcome
        self._calls.forget()
        return TuneResult(self.report(), outcome.search)

    def save(self, path: str | os.PathLike[str], /, *args: P.args, **kwargs: P.kwargs) -> Path:
        """Writes what the function became for these arguments to a file for `tilewright.load`.

        Compiles first where that was not done yet, as a call would. Static arguments become part of what is saved and
        are left out when the loaded function is called; donation is not saved. The file is signed with a key of this
        user, made on first use: on this kind of machine this user's files load without compiling anything.

        Args:
            path: Where to; a file that is there is replaced.
            *args: Arguments as in a call, or `jax.ShapeDtypeStruct` (nothing new is tuned then).
            **kwargs: The same by name.

        Returns:
            The path.

        Raises:
            ArtifactError: the function is not pure or uses what exists in this process only (the message names the
                operation), or the file can't be written.
            ValueError: an argument is being traced.
        """
        arguments = self._dynamic(args, kwargs)
        leaves, structure = jax.tree.flatten((tuple(arguments[0]), arguments[1]))
        if any(isinstance(value, Tracer) for value in leaves):
            raise ValueError(f"{self.name}.save: expected arrays or their shapes, found values that are being traced")
        closed, shape = self._make_jaxpr(args, kwargs)
        pruned, kept = prune(closed)
        graph = portable_graph(pruned)
        examples = [value for value, keep in zip(leaves, kept, strict=True) if keep]
        concrete = not any(isinstance(value, jax.ShapeDtypeStruct) for value in examples)
        outcome = Driver(self.options, self._database, host()).run_safely(graph, examples if concrete else None)
        self._last = outcome
        signature = Signature(structure, closed.in_avals, kept, jax.tree.structure(shape), closed.out_avals)
        return write_function(path, self.name, signature, graph, outcome)

    def report(self) -> Report:
        """What became of the function for the shapes it was compiled for last.

        Raises:
            RuntimeError: the function was not compiled yet.
        """
        if self._last is None:
            raise RuntimeError(f"expected a call of {self.name} before its report: it is compiled when it is called")
        limits = measured_host() if self._last.latencies else None
        return make_report(self.name, self._last, limits)

    def build(self, graph: Graph, arguments: Sequence[int] | None) -> Graph:
        """What the lowering of `tilewright_call` asks for; see `backends.jax_call.Builder`."""
        made = None if arguments is None else self._calls.arguments()
        examples = None if arguments is None or made is None else self._examples(graph, arguments, made)
        outcome = Driver(self.options, self._database, host()).run_safely(graph, examples)
        self._last = outcome
        if arguments is not None and made is not None and examples is not None:
            self._calls.compiled(made, outcome.graph, arguments)
        return outcome.graph or graph

    def _make_jaxpr(self, args: Any, kwargs: Any) -> tuple[ClosedJaxpr, Any]:
        return jax.make_jaxpr(self._fn, static_argnums=self._static, return_shape=True)(*args, **kwargs)

    def _trace(self, args: Any, kwargs: Any) -> Any:
        """The body of the jitted function: runs only when JAX traces it."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return self._fn(*args, **kwargs)
        closed, shape = self._make_jaxpr(args, kwargs)
        leaves = jax.tree.leaves(self._dynamic(args, kwargs))
        structure = jax.tree.structure(shape)
        if mlir.lowerable_effects.filter_not_in(closed.effects):  # it uses references that can be written to
            return jax.tree.unflatten(structure, jaxpr_as_fun(closed)(*leaves))
        traced = [isinstance(value, Tracer) for value in closed.consts]
        closed, hoisted = _hoist(closed, traced)
        numbers = None if hoisted else tuple(range(len(leaves)))
        return jax.tree.unflatten(structure, call(closed, [*hoisted, *leaves], self, numbers))

    def _dynamic(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments that are not static."""
        static = {number % len(args) for number in self._static if -len(args) <= number < len(args)}
        dynamic = [arg for number, arg in enumerate(args) if number not in static]
        return dynamic, {name: value for name, value in kwargs.items() if name not in self._static_names}

    def _examples(self, graph: Graph, arguments: Sequence[int], made: Arguments) -> list[Any] | None:
        """The concrete arguments of the call that made JAX compile this graph; None if it was made with others."""
        leaves = jax.tree.leaves(self._dynamic(*made))
        if any(number >= len(leaves) for number in arguments):
            return None
        values = [leaves[number] for number in arguments]
        if any(isinstance(value, Tracer) for value in values):
            return None
        fits = all(_fits(value, type_) for value, type_ in zip(values, graph.inputs.values(), strict=True))
        return values if fits else None


def _fits(value: Any, type_: Any) -> bool:
    aval = jax.typeof(value)
    return _is_array(aval) and type_of(aval).same_data(type_)


def _is_array(aval: Any) -> bool:
    return isinstance(aval, ShapedArray)


def _hoist(closed: ClosedJaxpr, flags: list[bool]) -> tuple[ClosedJaxpr, list[Any]]:
    """Makes arguments, first in order, of the constants that are flagged."""
    jaxpr = closed.jaxpr
    if not any(flags):
        return closed, []
    pairs = list(zip(jaxpr.constvars, closed.consts, flags, strict=True))
    moved = [(var, value) for var, value, flag in pairs if flag]
    kept = [(var, value) for var, value, flag in pairs if not flag]
    changed = jaxpr.replace(
        constvars=[var for var, _ in kept],
        invars=[*(var for var, _ in moved), *jaxpr.invars],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return ClosedJaxpr(changed, [value for _, value in kept]), [value for _, value in moved]


def _positions(argnums: int | Sequence[int]) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def _static_names(fn: Callable[..., Any], positions: tuple[int, ...]) -> frozenset[str]:
    """Names of static positional arguments: JAX treats them as static also when passed by name."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return frozenset()
    named = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return frozenset(named[number] for number in positions if -len(named) <= number < len(named))
