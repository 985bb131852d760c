"""The JAX primitive that stands for a compiled function: `tilewright_call`.

It carries the original closed jaxpr, calls and custom derivatives not inlined, so every transformation of JAX works on
what the user wrote. Only its lowering for the CPU looks at the graph: there the `Builder` in its parameters turns the
graph into a faster one. Other platforms, `jax.export` and programs that the partitioner shards get the original.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
from jax._src.interpreters import ad as ad_internal  # jvp_jaxpr is exported by no public module
from jax._src.interpreters import batching as batching_internal  # batch_jaxpr2 is exported by no public module
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from ..frontends.avals import UnsupportedProgram
from ..frontends.jaxpr import to_graph
from ..ir.graph import Graph
from .xla import emit

_LOG = logging.getLogger(__name__)


class Builder(Protocol):
    """What decides how a compiled function runs; hashed by identity."""

    name: str

    def build(self, graph: Graph, arguments: Sequence[int] | None) -> Graph:
        """The graph to run instead.

        Args:
            graph: The program as traced, for the shapes at hand.
            arguments: For each graph input the number of the flat argument it is, or None if transformations made the
                inputs something else.
        """
        ...


tilewright_call_p = Primitive("tilewright_call")
tilewright_call_p.multiple_results = True


def call(
    closed: ClosedJaxpr, operands: Sequence[Any], builder: Builder, arguments: tuple[int, ...] | None
) -> list[Any]:
    """Binds the primitive.

    Args:
        closed: The traced function; its constants are concrete.
        operands: One value for each of its inputs.
        builder: Decides how it runs.
        arguments: See `Builder.build`.
    """
    pruned, kept = prune(closed)
    numbers = None if arguments is None else tuple(_keep(arguments, kept))
    return tilewright_call_p.bind(*_keep(operands, kept), jaxpr=pruned, builder=builder, arguments=numbers)


def prune(closed: ClosedJaxpr) -> tuple[ClosedJaxpr, list[bool]]:
    """A program without what does not reach its results or effects, and which of its inputs it still has."""
    used = [True] * len(closed.jaxpr.outvars)
    jaxpr, kept = pe.dce_jaxpr(closed.jaxpr, used, instantiate=False)
    return ClosedJaxpr(jaxpr, closed.consts), kept


def _keep(items: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    return [item for item, flag in zip(items, flags, strict=True) if flag]


@tilewright_call_p.def_impl
def _impl(*operands: Any, **params: Any) -> Any:
    return jax.jit(partial(tilewright_call_p.bind, **params))(*operands)


@tilewright_call_p.def_effectful_abstract_eval
def _abstract_eval(*_: Any, jaxpr: ClosedJaxpr, **__: Any) -> Any:
    return jaxpr.out_avals, jaxpr.effects


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: ClosedJaxpr, builder: Builder, **_: Any) -> Any:
    """Differentiates the original; the result is ordinary JAX, to which all other rules apply."""
    nonzero = [type(tangent) is not ad.Zero for tangent in tangents]
    both, nonzero_out = ad_internal.jvp_jaxpr(jaxpr, nonzero, instantiate=False)
    results = _jit(both, builder)(*primals, *_keep(tangents, nonzero))
    count = len(jaxpr.out_avals)
    moved = iter(results[count:])
    tangents_out = [
        next(moved) if flag else ad.Zero(aval.to_tangent_aval())
        for flag, aval in zip(nonzero_out, jaxpr.out_avals, strict=True)
    ]
    return results[:count], tangents_out


def _transpose(cotangents: Sequence[Any], *operands: Any, jaxpr: ClosedJaxpr, builder: Builder, **_: Any) -> list[Any]:
    linear = [ad.is_undefined_primal(operand) for operand in operands]
    shapes = [jax.ShapeDtypeStruct(o.aval.shape, o.aval.dtype) for o in _keep(operands, linear)]
    run = _jit(jaxpr, builder)

    def apply(*values: Any) -> Any:
        given = iter(values)
        return run(*(next(given) if flag else operand for flag, operand in zip(linear, operands, strict=True)))

    gradients = iter(jax.linear_transpose(apply, *shapes)([ad.instantiate_zeros(ct) for ct in cotangents]))
    return [next(gradients) if flag else None for flag in linear]


def _batch(axis_data: Any, operands: Any, dims: Any, *, jaxpr: ClosedJaxpr, **params: Any) -> Any:
    batched, dims_out = batching_internal.batch_jaxpr2(jaxpr, axis_data, tuple(dims))
    return tilewright_call_p.bind(*operands, **{**params, "jaxpr": batched, "arguments": None}), dims_out


def _dce(used_outputs: list[bool], eqn: JaxprEqn) -> tuple[list[bool], JaxprEqn | None]:
    if not any(used_outputs) and not eqn.effects:
        return [False] * len(eqn.invars), None
    closed, arguments = eqn.params["jaxpr"], eqn.params["arguments"]
    jaxpr, used_inputs = pe.dce_jaxpr(closed.jaxpr, used_outputs, instantiate=False)
    params = {
        **eqn.params,
        "jaxpr": ClosedJaxpr(jaxpr, closed.consts),
        "arguments": None if arguments is None else tuple(_keep(arguments, used_inputs)),
    }
    outvars = _keep(eqn.outvars, used_outputs)
    return used_inputs, eqn.replace(
        invars=_keep(eqn.invars, used_inputs), outvars=outvars, params=params, effects=jaxpr.effects
    )


def _jit(closed: ClosedJaxpr, builder: Builder) -> Any:
    run = jaxpr_as_fun(closed)

    def named(*operands: Any) -> Any:
        return run(*operands)

    named.__name__ = builder.name
    return jax.jit(named)


def _lower_original(ctx: Any, *operands: Any, jaxpr: ClosedJaxpr, builder: Builder, **_: Any) -> Any:
    return mlir.core_call_lowering(ctx, *operands, name=builder.name, call_jaxpr=jaxpr)


def _lower(ctx: Any, *operands: Any, jaxpr: ClosedJaxpr, builder: Builder, arguments: Any) -> Any:
    if not _runs_alone(ctx.module_context):
        return _lower_original(ctx, *operands, jaxpr=jaxpr, builder=builder)
    try:
        graph = to_graph(jaxpr)
    except UnsupportedProgram as reason:
        _LOG.info("%s runs as plain JAX: %s", builder.name, reason)
        return _lower_original(ctx, *operands, jaxpr=jaxpr, builder=builder)
    emitted = emit(builder.build(graph, arguments))
    return mlir.core_call_lowering(ctx, *operands, name=builder.name, call_jaxpr=emitted)


def _runs_alone(module: Any) -> bool:
    """Whether the code being lowered is for the CPU and sees whole arrays: one device, or `shard_map` over all axes.

    Exported code must not refer to this process's kernels, so it does not count.
    """
    if tuple(module.platforms) != ("cpu",) or module.lowering_parameters.for_export:
        return False
    axes = module.axis_context
    if isinstance(axes, mlir.ShardingContext):
        return axes.num_devices == 1
    if isinstance(axes, mlir.SPMDAxisContext):
        return axes.mesh.size == 1 or axes.manual_axes == frozenset(axes.mesh.axis_names)
    return True


ad.primitive_jvps[tilewright_call_p] = _jvp
ad.primitive_transposes[tilewright_call_p] = _transpose
batching.fancy_primitive_batchers[tilewright_call_p] = _batch
pe.dce_rules[tilewright_call_p] = _dce
# Not cached by JAX: the kernels depend on more than the jaxpr.
mlir.register_lowering(tilewright_call_p, _lower, cacheable=False)
