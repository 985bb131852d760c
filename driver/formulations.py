"""Which regions are computed by another formulation: built, checked in the worker, and chosen by time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from ..backends.llvm.kernel import Kernel
from ..backends.measure.runner import WorkerRunner
from ..costmodel.roofline import predict_native
from ..costmodel.tiled import predict_tiled
from ..ir import dtypes
from ..ir.graph import Constant, Graph
from ..ir.graph_edit import subgraph
from ..ir.loop import For, LoopFunc, walk
from ..ir.measure import MeasureData, TimingProtocol
from ..ir.target import Target
from ..ir.text import digest
from ..passes.formulation import Formulation, Part, Value
from ..passes.formulations import FORMULATIONS
from ..passes.graph_trace import value_name
from ..passes.packing import unpacked_shape
from ..passes.promote import promote
from ..passes.schedule import Step, Trace
from ..search.predict import predicted_choices
from .kernels import build_all
from .loop_costs import BARRIER_SECONDS
from .planning import Choice, Formulated, Partition, Task
from .references import Reference, references, run_graphs, tolerance
from .verification import measure_request

_LOG = logging.getLogger(__name__)

_GAIN = 1.25
"""How many times as fast as the region's own kernel a formulation has to be by prediction."""
_MEASURED_GAIN = 1.1
"""The same where both were measured."""
_EVEN_GAIN = 0.95
"""The same by prediction where it evens shares: that few tasks begin late on some thread is not predicted."""
_DOUBT = 1.6
"""How much slower than that it may be predicted to be for it to be measured."""
_ACCURACY = 0.75
"""Share of the error that the contract allows which a formulation may make on random arguments."""
_STREAMING = 0.5
"""Share of the memory's bandwidth that constants are taken to be read with, beside what else runs."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A formulation of a task, ready to run.

    Args:
        name: key of `FORMULATIONS`.
        parts: schedule and code of its kernels, by digest of their workloads.
        seconds: predicted or measured time.
    """

    name: str
    parts: Mapping[str, Choice]
    seconds: float


@dataclass(frozen=True, slots=True)
class Checks:
    """How formulations are checked and timed.

    Args:
        target: the CPU.
        runner: gives what runs kernels.
        seed: of the random arguments.
        timing: how kernels are run.
        measured: whether they are chosen by measured time, else by predicted time.
    """

    target: Target
    runner: Callable[[], WorkerRunner]
    seed: int
    timing: TimingProtocol
    measured: bool


def choose(tasks: Sequence[Task], own_s: Mapping[str, float], checks: Checks) -> dict[str, Alternative]:
    """The formulations that are accurate and clearly faster than a task's own kernel, by task key.

    Args:
        tasks: tasks that have kernels.
        own_s: seconds of these, measured where formulations are.
        checks: how formulations are checked.
    """
    found = {task.key: _first_better(task, own_s[task.key], checks) for task in tasks}
    return {key: alternative for key, alternative in found.items() if alternative is not None}


def least_gain(formulation: Formulation, measured: bool = False) -> float:
    """How many times as fast as the region's own kernel a formulation has to be."""
    if formulation.evens:
        return max(_EVEN_GAIN, 1.0) if measured else _EVEN_GAIN
    return _MEASURED_GAIN if measured else _GAIN


def _first_better(task: Task, own_s: float, checks: Checks) -> Alternative | None:
    """The first formulation of a task that is accurate and clearly faster than its own kernel."""
    reference: Reference | None = None
    for name, make in FORMULATIONS.items():
        formulation = make(task.region)
        traces = default_traces(formulation, checks.target) if formulation is not None else None
        if formulation is None or traces is None:
            continue
        seconds = predict(formulation, traces, checks.target)
        if seconds > own_s / least_gain(formulation, checks.measured) * (_DOUBT if checks.measured else 1.0):
            continue
        choices = _built(formulation, traces, checks.target)
        reference = reference or references([task.region], checks.seed)[0]
        timed = _checked(task, formulation, choices, reference, checks) if choices is not None else None
        if choices is None or timed is None:
            continue
        if checks.measured:
            seconds = max(timed, sum(_streaming(p, formulation, checks.target) for p in formulation.parts))
        if seconds <= own_s / least_gain(formulation, checks.measured):
            parts = {digest(p.func): c for p, c in zip(formulation.parts, choices, strict=True)}
            return Alternative(name, parts, seconds)
    return None


