"""A schedule that is refused costs a little time, not the kernel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tilewright as tw
from tilewright.driver import predictions
from tilewright.passes.schedule import Step


def test_the_next_schedule_is_taken_where_the_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = predictions.preferred
    tried: list[str] = []

    def worse(*args):
        """The first schedule is no schedule, and code generation refuses the second one."""
        found = known(*args)
        first = dataclasses.replace(found[0], trace=(Step("split", "nothing", ("i", 1)),))
        unrolled = (*found[0].trace, Step("set_scope", "x", ("register",)))
        tried.append(found[0].sketch)
        return [first, dataclasses.replace(found[0], trace=unrolled), *found]

    monkeypatch.setattr(predictions, "preferred", worse)
    w = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    fast = tw.compile(lambda x: np.float32(2) * (x @ w), effort=0, database=":memory:")
    x = np.ones((64, 256), np.float32)
    np.testing.assert_allclose(np.asarray(fast(x)), 2 * (x @ w), rtol=2e-4, atol=1e-3)
    assert tried and "native" in str(fast.report())
