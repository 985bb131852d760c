"""A closed jaxpr as a graph: calls inlined, constants shared, what is not understood kept as opaque operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var, new_jaxpr_eqn, no_effects

from ..ir import dtypes
from ..ir.graph import Graph, GraphBuilder, Op, TensorType
from ..ir.scan import SCAN
from .avals import UnsupportedProgram, is_extended, type_of
from .primitives import encode
from .random_words import add_words, is_plain_draw
from .scan_params import plain_scan

# Calls that are inlined, with the parameter that holds the callee. Custom derivatives may go because differentiation
# happens above this level.
_CALLS = {
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "tilewright_call": "jaxpr",
}
_JIT = ("jit", "pjit")
_WRAP = "random_wrap"
_REMAT = ("remat", "remat2", "checkpoint")


@dataclass(frozen=True, slots=True, eq=False)
class JaxOp:
    """What an opaque operation refers to: one equation without its variables.

    Attributes:
        primitive: The JAX primitive.
        params: Its parameters as JAX has them.
        effects: Its effects as JAX has them.
        ctx: The context (compute type, mesh, ...) it was traced in.
    """

    primitive: Primitive
    params: dict[str, Any]
    effects: Any
    ctx: Any


def to_graph(closed: ClosedJaxpr) -> Graph:
    """The graph of a closed jaxpr.

    Args:
        closed: What `jax.make_jaxpr` gives; its constants must be concrete.

    Returns:
        A graph with the same inputs and outputs in the same order.

    Raises:
        UnsupportedProgram: a value is no array, or sharded, or lives elsewhere; run such a program as plain JAX.
    """
    reader = _Reader()
    arguments = [reader.builder.input(type_of(var.aval)) for var in closed.jaxpr.invars]
    constants = [
        reader.constant(value, var.aval) for value, var in zip(closed.consts, closed.jaxpr.constvars, strict=True)
    ]
    outputs = reader.inline(closed.jaxpr, constants, arguments)
    reader.drop_unread_keys(outputs)
    return reader.builder.build(outputs)


class _Reader:
    def __init__(self) -> None:
        self.builder = GraphBuilder()
        self._constants: dict[Any, int] = {}
        self._key_words: dict[int, int] = {}
        self._keep_alive: list[Any] = []  # identities in `_constants` stay valid only while the values live
        self._ctx = new_jaxpr_eqn([], [], jax.lax.add_p, {}, no_effects).ctx

    def inline(self, jaxpr: Jaxpr, constants: Sequence[int], arguments: Sequence[int]) -> list[int]:
        """Appends a jaxpr's equations and returns the values of its outputs."""
        env: dict[Var, int] = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> int:
            return self.constant(atom.val, atom.aval) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, operands: list[int]) -> Sequence[int]:
        name = eqn.primitive.name
        usual = eqn.ctx is self._ctx  # else it runs on the host, in another mesh, or the like: leave it as it is
        if usual and (name in _CALLS or (name in _JIT and _is_plain_jit(eqn.params))):
            return self.call(eqn.params[_CALLS.get(name, "jaxpr")], operands)
        if usual and name in _REMAT and "differentiated" in eqn.params:
            return self.call(eqn.params["jaxpr"], self.remat_barrier(eqn.params, operands))
        types = tuple(type_of(var.aval) for var in eqn.outvars)
        if name == "pvary" and operands[0] in self.builder.constants:
            return [self.builder.constant(self.builder.constants[operands[0]].value, types[0])]
        if usual and name == SCAN and not eqn.effects and (body := _plain_body(eqn.params["jaxpr"])) is not None:
            params = plain_scan(eqn.params)
            if params is not None:
                return self.builder.add(SCAN, operands, params, types, body=body)
        if usual and is_plain_draw(eqn):
            return [add_words(self.builder, self.key_words(eqn.invars[0].aval, operands[0]), eqn.params["shape"])]
        params = encode(eqn.primitive, eqn.params) if usual and not eqn.effects else None
        if name == "digamma" and params is not None and jax.__version_info__ >= (0, 11):
            return [self.digamma(operands[0], types[0])]
        if params is not None and not (name == "bitcast_convert_type" and _changes_size(eqn)):
            return self.builder.add(name, operands, params, types)
        return self.opaque(eqn, operands, types)

    def opaque(self, eqn: JaxprEqn, operands: list[int], types: tuple[TensorType, ...]) -> Sequence[int]:
        results = tuple(self.builder.fresh() for _ in types)
        effects = tuple(sorted(str(effect) for effect in eqn.effects))
        ref = JaxOp(eqn.primitive, dict(eqn.params), eqn.effects, eqn.ctx)
        self.builder.append(Op(eqn.primitive.name, tuple(operands), results, types, {}, ref, effects))
        return results

    def digamma(self, x: int, type_: TensorType) -> int:
        """JAX 0.11 has minus infinity at zero, where the opcode has NaN, as JAX 0.10."""
        scalar = TensorType((), type_.dtype)
        kind = dtypes.to_numpy(type_.dtype)
        zero, low = (self.builder.constant(np.array(n).astype(kind), scalar) for n in (0.0, -np.inf))
        (usual,) = self.builder.add("digamma", [x], {}, [type_])
        (at_zero,) = self.builder.add("eq", [x, zero], {}, [type_.with_dtype("bool", False)])
        spread = {"shape": type_.shape, "broadcast_dimensions": ()}
        (pole,) = self.builder.add("broadcast_in_dim", [low], spread, [TensorType(type_.shape, type_.dtype)])
        return self.builder.add("select_n", [at_zero, usual, pole], {}, [type_])[0]

    def key_words(self, aval: Any, key: int) -> int:
        """What a random key is made of, without making the key where the program did so."""
        if key not in self._key_words:
            maker = next((op for op in reversed(self.builder.ops) if key in op.results), None)
            if maker is not None and maker.opcode == _WRAP:
                self._key_words[key] = maker.operands[0]
            else:
                (eqn,) = jax.make_jaxpr(jax.random.key_data)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).eqns
                self._key_words[key] = self.opaque(eqn, [key], (type_of(eqn.outvars[0].aval),))[0]
        return self._key_words[key]

    def drop_unread_keys(self, outputs: Sequence[int]) -> None:
        """Without keys that nothing reads any more, a program that draws from their words is plain operations."""
        read = {value for op in self.builder.ops for value in op.operands} | set(outputs)
        self.builder.ops[:] = [op for op in self.builder.ops if op.opcode != _WRAP or op.result in read]

    def call(self, callee: Any, operands: Sequence[int]) -> list[int]:
        if isinstance(callee, ClosedJaxpr):
            constvars = callee.jaxpr.constvars
            constants = [self.constant(value, var.aval) for value, var in zip(callee.consts, constvars, strict=True)]
            return self.inline(callee.jaxpr, constants, operands)
        return self.inline(callee, [], operands)

    def remat_barrier(self, params: dict[str, Any], operands: list[int]) -> list[int]:
        """Keeps what makes rematerialization work: its inputs must not be merged with the first computation's."""
        wanted = params["prevent_cse"]
        flags = (wanted,) * len(operands) if isinstance(wanted, bool) else tuple(wanted)
        barred = [value for value, flag in zip(operands, flags, strict=True) if flag]
        if not params["differentiated"] or not barred:
            return operands
        types = [self.builder.types[value] for value in barred]
        fresh = iter(self.builder.add("optimization_barrier", barred, {}, types))
        return [next(fresh) if flag else value for value, flag in zip(operands, flags, strict=True)]

    def constant(self, value: Any, aval: Any) -> int:
        type_ = type_of(aval)
        data = _constant_data(value, aval)
        key: Any = (type_, data.tobytes()) if isinstance(data, np.ndarray) and data.ndim == 0 else (type_, id(value))
        if key not in self._constants:
            self._keep_alive.append(value)
            self._constants[key] = self.builder.constant(data, type_)
        return self._constants[key]


