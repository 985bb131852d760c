"""Plans: what a graph trace does to a function, in this process, in a later one and in a saved file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tilewright
from tilewright.artifact.errors import ArtifactError
from tilewright.backends.llvm.kernel import Kernel
from tilewright.database.store import Database
from tilewright.driver import pipeline, plan_contest, plans
from tilewright.driver.assembly import assemble
from tilewright.driver.gate import runnable
from tilewright.driver.kernels import build_all
from tilewright.driver.pipeline import host
from tilewright.driver.plan_contest import PlanContest
from tilewright.driver.planning import Choice, Partition, Task, extended, part_of, partition
from tilewright.driver.plans import Offer, improved, predicted_faster, total_seconds
from tilewright.driver.predictions import Predictions
from tilewright.driver.verification import task_references
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.target import Target
from tilewright.passes.graph_choices import graph_candidates
from tilewright.passes.graph_trace import value_name, value_of
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import ScheduleError, Step


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


WEIGHT = drawn(24, 40)
SQUARE = drawn(24, 24)


def block(x):
    """A product with an epilogue, rows, and a value that two read."""
    y = jnp.tanh(x @ WEIGHT * 0.3 + 1)
    z = jnp.exp(y) - y
    return jax.nn.softmax(y), z.sum(0), z.max(1)


def cut_up(fn: Callable[..., Any], *args: Any) -> Partition:
    return partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args))))


def native(parts: Partition) -> Callable[..., Sequence[Any]]:
    """A partition's program, every region by a kernel."""
    predictions = Predictions(host())
    wanted = [(t.key, t.workload.func, predictions.traces(t)[0]) for t in parts.tasks.values()]
    kernels = build_all(wanted, host())
    return runnable(assemble(parts, {k: Choice(t, b) for (k, t), b in kernels.items()}, host())[0])


