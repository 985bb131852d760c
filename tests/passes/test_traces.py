"""Traces as data: replay, JSON, and what is refused before a primitive sees it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_programs import GOLDEN, MATMUL, steps

from tilewright.passes.schedule import (
    ReplayError,
    ScheduleError,
    Step,
    apply_step,
    primitives,
    replay,
    trace_from_json,
    trace_to_json,
)


def test_unknown_primitives_and_wrong_arguments_are_refused():
    for step, match in (
        (Step("skew", "out"), "expected one of the primitives .*'split'"),
        (Step("split", "out", ("i",)), "wrong arguments for split: missing"),
        (Step("split", "out", ("i", 2, 3)), "wrong arguments for split: too many"),
        (Step("split", "out", ("i", "2")), "expected factor of split to be int, found '2'"),
        (Step("split", "out", (3, 2)), "expected iterator of split to be str, found 3"),
        (Step("pack", "w", ("0", 2)), "expected axis of pack to be int, found '0'"),
        (Step("split", "out", ("i", True)), "expected factor of split to be int, found True"),
        (Step("reorder", "out", ("i", 1)), "expected order of reorder to be str, found 1"),
    ):
        with pytest.raises(ScheduleError, match=match):
            apply_step(MATMUL, step)


def test_replay_says_which_step_was_refused():
    with pytest.raises(ReplayError, match=r"step 1, split\(out, i, 9\): expected a factor") as caught:
        replay(MATMUL, steps(("split", "out", "j", 2), ("split", "out", "i", 9)))
    assert (caught.value.index, caught.value.step.args) == (1, ("i", 9))


@pytest.mark.parametrize("name", GOLDEN)
def test_traces_survive_json(name):
    trace = GOLDEN[name][1]
    assert trace_from_json(trace_to_json(trace)) == trace


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[["split"]]',
        '[["split", 1, []]]',
        '[["split", "a", 1]]',
        '[["split", "a", [1.5]]]',
        '[["split", "a", [true]]]',
        '[["split", "a", [[1]]]]',
    ],
)
def test_what_is_no_trace_is_refused(text):
    with pytest.raises(ScheduleError, match="expected"):
        trace_from_json(text)


def test_replay_alone_knows_every_primitive():
    code = "from tilewright.passes.schedule import primitives; print(len(primitives()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == len(primitives()) >= 15
