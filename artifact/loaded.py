"""The callable that a file becomes.

It binds a primitive of its own, `tilewright_loaded`, whose lowering is the stored program: it can be used inside
`jax.jit` like any other function, and what it can't do (derivatives, `vmap`) is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
from jax.extend.core import ClosedJaxpr, Primitive
from jax.interpreters import ad, batching, mlir

from ..frontends.avals import aval_of
from ..ir.graph import TensorType
from .manifest import Manifest, type_of_text
from .trees import leaf_names


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What a loaded function runs; compared by identity, so that it can be a parameter of the primitive.

    Args:
        name: the function.
        jaxpr: the program, from the arguments that it uses to the leaves of its result.
        results: types of these leaves.
    """

    name: str
    jaxpr: ClosedJaxpr
    results: tuple[TensorType, ...]


tilewright_loaded_p = Primitive("tilewright_loaded")
tilewright_loaded_p.multiple_results = True


@tilewright_loaded_p.def_impl
def _impl(*operands: Any, program: Program) -> Any:
    with jax.disable_jit(False):
        return jax.jit(lambda *values: tilewright_loaded_p.bind(*values, program=program))(*operands)


@tilewright_loaded_p.def_abstract_eval
def _abstract_eval(*_: Any, program: Program) -> Any:
    return [aval_of(type_) for type_ in program.results]


def _lower(ctx: Any, *operands: Any, program: Program) -> Any:
    return mlir.core_call_lowering(ctx, *operands, name=program.name, call_jaxpr=program.jaxpr)


def _no_derivative(*_: Any, program: Program, **__: Any) -> NoReturn:
    raise NotImplementedError(
        f"{program.name} was loaded from a file and has no derivatives: differentiate the original function, or save "
        "its gradient as a function of its own"
    )


def _no_batching(*_: Any, program: Program, **__: Any) -> NoReturn:
    raise NotImplementedError(
        f"{program.name} was loaded from a file and has fixed shapes: save jax.vmap of the original function, "
        "or use jax.lax.map"
    )


ad.primitive_jvps[tilewright_loaded_p] = _no_derivative
ad.primitive_transposes[tilewright_loaded_p] = _no_derivative
batching.primitive_batchers[tilewright_loaded_p] = _no_batching
mlir.register_lowering(tilewright_loaded_p, _lower, platform="cpu")


class Loaded:
    """A function out of a file; made by `tilewright.load`. Call it like the original, without its static arguments.

    Attributes:
        manifest: What the file says about itself.
        status: How it runs and why: `native`, `rebuilt from traces: ...` or `plain JAX: ...`.
        inputs: The arguments it takes, as `(args, kwargs)` of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, program: Program, manifest: Manifest, inputs: Any, outputs: Any, status: str) -> None:
        self.__name__ = program.name
        self.manifest = manifest
        self.status = status
        self._program = program
        self._structure = inputs
        self._outputs = outputs
        self._types = [type_of_text(argument.type) for argument in manifest.arguments]
        self._used = [argument.used for argument in manifest.arguments]
        shapes = [jax.ShapeDtypeStruct(t.shape, aval_of(t).dtype, weak_type=t.weak_type) for t in self._types]
        self.inputs = jax.tree.unflatten(inputs, shapes)
        # The body runs, and checks the arguments, only for types that JAX has not met before: a call costs what
        # `jax.jit` costs.
        self._jitted: Any = jax.jit(self._named())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            TypeError: an argument has another structure, shape or element type than when the function was saved; the
                message names it.
        """
        try:
            return self._jitted(*args, **kwargs)
        except TypeError:
            self._check(args, kwargs)  # what is no array never gets to the body
            raise

    def __repr__(self) -> str:
        return f"<tilewright.Loaded {self.__name__}: {self.status}>"

    def _named(self) -> Any:
        """The body under the function's name, which profiles show."""

        def traced(*args: Any, **kwargs: Any) -> Any:
            return self._trace(args, kwargs)

        traced.__name__ = traced.__qualname__ = self.__name__
        return traced

    def _trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._check(args, kwargs)
        leaves = jax.tree.leaves((args, kwargs))
        operands = [
            jax.numpy.asarray(leaf, aval_of(type_).dtype)
            for leaf, type_, used in zip(leaves, self._types, self._used, strict=True)
            if used
        ]
        return jax.tree.unflatten(self._outputs, tilewright_loaded_p.bind(*operands, program=self._program))

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for complaint in self._complaints(args, kwargs):
            raise TypeError(f"{self.__name__}: {complaint}") from None

    def _complaints(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
        found = jax.tree.structure((args, kwargs))
        if found != self._structure:
            wanted = (len(self.inputs[0]), sorted(self.inputs[1]))
            if wanted != (len(args), sorted(kwargs)):
                yield f"expected {_call_text(*wanted)}, found {_call_text(len(args), sorted(kwargs))}"
            for name, leaf, expected in _parts(self.inputs, (args, kwargs)):
                if jax.tree.structure(leaf) != jax.tree.structure(expected):
                    yield f"{name}: expected {_tree_text(expected)}, found {_tree_text(leaf)}"
            yield f"expected arguments of the structure {self._structure}, found {found}"
        leaves = jax.tree.leaves((args, kwargs))
        for name, leaf, type_ in zip(leaf_names(self._structure), leaves, self._types, strict=True):
            try:
                aval = jax.typeof(leaf)
                mine = f"{aval.dtype.name}[{','.join(map(str, aval.shape))}]"
            except (TypeError, AttributeError):
                mine = f"{type(leaf).__name__} {str(leaf)[:40]!r}"
            expected = str(TensorType(type_.shape, type_.dtype))
            if mine != expected:
                yield f"{name}: expected {expected}, found {mine}"


def _parts(inputs: Any, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and expectation of each argument of a call with the right number and names of them."""
    args, kwargs = call
    for number, (value, expected) in enumerate(zip(args, inputs[0], strict=True)):
        yield f"argument {number}", value, expected
    for name, expected in inputs[1].items():
        yield f"argument {name}", kwargs[name], expected


def _call_text(positional: int, names: list[str]) -> str:
    text = f"{positional} positional argument{'' if positional == 1 else 's'}"
    return f"{text} and {', '.join(names)} by name" if names else text


def _tree_text(value: Any) -> str:
    return str(jax.tree.structure(value)).removeprefix("PyTreeDef(").removesuffix(")")[:200]