def _plain_body(jaxpr: ClosedJaxpr) -> Graph | None:
    """The graph of a loop's body, or None where something in it exists in this process only."""
    try:
        body = to_graph(jaxpr)
    except UnsupportedProgram:
        return None
    usual = all(dtypes.is_known(type_.dtype) and not type_.varying for type_ in body.types.values())
    return body if usual and not body.opaque and not any(op.effects for op in body.ops) else None


def _changes_size(eqn: JaxprEqn) -> bool:
    """Whether a reinterpretation makes several elements of one, or one of several."""
    before: Any = eqn.invars[0].aval
    after: Any = eqn.outvars[0].aval
    return bool(before.shape != after.shape)


def _is_plain_jit(params: dict[str, Any]) -> bool:
    """Whether a nested `jit` says nothing about placement, layout or compiler options that inlining would lose."""
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    layouts = (*params.get("in_layouts", ()), *params.get("out_layouts", ()))
    unspecified = all(type(sharding).__name__ == "UnspecifiedValue" for sharding in shardings)
    return unspecified and all(layout is None for layout in layouts) and not params.get("compiler_options_kvs")


def _constant_data(value: Any, aval: Any) -> Any:
    """A NumPy view of a constant, or the value itself where NumPy has no element type for it."""
    if is_extended(aval.dtype):
        return value
    if isinstance(value, Tracer):
        raise UnsupportedProgram("a constant is traced")
    if isinstance(value, jax.Array) and not (value.is_fully_addressable and len(value.devices()) == 1):
        raise UnsupportedProgram(f"a constant of type {aval.str_short()} is spread over devices")
    return np.asarray(value, dtype=aval.dtype)
