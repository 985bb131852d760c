"""A graph as a jaxpr again: how everything that no native kernel covers reaches XLA.

Equations are built directly, not traced again, so that collectives, mesh axes, effects and weak types stay exactly as
they were. Native code enters as an operation `tilewright_plan` whose reference is a `NativeCall`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import (
    ClosedJaxpr,
    DebugInfo,
    Jaxpr,
    JaxprEqn,
    Literal,
    Primitive,
    Var,
    jaxpr_as_fun,
    new_jaxpr_eqn,
    no_effects,
)

from ..frontends.avals import aval_of, is_extended
from ..frontends.jaxpr import JaxOp
from ..frontends.primitives import decode, primitive
from ..frontends.random_words import THREEFRY
from ..frontends.scan_params import scan_params
from ..ir.graph import Graph, GraphError, Op, TensorType
from ..passes.promote import promote

PLAN = "tilewright_plan"
"""Opcode of an operation that is a native call."""


@runtime_checkable
class NativeCall(Protocol):
    """What the reference of a `tilewright_plan` operation must offer."""

    def bind(self, *operands: Any) -> Sequence[Any]:
        """Calls the native code on JAX values (possibly traced) and returns its results, in order."""
        ...


def emit(graph: Graph) -> ClosedJaxpr:
    """The jaxpr of a graph, with the same inputs and outputs in the same order.

    Args:
        graph: A valid graph. Its values get the types it declares, in the mesh that is current.

    Raises:
        GraphError: an operation is neither known to JAX nor carries a reference that says how to run it.
    """
    env: dict[int, Any] = {}
    consts: list[tuple[Var, Any]] = []
    for value, constant in graph.constants.items():
        aval = aval_of(constant.type)
        if constant.portable and not constant.type.shape:
            env[value] = Literal(constant.value[()], aval)
        else:
            env[value] = Var(aval)
            consts.append((env[value], constant.value))
    invars = [Var(aval_of(type_)) for type_ in graph.inputs.values()]
    env.update(zip(graph.inputs, invars, strict=True))
    eqns: list[JaxprEqn] = []
    for op in graph.ops:
        operands = [env[value] for value in op.operands]
        if op.opcode == PLAN and isinstance(op.ref, NativeCall):
            env.update(_inline_native(op, operands, eqns, consts))
            continue
        results = [Var(aval_of(type_)) for type_ in op.types]
        env.update(zip(op.results, results, strict=True))
        eqns += _random_words(op, operands, results) if op.opcode == THREEFRY else [_equation(op, operands, results)]
    effects = {effect for eqn in eqns for effect in eqn.effects} or no_effects
    outvars = [env[value] for value in graph.outputs]
    debug = DebugInfo("tilewright", "emit", tuple(f"x{i}" for i in range(len(invars))), ("",) * len(outvars))
    jaxpr = Jaxpr([var for var, _ in consts], invars, outvars, eqns, effects, debug)
    return ClosedJaxpr(jaxpr, [value for _, value in consts])


def emit_float64(graph: Graph) -> Callable[..., list[np.ndarray]]:
    """The accuracy reference: the same program with floating point numbers of 64 bits.

    Args:
        graph: The program. Opaque operations (control flow, random numbers, callbacks) keep their precision.

    Returns:
        A function of the graph's inputs (what `jax.jit` takes for the declared types) that returns its outputs as NumPy
        arrays, floating point ones as float64; keys of random numbers stay what they are.
    """
    wide = promote(graph)

    def run(*arguments: Any) -> list[np.ndarray]:
        # Numbers and wider arrays take the declared types here: where 64 bits are enabled, they would keep theirs.
        given = [value if isinstance(value, jax.Array) else jnp.asarray(value) for value in arguments]
        with jax.enable_x64(True):
            results = jax.jit(jaxpr_as_fun(emit(wide)))(*given)
            return [result if is_extended(result.dtype) else np.asarray(result) for result in results]

    return run


def _equation(op: Op, operands: list[Any], results: list[Var]) -> JaxprEqn:
    if isinstance(op.ref, JaxOp):
        ref = op.ref
        return new_jaxpr_eqn(operands, results, ref.primitive, ref.params, ref.effects, ctx=ref.ctx)
    if op.body is not None:
        return new_jaxpr_eqn(operands, results, jax.lax.scan_p, scan_params(op.params, emit(op.body)), no_effects)
    return new_jaxpr_eqn(operands, results, _primitive(op), decode(op.opcode, op.params), no_effects)


def _random_words(op: Op, operands: list[Any], results: list[Var]) -> list[JaxprEqn]:
    """Both words of the counters (0, i), and their exclusive or."""
    key, counter = operands[:2], operands[2]
    high, first, second = (Var(results[0].aval) for _ in range(3))
    spread = {"shape": op.type.shape, "broadcast_dimensions": (), "sharding": None}
    zero = Literal(np.uint32(0), aval_of(TensorType((), "uint32")))
    return [
        new_jaxpr_eqn([zero], [high], primitive("broadcast_in_dim"), spread, no_effects),
        new_jaxpr_eqn([*key, high, counter], [first, second], primitive("threefry2x32"), {}, no_effects),
        new_jaxpr_eqn([first, second], results, primitive("xor"), {}, no_effects),
    ]


def _primitive(op: Op) -> Primitive:
    if op.ref is None:
        try:
            return primitive(op.opcode)
        except KeyError:
            pass
    raise GraphError(f"{op.opcode} is no JAX primitive and has no reference that XLA can run")


def _inline_native(op: Op, operands: list[Any], eqns: list[JaxprEqn], consts: list[tuple[Var, Any]]) -> dict[int, Any]:
    """Appends the equations that a native call traces to; returns what stands for its results."""
    shapes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in operands]
    closed = jax.make_jaxpr(lambda *args: tuple(op.ref.bind(*args)))(*shapes)
    found = [(tuple(aval.shape), str(aval.dtype)) for aval in closed.out_avals]
    wanted = [(type_.shape, type_.dtype) for type_ in op.types]
    if found != wanted:
        raise GraphError(f"native call returns {found}, the graph declares {wanted}")
    env: dict[Any, Any] = dict(zip(closed.jaxpr.invars, operands, strict=True))
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        env[var] = Var(var.aval)
        consts.append((env[var], value))
    declared: dict[Any, TensorType] = dict(zip(closed.jaxpr.outvars, op.types, strict=True))

    def read(atom: Any) -> Any:
        return atom if isinstance(atom, Literal) else env[atom]

    for eqn in closed.jaxpr.eqns:
        results = [Var(aval_of(declared[var])) if var in declared else Var(var.aval) for var in eqn.outvars]
        eqns.append(eqn.replace(invars=[read(atom) for atom in eqn.invars], outvars=results))
        env.update(zip(eqn.outvars, results, strict=True))
    return {value: read(atom) for value, atom in zip(op.results, closed.jaxpr.outvars, strict=True)}
