"""Programs of files whose object code does not count here: made anew from the graph and the recorded schedules.

The file is only data in this path. Its graph goes through the parser, our verifier and JAX's type checker; operations
are those of `frontends.primitives`, all of them pure; schedules are replayed by the same primitives as any others.
"""

from __future__ import annotations

import os
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, check_jaxpr, jaxpr_as_fun

from ..backends.xla import emit
from ..driver.options import make_options
from ..driver.pipeline import Driver
from ..ir.graph import Graph, GraphError
from ..ir.graph_text import parse_graph
from ..passes.schedule import Trace, trace_from_json
from .archive import Archive, one_line
from .environment import Environment
from .errors import ArtifactError
from .manifest import numpy_dtype, type_of_text
from .program import GRAPH, STEPS, stored_constants


def rebuilt_program(archive: Archive, why: str, here: Environment, database: Any) -> tuple[ClosedJaxpr, str]:
    """Build a program without using the file's object code.

    Args:
        archive: the file.
        why: why its object code does not count.
        here: this machine.
        database: where failed checks are kept; see `tilewright.load`.

    Returns:
        The program and its `Loaded.status`.

    Raises:
        ArtifactError: the graph or a schedule is not valid.
    """
    manifest = archive.manifest
    graph = _graph(archive)
    plain = _emitted(graph)
    if not manifest.calls:
        return plain, f"plain JAX: {manifest.reason}"
    traces = _traces(archive)
    steps = _trace(archive, STEPS) if STEPS in manifest.members else ()
    options = make_options(None, 0, database, "cpu", 0, False)
    driver = Driver(options, options.open_database(), here.target)
    outcome = driver.rebuild(graph, steps, traces, manifest.machine.fingerprint == here.target.fingerprint)
    if outcome.graph is None:
        return plain, f"plain JAX: {why}; {one_line(outcome.reason)}"
    count = f"{len(outcome.choices)} of {len(traces)} kernels built and checked here"
    return emit(outcome.graph), f"rebuilt from traces: {why}; {count}"


def _graph(archive: Archive) -> Graph:
    """The program in plain operations.

    Raises:
        ArtifactError: its text is not valid, or a value of it would not fit into this machine's memory.
    """
    try:
        graph = parse_graph(archive.text(GRAPH), stored_constants(archive))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for value, type_ in graph.types.items():
            if type_of_text(str(type_)).size * numpy_dtype(type_.dtype).itemsize > memory:
                raise GraphError(f"%{value} of type {type_} does not fit into this machine's memory")
    except Exception as error:  # whatever Python and NumPy say about numbers and names that come from a file
        raise ArtifactError(f"{GRAPH} is not valid ({one_line(error)}); save the function again") from None
    return graph


def _emitted(graph: Graph) -> ClosedJaxpr:
    """The program for XLA, accepted by JAX's type rules and by the verifier of what they lower to."""
    try:
        closed = emit(graph)
        check_jaxpr(closed.jaxpr)
        jax.jit(jaxpr_as_fun(closed)).lower(*closed.in_avals)
    except Exception as error:  # whatever JAX's rules say about parameters that come from a file
        raise ArtifactError(
            f"{GRAPH} holds what this version of JAX does not accept ({one_line(error)}); save the function again here"
        ) from None
    return closed


def _traces(archive: Archive) -> dict[str, Trace]:
    """Schedules by task key."""
    found: dict[str, Trace] = {}
    for name in archive.manifest.members:
        if name.startswith("traces/"):
            found[name.removeprefix("traces/").removesuffix(".json")] = _trace(archive, name)
    return found


def _trace(archive: Archive, name: str) -> Trace:
    """A trace of the file."""
    try:
        return trace_from_json(archive.text(name))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is not valid ({one_line(error)}); save the function again") from None
