"""From a compiled function to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax._src import source_info_util  # where an equation stands in the user's code is exported by no public module
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from ..driver.outcome import Outcome
from ..frontends.avals import UnsupportedProgram, type_of
from ..frontends.jaxpr import to_graph
from ..ir.graph import Graph, Op
from ..passes.schedule import trace_to_json
from .archive import describe_members, write_archive
from .environment import environment
from .errors import ArtifactError
from .manifest import SCHEMA, Argument, Machine, Manifest, parse_manifest, type_of_text
from .program import describe_program
from .signing import sign
from .trees import describe

_MAX_REASON = 500
_WIDE = frozenset(("float64", "int64", "uint64", "complex128"))


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function is called.

    Args:
        inputs: structure of ``(args, kwargs)`` without static arguments.
        arguments: abstract values of its leaves.
        used: which of them the program takes.
        outputs: structure of the result.
        results: abstract values of its leaves.
    """

    inputs: Any
    arguments: Sequence[Any]
    used: Sequence[bool]
    outputs: Any
    results: Sequence[Any]


def portable_graph(closed: ClosedJaxpr) -> Graph:
    """The graph of a function that can be saved.

    Args:
        closed: the traced function without what it does not need.

    Raises:
        ArtifactError: something in it exists in this process only; the message names the operation.
    """
    try:
        graph = to_graph(closed)
    except UnsupportedProgram as error:
        raise ArtifactError(f"expected a program that graphs have a form for: {error}; it can't be saved") from None
    for op in graph.ops:
        if op.opaque or op.effects:
            why = "has side effects" if op.effects else "has no form outside this process"
            raise ArtifactError(
                f"expected a pure function of plain operations, found {op.opcode}{_place(closed.jaxpr, op)}, which "
                f"{why}: take it out of what is saved"
            )
    for value, type_ in graph.types.items():
        try:
            type_of_text(str(type_))
        except ValueError as error:
            raise ArtifactError(f"value %{value} of type {type_} can't be stored: {error}") from None
    return graph


def _place(jaxpr: Jaxpr, op: Op) -> str:
    """Where an operation comes from in the user's code, as far as it can be told."""
    found = next((eqn for eqn in _equations(jaxpr) if eqn.primitive.name == op.opcode), None)
    if found is None or source_info_util.user_frame(found.source_info.traceback) is None:
        return ""
    return f" at {source_info_util.summarize(found.source_info)}"


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Equations in order, those of sub-programs after the equation that calls them."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = item.jaxpr if isinstance(item, ClosedJaxpr) else item
                if isinstance(inner, Jaxpr):
                    yield from _equations(inner)


def write_function(
    path: str | os.PathLike[str], name: str, signature: Signature, graph: Graph, outcome: Outcome
) -> Path:
    """Save what was decided for a function.

    Args:
        path: where to.
        name: the function.
        signature: how it is called.
        graph: the program as traced, from `portable_graph`.
        outcome: what became of it.

    Returns:
        The path.

    Raises:
        ArtifactError: the types of its arguments or results can't be stored, or the file can't be written.
    """
    if outcome.graph is None or outcome.parts is None:
        program = describe_program(graph, graph, (), {}, ())
        reason = outcome.reason[:_MAX_REASON] or "no part of the function has kernels"
    else:
        traces = {key: trace_to_json(choice.trace) for key, choice in outcome.choices.items()}
        parts = outcome.parts
        plain = replace(parts.start, constants={**parts.graph.constants, **parts.start.constants})
        program = describe_program(plain, outcome.graph, outcome.natives, traces, parts.trace)
        reason = ""
    here = environment()
    target = here.target
    manifest = Manifest(
        schema_version=SCHEMA,
        name=name[:200],
        versions=here.versions,
        backend=here.backend,
        schedule_version=here.schedule_version,
        machine=Machine(
            fingerprint=target.fingerprint,
            name=target.name,
            arch=target.arch,
            features=target.features,
            threads=target.threads,
        ),
        x64=any(type_.dtype in _WIDE for type_ in graph.types.values()),
        inputs=describe(signature.inputs, "arguments"),
        arguments=tuple(
            Argument(type=_type_text(aval, "argument"), used=used)
            for aval, used in zip(signature.arguments, signature.used, strict=True)
        ),
        outputs=describe(signature.outputs, "result"),
        results=tuple(_type_text(aval, "result") for aval in signature.results),
        reason=reason,
        constants=program.constants,
        parameters=program.parameters,
        kernels=program.kernels,
        calls=program.calls,
        members=describe_members(program.members),
    ).to_json()
    parse_manifest(manifest)  # what can't be read back must not be written
    write_archive(Path(path), manifest, sign(manifest), program.members)
    return Path(path)


def _type_text(aval: Any, what: str) -> str:
    try:
        text = str(type_of(aval))
        type_of_text(text)
    except (UnsupportedProgram, ValueError) as error:
        raise ArtifactError(f"the {what} of type {aval.str_short()} can't be stored: {error}") from None
    return text
