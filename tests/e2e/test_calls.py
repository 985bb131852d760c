"""Arguments of calls that make JAX compile something, and what such a call may cost afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright
from tilewright.backends import calls
from tilewright.backends.calls import Arguments, arguments_of, compiled_by_jax
from tilewright.driver.outcome import Outcome
from tilewright.driver.pipeline import Driver
from tilewright.ir.graph import Graph


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Any] | None]:
    """What every compilation gets to measure with."""
    seen: list[Sequence[Any] | None] = []

    def run(driver: Driver, graph: Graph, examples: Sequence[Any] | None) -> Outcome:
        seen.append(examples)
        return driver.outcome

    monkeypatch.setattr(Driver, "run_safely", run)
    return seen


def scaled(x: jax.Array, *, by: float = 2.0) -> jax.Array:
    return jnp.tanh(x * by)


def holds(seen: Sequence[Any] | None, *wanted: Any) -> bool:
    return seen is not None and len(seen) == len(wanted) and all(a is b for a, b in zip(seen, wanted, strict=True))


@pytest.mark.parametrize("shown", [True, False])
def test_every_new_shape_comes_with_its_arguments(
    given: list[Sequence[Any] | None], monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    if not shown:  # as if JAX's frames looked different
        monkeypatch.setattr(calls, "compiled_by_jax", lambda: None)
    function = tilewright.compile(scaled, database=":memory:")
    for size in (3, 4, 5):
        x, by = np.ones(size, np.float32), np.float32(size)
        for _ in range(2):
            np.testing.assert_allclose(function(x, by=by), np.tanh(x * by), rtol=1e-6)
        assert len(given) == size - 2 and holds(given[-1], x, by)
    assert (function._calls.entry is function._calls.jitted) == shown


def test_called_by_others_there_are_none(given: list[Sequence[Any] | None]) -> None:
    inner = tilewright.compile(scaled, database=":memory:")
    x = jnp.ones(6)
    for known in (False, True):  # before and after it was called by itself
        given.clear()
        jax.clear_caches()
        jax.jit(lambda x: inner(x) + 1)(x)
        jax.vmap(inner)(jnp.ones((2, 5 + known)))
        jax.grad(lambda x: inner(x).sum())(x)
        assert given and not any(given)
        alone = jnp.ones(7 + known)
        inner(alone)
        assert holds(given[-1], alone)


def test_functions_that_call_each_other(given: list[Sequence[Any] | None]) -> None:
    inner = tilewright.compile(scaled, database=":memory:")
    outer = tilewright.compile(lambda x: inner(x) + 1, database=":memory:")
    x, y = jnp.ones(3), jnp.ones(4)
    inner(y)
    outer(x)
    assert holds(given[0], y) and holds(given[1], x) and len(given) == 2
    outer(y)
    assert holds(given[2], y)


def test_constants_computed_while_another_function_is_traced(given: list[Sequence[Any] | None]) -> None:
    inner = tilewright.compile(scaled, database=":memory:")
    inner(jnp.ones(9))
    fixed = jnp.ones(5)

    @tilewright.compile(database=":memory:")
    def outer(x: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():
            found = inner(fixed)
        return x + found

    x = jnp.ones(5)
    np.testing.assert_allclose(outer(x), 1 + np.tanh(2.0), rtol=1e-6)
    assert holds(given[1], fixed) and holds(given[-1], x)


def test_tuned_again_it_is_compiled_again(given: list[Sequence[Any] | None]) -> None:
    function = tilewright.compile(scaled, effort=0, database=":memory:")
    x = jnp.ones(4)
    for _ in range(2):
        np.testing.assert_allclose(function(x), np.tanh(2.0), rtol=1e-6)
        assert function._calls.entry is function._calls.jitted
    assert len(given) == 1
    function._calls.forget()  # as `tune` does
    assert function._calls.entry is not function._calls.jitted
    function(x)
    assert holds(given[1], x)


def test_called_inside_a_call_of_its_own(given: list[Sequence[Any] | None]) -> None:
    """The innermost call in progress is what counts, whether or not another function was jitted around it."""
    fixed = jnp.ones(5)

    @tilewright.compile(database=":memory:")
    def function(x: jax.Array, depth: Any) -> jax.Array:
        if not depth:
            return jnp.tanh(x)
        with jax.ensure_compile_time_eval():
            inner = (function, jax.jit(lambda y: function(y, ())))[len(depth) - 1]
            return x + inner(fixed, *((),) * (len(depth) == 1))

    x = jnp.zeros(5)
    function(jnp.ones(3), ())  # from here on there is no frame of ours
    np.testing.assert_allclose(function(x, (1.0,)), np.tanh(1.0), rtol=1e-6)
    assert holds(given[1], fixed) and holds(given[2], x) and len(given) == 3
    np.testing.assert_allclose(function(x, (1.0, 1.0)), np.tanh(1.0), rtol=1e-6)
    assert given[3] is None and holds(given[4], x) and len(given) == 5


def test_errors_leave_it_as_it_was() -> None:
    function = tilewright.compile(lambda x, y: x @ y, effort=0, database=":memory:")
    for _ in range(2):
        with pytest.raises(TypeError):
            function(jnp.ones((2, 3)), jnp.ones((2, 3)))
        assert function(jnp.ones((2, 3)), jnp.ones((3, 2))).shape == (2, 2)


def test_same_arguments() -> None:
    a, b = object(), object()
    call = Arguments((a,), {"b": b})
    assert call.same(Arguments((a,), {"b": b}))
    others = [
        Arguments((b,), {"b": b}),
        Arguments((a,), {"b": a}),
        Arguments((a,), {}),
        Arguments((a, a), {"b": b}),
    ]
    assert not any(call.same(other) for other in others)


def test_frames_of_others() -> None:
    class Caller:
        def call(self, *args: Any, **kwargs: Any) -> Any:
            return self.inside()

        def inside(self) -> Any:
            code = Caller.call.__code__
            return arguments_of(self, code), arguments_of(object(), code), compiled_by_jax()

    assert Caller().call(1, b=2) == (Arguments((1,), {"b": 2}), None, None)
    assert arguments_of(None, Caller.call.__code__) is None
