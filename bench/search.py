"""How fast strategies find good schedules: random and evolutionary search at equal trials, against the default.

    python -m tilewright.bench.search --trials 32 --workloads conv3x3,depthwise

Every strategy searches every workload on its own, without a database. At the end the winners and the default race each
other once more; regret is a strategy's latency over the best one's in that race. With `--save FILE` everything that
random search measured is written as training data for the cost model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from ..backends.llvm.codegen import compile_kernel
from ..backends.llvm.kernel import Kernel
from ..backends.measure.runner import WorkerRunner
from ..costmodel.dataset import Sample, save_samples
from ..driver.planning import SUPPORTED_OPS
from ..driver.references import references
from ..frontends.jaxpr import to_graph
from ..ir.graph_edit import subgraph
from ..ir.loop import LoopFunc
from ..ir.measure import MeasureData, MeasureRequest, MeasureResult, TaskKey, TimingProtocol
from ..ir.target import Target, detect_target
from ..ir.text import digest, print_ir
from ..passes.fusion import group, sink_views
from ..passes.lower import Workload, lower
from ..passes.manager import PassManager
from ..passes.packing import pack_array
from ..passes.pipeline import GRAPH_PASSES
from ..passes.schedule import SCHEDULE_VERSION, replay
from ..search.base import SearchStrategy
from ..search.contest import TuneTask, chunk_count, paired_ratios
from ..search.random_search import RandomSearch
from ..search.ranking import Ranker
from ..search.space import Candidate, SearchSpace
from ..search.tune import Outcome, SearchBudget, evolutionary, tune_tasks

_FINAL_REPEATS = 41


@dataclass(frozen=True, slots=True)
class Case:
    """A function of one region.

    Args:
        fn: takes the arguments, then the constants.
        args: shapes of the arguments.
        constants: shapes of the constants.
    """

    fn: Callable[..., jax.Array]
    args: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...] = ()


def _conv(stride: int = 1, groups: int = 1) -> Callable[..., jax.Array]:
    def run(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=layout, feature_group_count=groups
        )
        return jax.nn.relu(y + b)

    return run


def _layer_norm(x: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * gain + bias


CASES: dict[str, Case] = {
    "conv3x3": Case(_conv(), ((1, 28, 28, 64),), ((3, 3, 64, 64), (64,))),
    "conv3x3-first": Case(_conv(2), ((1, 224, 224, 3),), ((3, 3, 3, 32), (32,))),
    "conv1x1-narrow": Case(_conv(), ((1, 112, 112, 16),), ((1, 1, 16, 96), (96,))),
    "conv1x1-small": Case(_conv(), ((1, 7, 7, 576),), ((1, 1, 576, 160), (160,))),
    "conv1x1-deep": Case(_conv(), ((1, 14, 14, 384),), ((1, 1, 384, 96), (96,))),
    "depthwise": Case(_conv(1, 384), ((1, 14, 14, 384),), ((3, 3, 1, 384), (384,))),
    "depthwise-strided": Case(_conv(2, 144), ((1, 56, 56, 144),), ((3, 3, 1, 144), (144,))),
    "dense-gelu": Case(lambda x, w, b: jax.nn.gelu(x @ w + b), ((128, 256),), ((256, 512), (512,))),
    "batched-product": Case(lambda a, b: jnp.einsum("bqd,bkd->bqk", a, b), ((4, 256, 64), (4, 256, 64))),
    "layer-norm": Case(_layer_norm, ((1024, 96),), ((96,), (96,))),
    "softmax": Case(lambda x: jax.nn.softmax(x), ((512, 512),)),
}


def make_task(case: Case, target: Target, seed: int = 0) -> TuneTask:
    """The tuning task of a function of one region.

    Raises:
        ValueError: the function is not one region.
    """
    rng = np.random.default_rng(seed)
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in case.args]
    constants = [jnp.asarray(rng.standard_normal(shape), np.float32) for shape in case.constants]
    closed = jax.make_jaxpr(lambda *operands: case.fn(*operands, *constants))(*args)
    graph = sink_views(PassManager(GRAPH_PASSES).run(to_graph(closed)))
    regions = [r for r in group(graph, SUPPORTED_OPS) if r.kind not in ("alias", "view")]
    if len(regions) != 1:
        raise ValueError(f"expected one region, found {len(regions)}")
    region = subgraph(graph, regions[0].members)
    workload = lower(region, regions[0].kind)
    (known,) = references([region], seed)
    data = measure_data(workload, known.arguments, known.outputs, known.tolerances)
    func = workload.func
    key = TaskKey(digest(func), print_ir(func), target.fingerprint, "llvm", SCHEDULE_VERSION, target.threads)
    return TuneTask(key, func, target, 1.0, data)


def measure_data(
    workload: Workload,
    arguments: dict[int, np.ndarray],
    outputs: dict[int, np.ndarray],
    tolerances: dict[int, float],
) -> MeasureData:
    """What the runner needs, from arrays by graph value."""
    func = workload.func
    values = (*workload.inputs, *workload.constants)
    pairs = zip(values, func.inputs, strict=True)
    inputs = tuple(np.ascontiguousarray(arguments[v], buffer.dtype).reshape(buffer.shape) for v, buffer in pairs)
    results = zip(workload.outputs, func.outputs, strict=True)
    expected = tuple(np.ascontiguousarray(outputs[v], buffer.dtype).reshape(buffer.shape) for v, buffer in results)
    constants = frozenset(range(len(workload.inputs), len(values)))
    return MeasureData(inputs, expected, tuple(tolerances[v] for v in workload.outputs), constants)


def build(task: TuneTask, candidate: Candidate) -> Kernel:
    """Replay and compile."""
    return compile_kernel(replay(task.func, candidate.trace), task.target)


class _Recorder:
    """A database that remembers measured candidates only."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self.samples: dict[tuple[str, str], Sample] = {}

    def add_result(
        self, key: TaskKey, trace: str, result: MeasureResult, timing: TimingProtocol, **_: object
    ) -> object:
        """Note a correct candidate's first result."""
        if result.ok:
            name = self._names[key.workload_digest]
            sample = Sample(name, key.workload_text, trace, float(f"{result.median_s:.4g}"))
            self.samples.setdefault((key.workload_digest, trace), sample)
        return None

    def best_traces(self, key: TaskKey, count: int) -> list[tuple[str, float]]:
        """Nothing: each search starts anew."""
        return []