@pytest.mark.parametrize("seed", range(6))
def test_kernels_of_any_plan_compute_what_jax_does(seed):
    rng = np.random.default_rng(seed)
    x = drawn(32, 24, seed=seed)
    parts = cut_up(block, x)
    for _ in range(3):
        steps = [s for name in ("cut", "group", "rematerialize") for s in graph_candidates(parts.grouping, name)]
        for number in rng.permutation(len(steps))[:8]:
            try:
                parts = extended(parts, (steps[number],))
                break
            except ScheduleError:
                continue
    assert len(parts.trace) == 3
    for got, want in zip(native(parts)(x), jax.jit(block)(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_equal_regions_change_together():
    def layers(x):
        for seed in range(3):
            x = jnp.tanh(x @ drawn(24, 24, seed=seed)) * 0.5
        return jnp.exp(x).sum()

    parts = cut_up(layers, drawn(32, 24))

    def at_products(_: Partition, offers: Sequence[Offer]) -> list[Offer]:
        found = [o for o in offers if {t.kind for t in o.after} == {"contraction", "elementwise"}]
        return [o for o in found if len(o.steps) == 2][:1] or found[:1]

    predictions = Predictions(host())
    changed = improved(parts, predictions, at_products)
    kinds = [region.kind for region, _ in changed.regions]
    assert len(changed.trace) >= 2 and kinds.count("contraction") == 3
    assert improved(parts, predictions, lambda *_: []) is parts


def test_a_task_is_that_of_a_region_which_is_left():
    """Of equal regions the first one is cut; what is measured for the task has to fit the other one."""

    def twice(x):
        y = jnp.tanh(x @ SQUARE)
        return jnp.tanh(y @ SQUARE)

    parts = cut_up(twice, drawn(16, 24))
    (task,) = parts.tasks.values()
    assert task.count == 2
    first = parts.grouping.regions[0]
    changed = extended(parts, (Step("cut", value_name(parts.grouping.values(first)[0])),))
    assert len(changed.tasks) == 3 and task.key in changed.tasks
    for known in changed.tasks.values():
        assert set(known.workload.inputs) == known.region.inputs.keys()
        assert set(known.workload.outputs) == set(known.region.outputs)
    task_references(list(changed.tasks.values()), 0)


def test_some_regions_as_a_program_of_their_own():
    x = drawn(32, 24)
    parts = cut_up(block, x)
    product = next(r for r in parts.grouping.regions if r.kind == "contraction")
    part = part_of(parts, [parts.grouping.values(product)])
    assert list(part.tasks) == [parts.task(product)]
    (got,) = native(part)(*(x for _ in part.graph.inputs))
    np.testing.assert_allclose(got, jnp.tanh(x @ WEIGHT * 0.3 + 1), rtol=2e-5, atol=2e-5)


TARGET = Target("test", "+avx512f", 512, 2, 48 << 10, 1 << 20, 32 << 20, 255.0, 40.0)


def attention(q, k, v):
    return jax.nn.softmax(q @ k.transpose(0, 2, 1)) @ v


def any_kernel(tasks: Sequence[Task]) -> dict[str, Choice]:
    """Kernels that exist as far as this test is concerned."""
    return {task.key: Choice((), Kernel("none", b"", 1, 0, (), 1)) for task in tasks}


def test_steps_without_kernels_are_not_taken():
    parts = cut_up(attention, drawn(8, 8, 64), drawn(8, 1024, 64), drawn(8, 1024, 64))
    predictions = Predictions(TARGET)
    assert improved(parts, predictions, lambda _, offers: predicted_faster(offers, predictions, lambda _: {})) is parts


def test_long_programs_try_the_most_promising_steps_alone(monkeypatch):
    tried: list[int] = []
    changed = plans._changed

    def counted(grouping, step):
        tried.append(sum(len(r.members) for r in grouping.regions if value_of(str(step.target)) in grouping.values(r)))
        return changed(grouping, step)

    def scanned(x):
        return lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (x, x + 1))[1]

    parts, predictions = cut_up(scanned, drawn(64, 512)), Predictions(TARGET)
    monkeypatch.setattr(plans, "_changed", counted)
    monkeypatch.setattr(plans, "_MOST_OPERATIONS", 300)
    improved(parts, predictions, lambda *_: [])
    assert tried and sum(tried) <= 300 + max(tried)


@pytest.mark.parametrize(("queries", "steps"), [(8, 1), (512, 0)])
def test_few_queries_are_predicted_to_be_cheaper_apart(queries, steps):
    """Vectors run along the queries of streamed attention: with few of them, stored scores cost less."""
    parts = cut_up(attention, drawn(8, queries, 64), drawn(8, 1024, 64), drawn(8, 1024, 64))
    assert [region.kind for region, _ in parts.regions] == ["stream"]
    predictions = Predictions(TARGET)
    found = improved(parts, predictions, lambda _, offers: predicted_faster(offers, predictions, any_kernel))
    assert [step.primitive for step in found.trace] == ["cut"] * steps
    assert total_seconds(found, predictions) <= total_seconds(parts, predictions)


def extremes(x):
    y = jnp.abs(x * 0.5) - 1
    return y.max(0), y.max(1), y.min(1)


def test_what_several_reductions_share_is_predicted_to_be_cheaper_computed_again():
    x = drawn(512, 700)
    parts, predictions = cut_up(extremes, x), Predictions(TARGET)
    found = improved(parts, predictions, lambda _, offers: predicted_faster(offers, predictions, any_kernel))
    assert [step.primitive for step in found.trace] == ["rematerialize"]
    assert len(found.regions) == len(parts.regions) - 1
    for got, want in zip(native(found)(x), jax.jit(extremes)(x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_what_a_product_reads_is_not_computed_again():
    parts = cut_up(lambda x: (lambda y: (y.sum(1), y @ SQUARE))(jnp.abs(x)), drawn(4096, 24))
    predictions = Predictions(TARGET)
    found = improved(parts, predictions, lambda _, offers: predicted_faster(offers, predictions, any_kernel))
    assert "rematerialize" not in [step.primitive for step in found.trace]


def test_steps_are_compared_where_there_is_time():
    x = drawn(128, 64)

    def rows(x):
        y = jnp.exp(x[:, None, :] * x[:64, 0][None, :, None])
        return y.sum(2), y.max(2)

    parts = cut_up(rows, x)
    predictions = Predictions(host())
    asked: list[str] = []

    def kernels(tasks: Sequence[Task]) -> dict[str, Choice]:
        asked.extend(task.key for task in tasks)
        wanted = [(t.key, t.workload.func, predictions.traces(t)[0]) for t in tasks]
        return {k: Choice(t, b) for (k, t), b in build_all(wanted, host()).items() if isinstance(b, Kernel)}

    none = PlanContest(predictions, kernels, host(), seconds=-1.0, seed=0)
    assert improved(parts, predictions, none) is parts and not asked
    found = improved(parts, predictions, PlanContest(predictions, kernels, host(), seconds=2.0, seed=0))
    assert asked and len(asked) == len(set(asked)), "each kernel is built once"
    for got, want in zip(native(found)(x), jax.jit(rows)(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    refused = PlanContest(predictions, lambda _: {}, host(), seconds=2.0, seed=0)
    assert improved(parts, predictions, refused) is parts, "what fails its check is not compared"


def test_plans_of_the_same_kernels_are_not_compared(monkeypatch):
    def compared(*_: Any) -> None:
        raise AssertionError("one of two equal programs would win by chance")

    monkeypatch.setattr(plan_contest, "compare_speed", compared)
    x = drawn(32, 24)
    parts = cut_up(block, x)
    contest = PlanContest(Predictions(host()), lambda _: {}, host(), seconds=2.0, seed=0)
    start = replace(parts, trace=())
    found = replace(parts, trace=(Step("group", "%1"),))
    assert contest.confirmed(start, found, [x]) is start


def small(x):
    return jnp.tanh(x @ WEIGHT * 0.3 + 1)


@pytest.fixture
def one_step(monkeypatch):
    """Plans that cut at the first product, whatever it costs."""

    def cut(parts: Partition, *_: Any) -> Partition:
        product = next(op.result for op in parts.graph.ops if op.opcode == "dot_general")
        return extended(parts, (Step("cut", value_name(product)),))

    monkeypatch.setattr(pipeline, "improved", cut)
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)
    monkeypatch.setattr(pipeline, "WORTHWHILE_SECONDS", 0.0)


def test_a_later_process_and_a_saved_file_have_the_same_plan(one_step, tmp_path, monkeypatch):
    x, database = drawn(32, 24), tmp_path / "records.db"
    compiled = tilewright.compile(small, effort=0, database=database)
    want = compiled(x)
    rows = len(compiled.report().regions)
    assert compiled.report().plan == ("cut at dot_general",) and "plan: cut at dot_general" in str(compiled.report())
    assert rows == len(cut_up(small, x).tasks) + 1
    path = compiled.save(tmp_path / "small.tw", x)
    monkeypatch.setattr(pipeline, "improved", None)
    again = tilewright.compile(small, effort=0, database=database)
    np.testing.assert_array_equal(again(x), want)
    assert again.report().basis == "database" and len(again.report().regions) == rows
    assert again.report().plan == compiled.report().plan
    np.testing.assert_array_equal(tilewright.load(path)(x), want)


def rewritten(path: Path, **members: bytes) -> Path:
    """A saved file with other contents of some members, not signed."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name != "signature"}
    contents |= {name.replace("_", "."): data for name, data in members.items()}
    manifest = json.loads(contents["manifest.json"])
    for name, data in contents.items():
        if name in manifest["members"]:
            manifest["members"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    contents["manifest.json"] = json.dumps(manifest, sort_keys=True).encode()
    other = path.with_name("other.tw")
    with zipfile.ZipFile(other, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return other


def test_files_without_a_signature_are_rebuilt_with_their_plan(one_step, tmp_path):
    x = drawn(32, 24)
    compiled = tilewright.compile(small, effort=0, database=":memory:")
    want = compiled(x)
    path = compiled.save(tmp_path / "small.tw", x)
    kernels = len(compiled.report().regions)
    loaded = tilewright.load(rewritten(path), database=":memory:")
    assert loaded.status.endswith(f"{kernels} of {kernels} kernels built and checked here")
    np.testing.assert_array_equal(loaded(x), want)
    greedy = tilewright.load(rewritten(path, partition_json=b'[["cut","%999",[]]]'), database=":memory:")
    assert greedy.status.startswith("plain JAX"), "no schedule was recorded for the greedy region"
    np.testing.assert_allclose(greedy(x), want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ArtifactError, match=r"partition\.json is not valid"):
        tilewright.load(rewritten(path, partition_json=b"{}"), database=":memory:")


UNFIT = [{"steps": '[["cut","%999",[]]]'}, {"steps": "{}"}, {"formulations": {"key": "winograd4"}}]


@pytest.mark.parametrize("change", UNFIT)
def test_verdicts_that_do_not_fit_are_ignored(one_step, tmp_path, monkeypatch, change):
    x, path = drawn(32, 24), tmp_path / "records.db"
    tilewright.compile(small, effort=0, database=path)(x)
    plan = Database.plan

    def changed(*args: Any) -> Any:
        record = plan(*args)
        partition = json.dumps({**json.loads(record.partition), **change})
        return record.model_copy(update={"partition": partition})

    monkeypatch.setattr(Database, "plan", changed)
    again = tilewright.compile(small, effort=0, database=path)
    np.testing.assert_allclose(again(x), small(x), rtol=1e-4, atol=1e-4)
    assert again.report().basis == "predicted"
