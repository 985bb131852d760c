"""A winning trace replayed by hand: what a schedule is, and what changing one number in it changes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

import tilewright as tw
from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.memory import CodegenError
from tilewright.database.record import TuningRecord
from tilewright.driver.pipeline import host
from tilewright.ir.loop import LoopFunc
from tilewright.ir.text import parse_ir, print_ir
from tilewright.passes.schedule import ScheduleError, Step, Trace, replay, trace_from_json


def _tuned(path: Path) -> TuningRecord:
    """The fastest candidate of a dense layer that was tuned with a few trials."""
    weights = np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)
    inputs = np.random.default_rng(1).standard_normal((500, 48)).astype(np.float32)
    fast = tw.compile(lambda x: jax.nn.relu(x @ weights), effort=1, budget=6, database=path)
    fast.tune(inputs)
    with tw.Database(path) as database:
        found = [r for r in database.records(status="ok")]
    return min(found, key=lambda r: r.median_s)


def _changed(workload: LoopFunc, trace: Trace) -> tuple[LoopFunc, Kernel]:
    """The program and its kernel with another factor of one split; of which, depends on what won."""
    for number, step in enumerate(trace):
        if step.primitive not in ("split", "rfactor"):
            continue
        name, factor = step.args
        changed = Step(step.primitive, step.target, (name, int(factor) // 2 or 2))
        try:
            other = replay(workload, (*trace[:number], changed, *trace[number + 1 :]))
            return other, compile_kernel(other, host())
        except (ScheduleError, CodegenError):  # the steps after it may need the old factor
            continue
    raise AssertionError(f"no split can be changed in {trace}")


def test_a_trace_of_the_database_replays_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "tuning.db"
    record = _tuned(path)
    workload, trace = parse_ir(record.workload_text), trace_from_json(record.trace)
    scheduled = replay(workload, trace)
    with tw.Database(path) as database:
        shown = database.show(record.id)
    for text in (record.workload_text, record.trace, print_ir(scheduled)):
        assert text.strip() in shown

    naive = compile_kernel(workload, host())
    best = compile_kernel(scheduled, host())
    other, kernel = _changed(workload, trace)
    assert print_ir(other) != print_ir(scheduled)
    assert len({k.object_code for k in (naive, best, kernel)}) == 3
    assert print_ir(replay(workload, ())) == print_ir(workload)
    assert best.extent > 1 and naive.extent == 1


def test_show_survives_rows_that_do_not_replay(tmp_path: Path) -> None:
    path = tmp_path / "tuning.db"
    record = _tuned(path)
    foreign = replace_trace(record, '[["explode","t0",[]]]')
    with tw.Database(path) as database:
        database.add(foreign)
        assert "not shown: step 0, explode(t0)" in database.show(foreign.id)


def replace_trace(record: TuningRecord, trace: str) -> TuningRecord:
    fields = record.model_dump(by_alias=True, exclude={"id"})
    return TuningRecord(**{**fields, "trace": trace})
