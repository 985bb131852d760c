"""The program of a saved function: as members of the file, and from them to something that JAX runs.

A file holds the program twice. `graph.txt` is the whole of it as plain operations, from which everything can be made
anew. `program.export` (StableHLO, through `jax.export`) is what runs where the file is trusted: what is left to XLA,
and native calls by name, with their plans in the manifest and their kernels in `objects/`. Constants are stored once,
as the graph has them; kernels get them packed when the file is loaded, the exported program takes them as parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import export
from jax._src.config import traceback_in_locations_limit  # as a context, exported by no public module
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from ..backends.llvm.ffi import RuntimeCode, plan_target, register_plan, runtime_code
from ..backends.llvm.kernel import Kernel
from ..backends.llvm.link import LinkError
from ..backends.xla import emit
from ..driver.assembly import NativePlan
from ..ir.graph import Constant, Graph
from ..ir.graph_text import canonical, print_graph
from ..ir.plan import ExecPlan, PlanError, Repeat, Slot, Stage, slot_text
from ..passes.packing import pack_array
from ..passes.schedule import Trace, trace_to_json
from .archive import Archive
from .errors import ArtifactError
from .manifest import KernelEntry, NativeCall, Parameter, RepeatEntry, StageEntry, numpy_dtype, type_of_text

GRAPH = "graph.txt"
STEPS = "partition.json"
EXPORTED = "program.export"
_HANDLER = "objects/handler.o"
_ENTRY = "objects/entry.o"
_INLINE_BYTES = 64
"""Constants up to this size stay inside the exported program."""
_NAMED = re.compile(r" blake2b:([0-9a-f]{32})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program as parts of a manifest and as members; see `Manifest`."""

    constants: dict[str, str]
    parameters: tuple[str, ...]
    kernels: dict[str, KernelEntry]
    calls: tuple[NativeCall, ...]
    members: dict[str, bytes]


def describe_program(
    graph: Graph, running: Graph, natives: Sequence[NativePlan], traces: Mapping[str, str], steps: Trace
) -> StoredProgram:
    """A program as data.

    Args:
        graph: the program in plain operations, with the constants of its native calls.
        running: the same with native calls.
        natives: these calls; the sources of their constants are values of `graph`.
        traces: schedules of their kernels as JSON, by task key.
        steps: the graph trace that cuts the program into their regions.
    """
    text = print_graph(canonical(graph))
    parameters = _parameters(running)
    wanted = set(_NAMED.findall(text)) | {c.digest for c in parameters.values()}
    wanted |= {graph.constants[value].digest for native in natives for value in native.sources}
    constants = {c.digest: c for c in _all_constants(graph) if c.digest in wanted}
    kernels = {symbol: kernel for native in natives for symbol, kernel in native.kernels.items()}
    members = {GRAPH: text.encode(), EXPORTED: _exported(running, parameters, natives)}
    members |= {f"constants/{digest}.bin": np.ascontiguousarray(c.value).tobytes() for digest, c in constants.items()}
    members |= {f"objects/{symbol}.o": kernel.object_code for symbol, kernel in kernels.items()}
    members |= {f"traces/{key}.json": trace.encode() for key, trace in traces.items()}
    if steps:
        members[STEPS] = trace_to_json(steps).encode()
    if natives:
        members |= {_HANDLER: runtime_code().handler, _ENTRY: runtime_code().entry}
    return StoredProgram(
        {digest: str(constant.type) for digest, constant in constants.items()},
        tuple(constant.digest for constant in parameters.values()),
        {symbol: _describe_kernel(kernel) for symbol, kernel in kernels.items()},
        tuple(_describe_call(graph, native) for native in natives),
        members,
    )


def _all_constants(graph: Graph) -> list[Constant]:
    """Constants of a graph and of the loops in it."""
    inside = [c for op in graph.ops if op.body is not None for c in _all_constants(op.body)]
    return [*graph.constants.values(), *inside]


def _parameters(running: Graph) -> dict[int, Constant]:
    """Constants that the exported program takes as parameters rather than repeating them."""
    used = {value for op in running.ops for value in op.operands} | set(running.outputs)
    return {v: c for v, c in running.constants.items() if v in used and c.value.nbytes > _INLINE_BYTES}


def _exported(running: Graph, parameters: Mapping[int, Constant], natives: Sequence[NativePlan]) -> bytes:
    """The program as `jax.export` serialises it: parameters first, then the inputs."""
    inputs = {**{v: c.type for v, c in parameters.items()}, **running.inputs}
    rest = {v: c for v, c in running.constants.items() if v not in parameters}
    closed = emit(Graph(inputs, rest, running.ops, running.outputs))
    targets = [plan_target(native.plan, native.kernels, runtime_code()) for native in natives]
    allowed = [export.DisabledSafetyCheck.custom_call(target) for target in targets]
    try:
        with traceback_in_locations_limit(0):  # whose folders it was made in is nobody's business
            program = export.export(jax.jit(jaxpr_as_fun(closed)), platforms=["cpu"], disabled_checks=allowed)
            return bytes(program(*_shapes(closed.in_avals)).serialize())
    except (ValueError, NotImplementedError) as error:
        raise ArtifactError(f"jax.export refuses the program: {error}") from error