def predicted_seconds(task: Task, own_s: float, target: Target) -> float:
    """Seconds of the first formulation of a task that is predicted to be clearly faster, else its own kernel's.

    Args:
        task: the task.
        own_s: predicted seconds of its own kernel.
        target: the CPU.
    """
    for make in FORMULATIONS.values():
        formulation = make(task.region)
        traces = default_traces(formulation, target) if formulation is not None else None
        if formulation is not None and traces is not None:
            seconds = predict(formulation, traces, target)
            if seconds <= own_s / least_gain(formulation):
                return seconds
    return own_s


def predict(formulation: Formulation, traces: Sequence[Trace], target: Target) -> float:
    """Seconds of a formulation's kernels; constants are taken to come from memory, as those of a network do."""
    total = 0.0
    for part, trace in zip(formulation.parts, traces, strict=True):
        total += BARRIER_SECONDS
        if any(isinstance(s, For) for s in walk(part.func.body)):
            total += predict_tiled(part.func, target)
            continue
        own = float(predict_native(part.func, [trace], target)[0])
        total += max(own, _streaming(part, formulation, target))
    return total


def steps(parts: Partition, chosen: Mapping[str, Alternative]) -> Trace:
    """The graph steps that formulate the regions of some tasks.

    Args:
        parts: the partition.
        chosen: by task key.
    """
    results = [(parts.graph.ops[region.members[-1]].results, key) for region, key in parts.regions]
    return tuple(Step("formulate", value_name(r[0]), (chosen[key].name,)) for r, key in results if key in chosen)


def apply(parts: Partition, kernels: Mapping[str, Kernel]) -> Partition:
    """The partition with kernels for the formulations of its regions.

    Args:
        parts: the partition.
        kernels: by digest of their workloads; a region that would need another one keeps its own kernel.
    """
    graph = parts.graph
    constants: dict[int, Constant] = {}
    formulated: dict[tuple[int, ...], Formulated] = {}
    fresh = graph.fresh()
    for region, _ in parts.regions:
        formulation = _formulation(subgraph(graph, region.members), region.formulation)
        if formulation is None:
            continue
        keys = [digest(part.func) for part in formulation.parts]
        if any(k not in kernels for k in keys):
            continue
        numbers: dict[str, int] = {}
        for name, array in formulation.arrays().items():
            numbers[name], fresh = fresh, fresh + 1
            constants[numbers[name]] = Constant(array, formulation.constants[name])
        formulated[region.members] = Formulated(formulation, tuple(kernels[k] for k in keys), numbers)
    whole = Graph(graph.inputs, {**graph.constants, **constants}, graph.ops, graph.outputs)
    return replace(parts, grouping=replace(parts.grouping, graph=whole), formulated=formulated)


def part_kernels(parts: Partition, traces: Mapping[str, Trace], target: Target) -> dict[str, Kernel]:
    """The kernels of a partition's formulations, by digest of their workloads.

    Args:
        parts: the partition.
        traces: recorded schedules, by digest of the workload.
        target: the CPU.
    """
    wanted: dict[str, tuple[str, LoopFunc, Trace]] = {}
    for key, name in parts.formulations.items():
        formulation = _formulation(parts.tasks[key].region, name)
        for part in formulation.parts if formulation is not None else ():
            workload = digest(part.func)
            if workload in traces:
                wanted[workload] = (workload, part.func, traces[workload])
    built = build_all(wanted.values(), target)
    return {key: kernel for (key, _), kernel in built.items() if isinstance(kernel, Kernel)}


def _formulation(region: Graph, name: str) -> Formulation | None:
    """A formulation of a region; None without a name."""
    return FORMULATIONS[name](region) if name else None


def default_traces(formulation: Formulation, target: Target) -> list[Trace] | None:
    """Schedules of the parts that need no measuring; None if one of them has none."""
    options = [predicted_choices(part.func, target) for part in formulation.parts]
    return [o[0].trace for o in options] if all(options) else None


def _built(formulation: Formulation, traces: Sequence[Trace], target: Target) -> tuple[Choice, ...] | None:
    """Kernels of the parts; None if one of them has none."""
    wanted = [(digest(p.func), p.func, trace) for p, trace in zip(formulation.parts, traces, strict=True)]
    built = build_all(wanted, target)
    choices = [(trace, built[key, trace]) for key, _, trace in wanted]
    failed = [k for _, k in choices if not isinstance(k, Kernel)]
    if failed:
        _LOG.info("no kernels for formulation %s: %s", formulation.name, failed)
        return None
    return tuple(Choice(trace, k) for trace, k in choices if isinstance(k, Kernel))


# ---- checks


