"""The profile of a native call: what is recorded of each phase, and what loops consist of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilewright.backends.llvm import ffi
from tilewright.backends.llvm.ffi import bind_plan, recording_code
from tilewright.bench.instructions import innermost_loops
from tilewright.bench.stages import compiled, main, phase_times, profile, stage_work

ASSEMBLY = """
kernel:
\tmovq\t(%rdi), %rax
.LBB0_1:
\txorl\t%ecx, %ecx
.LBB0_2:
\tvmovups\t(%rax,%rcx), %zmm0
\tvfmadd231ps\t(%rdx){1to16}, %zmm0, %zmm1
\tvmovups\t%zmm1, (%rsi,%rcx)
\tprefetcht0\t64(%rax,%rcx)
\taddq\t$64, %rcx
\tjne\t.LBB0_2
\tdecq\t%rdi
\tjne\t.LBB0_1
\tretq
"""


def test_an_innermost_loop_is_counted_by_kind() -> None:
    (loop,) = innermost_loops(ASSEMBLY)
    assert loop.label == ".LBB0_2"
    assert dict(loop.kinds) == {"move": 2, "fma": 1, "prefetch": 1, "scalar": 2}
    assert (loop.instructions, loop.loads, loop.stores) == (6, 2, 1)


def test_phase_times_are_medians_over_calls_and_leave_out_who_came_late() -> None:
    one = [[[1.0, 3.0, 4.0], [4.0, 5.0, 6.0]], [[2.0, 4.0, 4.0], [0.0, 0.0, 6.0]]]
    first, second = phase_times(np.array([one, one]))
    assert (first.seconds, first.waiting) == (3.0, 0.5)
    assert (second.seconds, second.waiting) == (2.0, 1.0)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_phase_of_a_block_is_recorded(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffi, "_usable_threads", lambda: threads)
    outcome, _ = compiled("kernels", "mobilenetv2-block", 0, ":memory:")
    (native,) = outcome.natives
    phases, moments, _ = profile(native, 5, None)
    assert moments.shape[0] == 5 and moments.shape[2:] == (len(phases), 3)
    caller = moments[:, 0]  # has no share of a phase that the others finished first
    assert (caller[..., [0, 2]] > 0).all()
    assert all((np.diff(call[call > 0]) >= 0).all() for call in caller)
    assert all(time.seconds > 0 and time.waiting >= 0 for time in phase_times(moments))
    assert {s.kernel for p in phases for s in p.stages} <= stage_work(outcome).keys()


def test_recording_changes_no_result() -> None:
    outcome, _ = compiled("kernels", "mobilenetv2-block", 0, ":memory:")
    (native,) = outcome.natives
    (tensor,) = native.plan.inputs
    x = np.random.default_rng(0).standard_normal(tensor.shape).astype(np.float32)
    (recorded,) = bind_plan(native.plan, native.kernels, recording_code())(x)
    (silent,) = bind_plan(native.plan, native.kernels)(x)
    np.testing.assert_array_equal(recorded, silent)


def test_the_table_of_a_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["conv-1x1", "--suite", "kernels", "--calls", "3", "--loops", "1", "--database", str(tmp_path / "x.db")]
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "in 1 phases" in shown and "conv_general_dilated" in shown and "instructions" in shown


def test_a_row_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-row", "--suite", "kernels"]) == 2
    assert "no-such-row" in capsys.readouterr().err
