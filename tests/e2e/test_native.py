"""Functions compiled to native code against `jax.jit`: results, verdicts, faults, threads."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright as tw
from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.toolchain import object_code
from tilewright.database.store import Database
from tilewright.driver import kernel_source, kernels, pipeline
from tilewright.driver.gate import check_accuracy, runnable
from tilewright.driver.options import make_options
from tilewright.driver.pipeline import Driver, host
from tilewright.frontends.jaxpr import to_graph


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def conv(x: Any, w: Any, stride: int = 1, groups: int = 1, padding: str = "SAME") -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=numbers, feature_group_count=groups
    )


def separable(x: Any) -> Any:
    """An inverted residual with batch norm, as mobile networks have it."""
    scale, shift = normal(24, seed=5), normal(24, seed=6)
    y = conv(x, normal(1, 1, 12, 24))
    y = jnp.clip(y * scale + shift, 0, 6)
    y = conv(y, normal(3, 3, 1, 24), groups=24)
    y = jnp.clip((y - shift) * jax.lax.rsqrt(scale * scale + 1e-3), 0, 6)
    return x + conv(y, normal(1, 1, 24, 12))


def strided(x: Any) -> Any:
    y = jax.nn.relu(conv(x, normal(3, 3, 12, 20), stride=2) + normal(20))
    y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return y.mean((1, 2)) @ normal(20, 7) + normal(7)


def grouped(x: Any) -> Any:
    return jax.nn.silu(conv(x, normal(3, 3, 3, 32), groups=4, padding="VALID"))


def attention(x: Any) -> Any:
    """A transformer layer on ``x`` seen as a sequence of 12 features."""
    x = x.reshape(-1, 12)[:40]
    q, k, v = (x @ normal(12, 16, seed=s) for s in (1, 2, 3))
    split = lambda t: t.reshape(40, 2, 8)  # noqa: E731
    scores = jnp.einsum("qhd,khd->hqk", split(q), split(k)) / 8**0.5
    y = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), split(v)).reshape(40, 16)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-5) * normal(16, seed=4)
    return jax.nn.gelu(y @ normal(16, 33)) + normal(33)


PROGRAMS = [separable, strided, grouped, attention]
INPUT = normal(1, 13, 11, 12)


def compiled(fn: Callable[..., Any], **options: Any) -> Any:
    return tw.compile(fn, **{"effort": 0, "database": ":memory:", **options})


@pytest.fixture
def anything_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small programs are not worth kernels; tests want them all the same."""
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)


