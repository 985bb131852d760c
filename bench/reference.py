"""A float64 reference for a float32 function, and the accuracy contract that is checked against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.extend import core

from ..frontends.scan_params import plain_scan

_WIDE = np.dtype(np.float64)
_WIDENED = {
    np.dtype(np.float32): _WIDE,
    np.dtype(np.float16): _WIDE,
    np.dtype(ml_dtypes.bfloat16): _WIDE,
    np.dtype(np.complex64): np.dtype(np.complex128),
}
# Primitives that only wrap a program: where in their parameters it stands.
_INLINED = {
    "jit": "jaxpr",
    "remat2": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of one output against float64.

    Attributes:
        candidate: Largest error of the candidate.
        baseline: Largest error of `jax.jit`.
        scale: Largest magnitude of the float64 output.
        epsilon: Spacing of the output's dtype at 1; 0 where equality is demanded.
    """

    candidate: float
    baseline: float
    scale: float
    epsilon: float

    @property
    def limit(self) -> float:
        """Largest error the contract allows the candidate."""
        return 2.0 * self.baseline + 16.0 * self.epsilon * self.scale

    @property
    def holds(self) -> bool:
        """Whether the contract holds; an error that is no number breaks it."""
        return self.candidate <= self.limit


def reference(fn: Callable[..., Any], args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evaluate a function with every narrower float widened to float64: constants, arguments, intermediate results.

    Args:
        fn: Traceable function of arrays.
        args: Its arguments; they are exact in float64, so the difference to `fn(*args)` is rounding alone.

    Returns:
        The flattened outputs in float64 (integers and booleans as they are).

    Raises:
        NotImplementedError: The function holds a primitive with an inner program that is no loop and no branch.
    """
    closed = jax.make_jaxpr(fn)(*args)
    with jax.enable_x64(True):
        constants = [_widen(value) for value in closed.consts]
        run = jax.jit(lambda constants, args: _evaluate(closed.jaxpr, constants, args))
        return [np.asarray(value) for value in run(constants, [_widen(value) for value in args])]


def compare(candidate: Any, baseline: Any, exact: Sequence[np.ndarray]) -> list[Accuracy]:
    """Errors per output of a candidate and of `jax.jit`.

    Args:
        candidate: The candidate's outputs, any tree of arrays.
        baseline: The outputs of `jax.jit`.
        exact: Flat float64 outputs of `reference`.

    Raises:
        ValueError: The candidate's outputs differ from the baseline's in structure, shape or dtype.
    """
    if jax.tree.structure(candidate) != jax.tree.structure(baseline):
        raise ValueError(f"expected outputs {jax.tree.structure(baseline)}, found {jax.tree.structure(candidate)}")
    found = []
    for ours, theirs, truth in zip(jax.tree.leaves(candidate), jax.tree.leaves(baseline), exact, strict=True):
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            raise ValueError(f"expected {theirs.dtype}{theirs.shape}, found {ours.dtype}{ours.shape}")
        floating = jnp.issubdtype(theirs.dtype, np.floating)
        found.append(
            Accuracy(
                candidate=_largest_error(ours, truth),
                baseline=_largest_error(theirs, truth) if floating else 0.0,
                scale=float(np.abs(truth.astype(_WIDE)).max(initial=0.0)),
                epsilon=float(jnp.finfo(theirs.dtype).eps) if floating else 0.0,
            )
        )
    return found


def _largest_error(found: Any, truth: np.ndarray) -> float:
    difference = np.asarray(found).astype(_WIDE) - truth.astype(_WIDE)
    return float(np.abs(difference).max(initial=0.0))


def _widen(value: Any) -> Any:
    array = np.asarray(value)
    return array.astype(_WIDENED[array.dtype]) if array.dtype in _WIDENED else value


def _widen_parameter(value: Any) -> Any:
    """A primitive's parameter with the dtype it names widened (`new_dtype`, `preferred_element_type`, ...)."""
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return _WIDENED.get(np.dtype(value), value) if is_dtype else value


def _evaluate(program: core.Jaxpr, constants: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[core.Var, Any] = dict(zip(program.constvars, constants, strict=True))
    values.update(zip(program.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return _widen(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for equation in program.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = _apply(equation, operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def _apply(equation: core.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    primitive = equation.primitive
    if primitive.name in _INLINED:
        return _call(equation.params[_INLINED[primitive.name]], operands)
    if primitive.name in _CONTROL_FLOW:
        return _CONTROL_FLOW[primitive.name](equation.params, operands)
    if any(isinstance(value, core.Jaxpr | core.ClosedJaxpr) for value in equation.params.values()):
        raise NotImplementedError(f"expected loops and branches at most, found {primitive.name!r}: no float64 form")
    parameters = {key: _widen_parameter(value) for key, value in equation.params.items()}
    results = primitive.bind(*operands, **parameters)
    return results if primitive.multiple_results else [results]


def _call(program: core.Jaxpr | core.ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
    if isinstance(program, core.ClosedJaxpr):
        return _evaluate(program.jaxpr, [_widen(value) for value in program.consts], operands)
    return _evaluate(program, [], operands)


def _scan(parameters: Mapping[str, Any], operands: list[Any]) -> Sequence[Any]:
    numbers = plain_scan(parameters)
    if numbers is None:
        raise ValueError(f"expected a loop with known parameters, found {sorted(parameters)}")
    fixed, carried = numbers["num_consts"], numbers["num_carry"]
    constants, carry, rows = operands[:fixed], operands[fixed : fixed + carried], operands[fixed + carried :]

    def body(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        found = _call(parameters["jaxpr"], [*constants, *carry, *row])
        return found[:carried], found[carried:]

    last, stacked = lax.scan(body, carry, rows, parameters["length"], parameters["reverse"])
    return [*last, *stacked]


def _while(parameters: Mapping[str, Any], operands: list[Any]) -> Sequence[Any]:
    first, second = parameters["cond_nconsts"], parameters["cond_nconsts"] + parameters["body_nconsts"]
    asked, used, carry = operands[:first], operands[first:second], operands[second:]
    return lax.while_loop(
        lambda state: _call(parameters["cond_jaxpr"], [*asked, *state])[0],
        lambda state: _call(parameters["body_jaxpr"], [*used, *state]),
        carry,
    )


def _branch(parameters: Mapping[str, Any], operands: list[Any]) -> Sequence[Any]:
    branches = [lambda *args, program=program: _call(program, args) for program in parameters["branches"]]
    return lax.switch(operands[0], branches, *operands[1:])


_CONTROL_FLOW = {"scan": _scan, "while": _while, "cond": _branch}
