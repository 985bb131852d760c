"""The comparison of layouts: each side computes the same, and a line comes out."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.bench import layouts


@pytest.mark.parametrize("arguments", [False, True])
def test_sides_compute_the_same(monkeypatch, capsys, arguments):
    monkeypatch.setitem(layouts.NETWORKS, "narrow", (layouts.narrow, 24))
    programs, examples = layouts.sides("narrow", arguments)
    assert list(programs) == ["jax.jit", "as given", "chosen"] and len(examples) == (9 if arguments else 1)
    first, *others = (np.asarray(run(*examples)[0]) for run in programs.values())
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-4)
    flags = ["--arguments"] if arguments else []
    assert layouts.main(["--networks", "narrow", "--seconds", "0.05", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("narrow ")