def _random(space: SearchSpace, ranker: Ranker, rng: np.random.Generator) -> SearchStrategy:
    return RandomSearch(space, rng)


STRATEGIES = {"random": _random, "evolutionary": evolutionary}


def final_race(
    task: TuneTask, kernels: dict[str, Kernel], runner: WorkerRunner, timing: TimingProtocol
) -> dict[str, float]:
    """Latency of each kernel in one interleaved race, relative to the best."""
    requests = [_request(task, kernel, timing.threads) for kernel in kernels.values()]
    timing = replace(timing, quick_repeats=_FINAL_REPEATS, repeats=_FINAL_REPEATS, budget_s=1.0)
    results = runner.measure(task.data, requests, timing)
    ratios = [median(paired_ratios(result, results[0])) if result.ok else float("inf") for result in results]
    return {name: ratio / min(ratios) for name, ratio in zip(kernels, ratios, strict=True)}


def _request(task: TuneTask, kernel: Kernel, threads: int) -> MeasureRequest:
    packed = {
        position: pack_array(task.data.inputs[position], kernel.params[position])
        for position in task.data.constants
        if kernel.params[position].packing
    }
    return MeasureRequest(kernel, chunk_count(kernel.extent, threads), packed)


def _curve(outcome: Outcome) -> str:
    return " ".join(f"{trials}:{latency * 1e6:.1f}" for trials, latency in outcome.history)


def default_kernel(func: LoopFunc, target: Target) -> Kernel:
    """The kernel that is chosen without measuring."""
    return compile_kernel(replay(func, SearchSpace(func, target).defaults()[0].trace), target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--workloads", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--save", type=Path, help="write what random search measured to this file")
    options = parser.parse_args(arguments)
    target = detect_target()
    timing = TimingProtocol(target.threads, quick_repeats=7, repeats=15, budget_s=0.05)
    tasks = {name: make_task(CASES[name], target, options.seed) for name in options.workloads.split(",")}
    recorder = _Recorder({task.key.workload_digest: name for name, task in tasks.items()})
    print(f"{'workload':18s} {'regret: ' + ', '.join(['default', *STRATEGIES]):44s} curves in us by trials")
    with WorkerRunner() as runner:
        for name, task in tasks.items():
            kernels = {"default": default_kernel(task.func, target)}
            curves = []
            for strategy, make in STRATEGIES.items():
                (outcome,) = tune_tasks(
                    [task],
                    runner,
                    recorder if strategy == "random" else None,
                    SearchBudget(trials=options.trials),
                    build=build,
                    rng=np.random.default_rng(options.seed),
                    strategy=make,
                    timing=timing,
                    batch=options.batch,
                    seed=options.seed,
                ).outcomes
                curves.append(f"{strategy} {_curve(outcome)}")
                if isinstance(outcome.kernel, Kernel):
                    kernels[strategy] = outcome.kernel
            regret = final_race(task, kernels, runner, timing)
            print(f"{name:18s} {'  '.join(f'{v:.3f}' for v in regret.values()):44s} {' | '.join(curves)}", flush=True)
    if options.save is not None:
        save_samples(options.save, recorder.samples.values(), target)


if __name__ == "__main__":
    main()