def _checked(
    task: Task, formulation: Formulation, choices: Sequence[Choice], reference: Reference, checks: Checks
) -> float | None:
    """Seconds of all kernels, as far as they were timed; None if one fails its check or the whole is not accurate."""
    data, error = _part_data(task, formulation, reference)
    allowed = _ACCURACY * reference.tolerances[task.region.outputs[0]]
    if not error <= allowed:
        _LOG.info("formulation %s of %s: error %.2e of %.2e", formulation.name, task.key, error, allowed)
        return None
    total = 0.0
    for part, choice, given in zip(formulation.parts, choices, data, strict=True):
        result = checks.runner().measure(given, [measure_request(choice.kernel, given)], checks.timing)[0]
        if not result.ok:
            _LOG.warning("formulation %s, %s: %s %s", formulation.name, part.func.name, result.status, result.error)
            return None
        total += result.median_s + BARRIER_SECONDS
    return total


def _part_data(task: Task, formulation: Formulation, reference: Reference) -> tuple[list[MeasureData], float]:
    """Arguments and results of each kernel, and the error of the whole."""
    output = task.region.outputs[0]
    given: dict[Value, np.ndarray] = {value: array for value, array in reference.arguments.items()}
    if formulation.values is None:
        return _graph_data(formulation, given, reference.outputs[output])
    narrow = formulation.values(given, np.float32)
    wide = formulation.values({**given, **narrow}, np.float64)
    baseline, exact = _rest(formulation, given, narrow["middle"], wide["middle"])
    error = float(np.max(np.abs(baseline.astype(np.float64) - reference.outputs[output]), initial=0.0))
    known: dict[Value, np.ndarray] = {**given, **narrow, **formulation.arrays()}
    found = {**wide, output: exact}
    usual = {**narrow, output: baseline}
    return [_measure_data(p, known, found, usual) for p in formulation.parts], error


def _graph_data(
    formulation: Formulation, given: Mapping[Value, np.ndarray], expected: np.ndarray
) -> tuple[list[MeasureData], float]:
    """The same where the parts have graphs: each takes what those before it give in float32."""
    known, data = dict(given), list[MeasureData]()
    for part in formulation.parts:
        assert part.graph is not None
        shapes = [t.shape for t in part.graph.inputs.values()]
        operands = [np.asarray(known[n]).reshape(s) for n, s in zip(part.graph_args, shapes, strict=True)]
        (usual,) = run_graphs([part.graph], [operands])[0]
        with jax.enable_x64(True):
            (exact,) = run_graphs([promote(part.graph)], [operands])[0]
        data.append(_measure_data(part, known, {part.args[-1]: exact}, {part.args[-1]: usual}))
        known[part.args[-1]] = usual
    result = known[formulation.parts[-1].args[-1]].astype(np.float64)
    return data, float(np.max(np.abs(result.reshape(expected.shape) - expected), initial=0.0))


def _rest(
    formulation: Formulation, given: Mapping[Value, np.ndarray], narrow: np.ndarray, wide: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The region's result from what the formulation computes, in float32 and in float64."""
    graph = formulation.rest
    operands = [[narrow if v == formulation.middle else given[v] for v in graph.inputs]]
    (baseline,) = run_graphs([graph], operands)[0]
    with jax.enable_x64(True):
        operands = [[wide if v == formulation.middle else given[v] for v in graph.inputs]]
        (exact,) = run_graphs([promote(graph)], operands)[0]
    return baseline, exact


def _measure_data(
    part: Part, known: Mapping[Value, np.ndarray], exact: Mapping[Value, np.ndarray], usual: Mapping[Value, np.ndarray]
) -> MeasureData:
    *names, output = part.args
    params = part.func.params
    inputs = tuple(
        np.ascontiguousarray(known[name]).reshape(unpacked_shape(b)).astype(dtypes.to_numpy(b.dtype))
        for name, b in zip(names, params, strict=False)
    )
    allowed = tolerance(np.asarray(exact[output]), np.asarray(usual[output]), params[-1].dtype)
    result = np.asarray(exact[output]).astype(dtypes.to_numpy(params[-1].dtype)).reshape(params[-1].shape)
    constants = frozenset(n for n, b in enumerate(params[:-1]) if b.scope == "constant")
    return MeasureData(inputs, (result,), (allowed,), constants)


def _streaming(part: Part, formulation: Formulation, target: Target) -> float:
    """Seconds to read a part's constants from memory, where a network has them, not a loop that measures one kernel."""
    size = sum(type_.nbytes for name, type_ in formulation.constants.items() if name in part.args)
    return size / (_STREAMING * target.bandwidth_gbs * 1e9)
