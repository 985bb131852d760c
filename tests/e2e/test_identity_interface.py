"""`compile` as an interface: decorators, methods, static arguments, pytrees, errors, stages."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright
from tilewright.driver.outcome import Outcome
from tilewright.driver.pipeline import Driver
from tilewright.ir.graph import Graph


def test_decorator_with_and_without_options() -> None:
    @tilewright.compile
    def plain(x: jax.Array) -> jax.Array:
        """Adds one."""
        return x + 1

    @tilewright.compile(effort=0, budget="1s", donate_argnums=0)
    def tuned(x: jax.Array) -> jax.Array:
        return x + 1

    assert plain.__name__ == "plain" and plain.__doc__ == "Adds one."
    np.testing.assert_array_equal(plain(jnp.ones(2)), tuned(jnp.ones(2)))
    assert "plain" in repr(plain)


def test_methods() -> None:
    @jax.tree_util.register_dataclass
    @functools.partial(__import__("dataclasses").dataclass)
    class Layer:
        w: jax.Array

        @tilewright.compile
        def __call__(self, x: jax.Array, *, scale: float = 1.0) -> jax.Array:
            return x @ self.w * scale

    layer = Layer(jnp.eye(3) * 2)
    np.testing.assert_array_equal(layer(jnp.ones(3), scale=3.0), [6, 6, 6])
    np.testing.assert_array_equal(jax.grad(lambda layer: layer(jnp.ones(3)).sum())(layer).w, np.ones((3, 3)))


def test_static_arguments() -> None:
    traced = []

    def f(x: jax.Array, kind: str, times: int = 2) -> jax.Array:
        traced.append((kind, times))
        return x * times if kind == "mul" else x + times

    compiled = tilewright.compile(f, static_argnums=(1, 2))
    assert compiled(1.0, "mul") == 2 and compiled(1.0, "add", 5) == 6
    assert compiled(2.0, "mul") == 4 and compiled(2.0, kind="add", times=1) == 3
    assert compiled(3.0, "mul") == 6
    assert len(traced) == len(set(traced))
    first = tilewright.compile(lambda n, x: jnp.ones(n) * x, static_argnums=0)
    assert first(3, 2.0).shape == (3,) and first(4, 2.0).shape == (4,)
    last = tilewright.compile(lambda x, n: x.reshape(n), static_argnums=-1)
    assert last(jnp.ones(6), (2, 3)).shape == (2, 3)


def test_pytrees_and_empty_results() -> None:
    def f(tree: Any, *rest: Any, **named: Any) -> Any:
        return {"b": tree["a"][0] + named["y"], "a": rest, "none": None, "empty": ()}

    arguments = ({"a": (jnp.ones(2), 3)}, jnp.zeros((0, 4)), 1.5)
    actual = tilewright.compile(f)(*arguments, y=2, x=None)
    expected = jax.jit(f)(*arguments, y=2, x=None)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert tilewright.compile(lambda: None)() is None
    assert tilewright.compile(lambda: 3)() == 3
    assert tilewright.compile(lambda x: x)("" if False else 2) == 2


def test_partial_and_callable_objects() -> None:
    assert tilewright.compile(functools.partial(lambda a, b: a - b, b=2))(5) == 3

    class Model:
        def __call__(self, x: Any) -> Any:
            return x * 2

    assert tilewright.compile(Model())(4) == 8


def test_traced_once_per_shape() -> None:
    calls = []
    compiled = tilewright.compile(lambda x: (calls.append(x.shape), x * 2)[1])
    for shape in ((2,), (3,), (2,), (3,), (2,)):
        compiled(jnp.ones(shape))
    assert calls == [(2,), (3,)]


def test_build_sees_the_arguments_of_an_eager_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def spy(self: Driver, graph: Graph, example_args: Any) -> Outcome:
        seen.append(example_args)
        return Outcome()

    monkeypatch.setattr(Driver, "run_safely", spy)
    compiled = tilewright.compile(lambda x, unused, y: x + y["k"])
    x, y = jnp.arange(3.0), {"k": np.ones(3, np.float32)}
    compiled(x, 5, y)
    (arguments,) = seen
    assert arguments is not None and [np.asarray(a).tolist() for a in arguments] == [[0, 1, 2], [1, 1, 1]]
    seen.clear()
    jax.jit(lambda x: compiled(x, 1, {"k": x}))(jnp.ones(4))
    jax.vmap(compiled, in_axes=(0, None, None))(jnp.ones((2, 3)), 1, y)
    jax.jit(compiled).lower(jnp.ones(5), 1, {"k": jnp.ones(5)})
    assert seen == [None, None, None]


def test_lower_shows_every_stage() -> None:
    compiled = tilewright.compile(lambda x: (x * 1.0).T.T + 0)
    lowered = compiled.lower(jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert lowered.stages[0][0] == "traced"
    assert "mul(" in lowered.as_text("traced") and "mul(" not in lowered.as_text(lowered.stages[-1][0])
    assert lowered.as_text().count("return") == len(lowered.stages) + 1  # the plan comes last
    assert [op.opcode for op in lowered.graph.ops] == ["add"]
    with pytest.raises(KeyError, match="traced"):
        lowered.as_text("no such stage")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "gpu9"}, ValueError, "'cpu'"),
        ({"target": 3}, ValueError, "'cpu'"),
        ({"effort": 4}, ValueError, "0, 1, 2, 3"),
        ({"effort": True}, ValueError, "0, 1, 2, 3"),
        ({"effort": "high"}, ValueError, "0, 1, 2, 3"),
        ({"budget": "soon"}, ValueError, "60s"),
        ({"budget": -1}, ValueError, ">= 0"),
        ({"budget": 1.5}, TypeError, "60s"),
        ({"database": 3}, TypeError, "path"),
        ({"seed": -1}, ValueError, ">= 0"),
        ({"budgets": 3}, TypeError, "budgets"),
    ],
)
def test_wrong_options_say_what_is_allowed(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tilewright.compile(lambda x: x, **options)


def test_wrong_function() -> None:
    with pytest.raises(TypeError, match="expected a function"):
        tilewright.compile(3)  # type: ignore[call-overload]


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("2m", 120), ("1h", 3600), ("500ms", 0.5), (" 1.5 s", 1.5)])
def test_budget_times(text: str, seconds: float) -> None:
    assert tilewright.compile(lambda x: x, budget=text).options.budget == tilewright.Budget(seconds=seconds)
    assert tilewright.compile(lambda x: x, budget=64).options.budget == tilewright.Budget(trials=64)


def two(x: jax.Array, y: jax.Array) -> jax.Array:
    return x + y


def branch(x: jax.Array, flag: Any) -> jax.Array:
    return x if flag > 0 else -x


def fails(x: jax.Array) -> jax.Array:
    raise LookupError("the user's own error")


@pytest.mark.parametrize(
    ("f", "arguments", "named"),
    [
        (two, (1.0,), {}),
        (two, (1.0, 2.0, 3.0), {}),
        (two, (1.0,), {"z": 1}),
        (two, (1.0, "text"), {}),
        (two, (1.0, object()), {}),
        (two, (np.ones(3), np.ones(4)), {}),
        (branch, (np.ones(3), 1), {}),
        (fails, (1.0,), {}),
    ],
)
def test_wrong_calls_fail_as_under_jit(f: Any, arguments: Any, named: Any) -> None:
    with pytest.raises(Exception) as expected:
        jax.jit(f)(*arguments, **named)
    with pytest.raises(type(expected.value)) as actual:
        tilewright.compile(f)(*arguments, **named)
    assert str(actual.value).split(" at 0x")[0] == str(expected.value).split(" at 0x")[0]


def test_leaked_tracer_is_reported_as_under_jit() -> None:
    leaked = []
    tilewright.compile(lambda x: (leaked.append(x), x)[1])(1.0)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        leaked[0] + 1


def test_error_inside_does_not_poison_later_calls() -> None:
    compiled = tilewright.compile(lambda x, y: x @ y)
    with pytest.raises(TypeError):
        compiled(jnp.ones((2, 3)), jnp.ones((2, 3)))
    assert compiled(jnp.ones((2, 3)), jnp.ones((3, 2))).shape == (2, 2)


def test_importing_parts_does_not_import_jax() -> None:
    modules = "tilewright, tilewright.ir.graph_text, tilewright.passes.pipeline"
    script = f"import sys, {modules}; assert 'jax' not in sys.modules; import tilewright; tilewright.compile"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError, match="nonsense"):
        tilewright.nonsense  # noqa: B018
