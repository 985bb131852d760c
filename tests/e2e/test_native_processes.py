"""Native functions where processes, devices and threads meet: each case is a program in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import os, sys, threading
import jax, jax.numpy as jnp, numpy as np
sys.path.insert(0, os.environ["TEST_FOLDER"])
import test_native as t
from tilewright.driver import pipeline
pipeline.MIN_PREDICTED_SPEEDUP = 0.0
"""

PSUM_BETWEEN_KERNELS = """
from jax.sharding import AxisType, PartitionSpec as P
assert jax.device_count() == 8
fast = t.compiled(t.separable)
mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
def two(f):
    def local(x):
        y = f(x[0])
        y = f(y / (1 + jax.lax.pmax(jnp.abs(y).max(), "d")) + jax.lax.psum(y, "d") * 1e-3)
        return y[None]
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False))
x = t.normal(8, 1, 13, 11, 12)
want = two(jax.jit(t.separable))(x)
run = two(fast)
for _ in range(20):
    np.testing.assert_allclose(run(x), want, rtol=1e-3, atol=1e-3)
assert fast.report().mode == "native", fast.report()
print("done")
"""

FIRST_CALLS_AT_ONCE = """
fast = t.compiled(t.strided)
results, barrier = [], threading.Barrier(2)
def call():
    barrier.wait()
    results.append(np.asarray(fast(t.INPUT)))
threads = [threading.Thread(target=call) for _ in range(2)]
[th.start() for th in threads]; [th.join(60) for th in threads]
assert not any(th.is_alive() for th in threads)
assert len(results) == 2
for r in results:
    np.testing.assert_allclose(r, jax.jit(t.strided)(t.INPUT), rtol=1e-3, atol=1e-4)
print("done")
"""

PERSISTENT_CACHE = """
jax.config.update("jax_compilation_cache_dir", os.environ["CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
fast = t.compiled(t.separable)
np.testing.assert_allclose(fast(t.INPUT), t.separable(t.INPUT), rtol=1e-3, atol=1e-4)
assert fast.report().mode == "native", fast.report()
print("done")
"""


def run(program: str, **environment: str) -> None:
    variables = {**os.environ, "TEST_FOLDER": str(Path(__file__).parent), **environment}
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=120, env=variables
    )
    assert done.returncode == 0 and "done" in done.stdout, done.stderr[-3000:]
    assert "NOT_FOUND" not in done.stderr


@pytest.mark.parametrize(
    ("program", "flags"),
    [(PSUM_BETWEEN_KERNELS, "--xla_force_host_platform_device_count=8"), (FIRST_CALLS_AT_ONCE, "")],
    ids=["psum_between_kernels", "first_calls_at_once"],
)
def test_no_deadlock(program: str, flags: str) -> None:
    run(program, XLA_FLAGS=flags)


def test_persistent_compilation_cache(tmp_path: Path) -> None:
    for _ in range(2):
        run(PERSISTENT_CACHE, CACHE=str(tmp_path))
    assert any(tmp_path.iterdir())