def _shapes(avals: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in avals]


def _describe_kernel(kernel: Kernel) -> KernelEntry:
    return KernelEntry(
        extent=kernel.extent,
        scratch_bytes=kernel.scratch_bytes,
        params=tuple(map(Parameter.of, kernel.params)),
        num_outputs=kernel.num_outputs,
        in_place=kernel.in_place,
    )


def _describe_call(graph: Graph, native: NativePlan) -> NativeCall:
    plan = native.plan
    return NativeCall(
        target=plan_target(plan, native.kernels, runtime_code()),
        inputs=tuple(map(str, plan.inputs)),
        outputs=tuple(map(str, plan.outputs)),
        constants=tuple(graph.constants[value].digest for value in native.sources),
        arena_bytes=plan.arena_bytes,
        stages=tuple(
            StageEntry(
                kernel=stage.kernel,
                args=tuple(map(slot_text, stage.args)),
                extent=stage.extent,
                chunks=stage.chunks,
                condition=None if stage.condition is None else slot_text(stage.condition.slot),
                wanted=stage.condition is None or stage.condition.wanted,
            )
            for stage in plan.stages
        ),
        repeats=tuple(RepeatEntry(first=r.first, stages=r.stages, count=r.count) for r in plan.repeats),
    )


# ---- from a file


def stored_constants(archive: Archive) -> dict[str, np.ndarray]:
    """The constants of a file by digest.

    Raises:
        ArtifactError: one has another size than its type.
    """
    found: dict[str, np.ndarray] = {}
    for digest, text in archive.manifest.constants.items():
        type_ = type_of_text(text)
        dtype = numpy_dtype(type_.dtype)
        data = archive[f"constants/{digest}.bin"]
        if len(data) != type_.size * dtype.itemsize:
            raise ArtifactError(
                f"constant {digest}: expected {type_.size * dtype.itemsize} bytes for {text}, found {len(data)}; "
                "save the function again"
            )
        found[digest] = np.frombuffer(data, np.uint8).view(dtype).reshape(type_.shape)
    return found


def trusted_program(archive: Archive) -> ClosedJaxpr:
    """The program with the file's own object code; call it for trusted files of this machine only.

    Nothing is searched, measured or generated: kernels are linked, plans registered.

    Raises:
        ArtifactError: parts of the file contradict each other.
    """
    constants = stored_constants(archive)
    try:
        _register_calls(archive, constants)
        program = export.deserialize(bytearray(archive[EXPORTED]))
        first = [constants[digest] for digest in archive.manifest.parameters]
        shapes = _shapes(program.in_avals)[len(first) :]
        return jax.make_jaxpr(lambda *arguments: program.call(*first, *arguments))(*shapes)
    except (PlanError, LinkError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ArtifactError(f"its parts contradict each other ({error}); save the function again") from error


def _register_calls(archive: Archive, constants: Mapping[str, np.ndarray]) -> None:
    manifest = archive.manifest
    if not manifest.calls:
        return
    code = RuntimeCode(archive[_HANDLER], archive[_ENTRY])
    kernels = {symbol: _kernel(archive, symbol, entry) for symbol, entry in manifest.kernels.items()}
    for call in manifest.calls:
        own = {stage.kernel: kernels[stage.kernel] for stage in call.stages}
        plan = _plan(call, own, constants)
        if (target := plan_target(plan, own, code)) != call.target:
            raise ValueError(f"expected a plan that is called {call.target}, found {target}")
        register_plan(plan, own, code)


def _kernel(archive: Archive, symbol: str, entry: KernelEntry) -> Kernel:
    params = tuple(parameter.buffer() for parameter in entry.params)
    code = archive[f"objects/{symbol}.o"]
    return Kernel(symbol, code, entry.extent, entry.scratch_bytes, params, entry.num_outputs, entry.in_place)


def _plan(call: NativeCall, kernels: Mapping[str, Kernel], constants: Mapping[str, np.ndarray]) -> ExecPlan:
    stages = tuple(Stage(s.kernel, s.slots(), s.extent, s.chunks, s.when()) for s in call.stages)
    packed = tuple(
        _packed(constants[digest], Slot("constant", number), stages, kernels)
        for number, digest in enumerate(call.constants)
    )
    inputs, outputs = (tuple(map(type_of_text, types)) for types in (call.inputs, call.outputs))
    repeats = tuple(Repeat(r.first, r.stages, r.count) for r in call.repeats)
    return ExecPlan(inputs, outputs, packed, call.arena_bytes, stages, repeats)


def _packed(array: np.ndarray, slot: Slot, stages: Sequence[Stage], kernels: Mapping[str, Kernel]) -> np.ndarray:
    """A constant as the kernels that read it want it."""
    for stage in stages:
        if slot in stage.args:
            buffer = kernels[stage.kernel].params[stage.args.index(slot)]
            if math.prod(buffer.shape) > array.size * max((p.factor for p in buffer.packing), default=1):
                raise ValueError(
                    f"expected {array.size} elements of {buffer.name} before packing, found {buffer.shape}"
                )
            return pack_array(array, buffer)
    raise ValueError(f"no kernel reads constant {slot.index}")