@pytest.mark.usefixtures("anything_native")
@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda f: f.__name__)
def test_native_result_keeps_the_contract(fn: Callable[..., Any]) -> None:
    fast = compiled(fn)
    result = fast(INPUT)
    report = fast.report()
    assert report.mode == "native" and not report.reason, str(report)
    assert report.error is not None and report.error <= 1
    np.testing.assert_allclose(result, jax.jit(fn)(INPUT), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("anything_native")
@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("bits", [256, 512])
def test_vector_widths(fn: Callable[..., Any], bits: int) -> None:
    if host().vector_bits < bits:
        pytest.skip(f"this machine has no {bits}-bit vectors")
    target = host().restricted("avx2") if bits == 256 else host()
    graph = to_graph(jax.make_jaxpr(fn)(INPUT))
    outcome = Driver(make_options(None, 0, ":memory:", "cpu", 0, False), Database(":memory:"), target).run(graph, None)
    assert outcome.graph is not None, outcome.reason
    errors = check_accuracy(runnable(outcome.graph), runnable(graph), graph, [INPUT])
    assert all(e.holds for e in errors), errors


@pytest.mark.usefixtures("anything_native")
def test_under_transformations() -> None:
    fast = compiled(separable)
    batch = normal(3, 1, 13, 11, 12)
    np.testing.assert_allclose(jax.vmap(fast)(batch), jax.vmap(separable)(batch), rtol=1e-3, atol=1e-4)
    grad, want = (jax.grad(lambda x, f=f: f(x).sum())(INPUT) for f in (fast, separable))
    np.testing.assert_allclose(grad, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        jax.jit(lambda x: fast(fast(x)))(INPUT), separable(separable(INPUT)), rtol=1e-3, atol=1e-3
    )


def _faulty(body: str) -> Callable[..., Kernel]:
    """A stand-in for the code generator whose kernels misbehave."""
    original = kernels.compile_kernel

    def build(func: Any, target: Any) -> Kernel:
        good = original(func, target)
        text = f"""
define void @{good.symbol}_bad(ptr %bufs, i64 %lo, i64 %hi, ptr %scratch) {{
entry:
{body}
}}
declare void @llvm.trap()
"""
        code = object_code(text, features=target.features)
        return replace(good, symbol=good.symbol + "_bad", object_code=code)

    return build


FAULTS = {
    "illegal instruction": "  call void @llvm.trap()\n  unreachable",
    "endless loop": "  br label %again\nagain:\n  br label %again",
    "wild store": "  %p = inttoptr i64 64 to ptr\n  store i64 1, ptr %p\n  ret void",
    "nothing written": "  ret void",
}


@pytest.mark.usefixtures("anything_native")
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_kernels_never_reach_the_caller(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "compile_kernel", _faulty(FAULTS[fault]))
    monkeypatch.setattr(kernels, "_built", {})
    monkeypatch.setattr(kernel_source, "CHECK", replace(kernel_source.CHECK, timeout_s=1.0))
    database = Database(":memory:")
    fast = compiled(strided, database=database)
    np.testing.assert_allclose(fast(INPUT), jax.jit(strided)(INPUT), rtol=1e-4, atol=1e-5)
    assert fast.report().mode == "xla"
    statuses = {record.status for record in database.records()}
    assert statuses and "ok" not in statuses


_PROCESS = """
import json, sys
sys.path[:0] = [{folder!r}]
import test_native as t
from tilewright.driver import pipeline
pipeline.MIN_PREDICTED_SPEEDUP = 0.0
fast = t.compiled(t.separable, database={database!r}, effort={effort})
fast(t.INPUT)
report = fast.report()
print(json.dumps([report.mode, report.basis, report.reason]))
"""


def test_second_process_measures_nothing(tmp_path: Any) -> None:
    folder = str(__import__("pathlib").Path(__file__).parent)
    code = _PROCESS.format(folder=folder, database=str(tmp_path / "t.db"), effort=0)
    found = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found == [["native", "predicted", ""], ["native", "database", ""]]


@pytest.mark.usefixtures("anything_native")
def test_many_threads_and_independent_kernels() -> None:
    fast = compiled(lambda *xs: [separable(x + i) for i, x in enumerate(xs)])
    inputs = [INPUT * (i + 1) for i in range(8)]
    want = [np.asarray(w) for w in jax.jit(lambda *xs: [separable(x + i) for i, x in enumerate(xs)])(*inputs)]
    wrong: list[str] = []

    def hammer() -> None:
        for _ in range(20):
            for got, expected in zip(fast(*inputs), want, strict=True):
                if not np.allclose(got, expected, rtol=1e-3, atol=1e-3):
                    wrong.append("a result differs")

    threads = [threading.Thread(target=hammer, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert not wrong


def test_small_programs_stay_with_xla() -> None:
    fast = compiled(lambda x: x + 1)
    np.testing.assert_array_equal(fast(jnp.ones(4)), np.full(4, 2, np.float32))
    assert fast.report().mode == "xla"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "abacus"}, "target: expected one of 'cpu'"),
        ({"effort": 9}, "effort: expected one of 0, 1, 2, 3"),
        ({"budget": "soon"}, "budget: expected a time"),
        ({"database": 3}, "database: expected a path"),
    ],
)
def test_options_say_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        tw.compile(lambda x: x, **options)
