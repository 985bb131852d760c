"""Large results in recycled memory: what a caller still refers to in any way never changes."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright as tw
from tilewright.backends import recycling
from tilewright.backends.calls import Arguments
from tilewright.driver import pipeline

SHAPE = (300, 1000)
DEVICE = jax.devices("cpu")[0]

pytestmark = pytest.mark.skipif(jax.device_count() > 1, reason="results are recycled on a single device")


@pytest.fixture(autouse=True)
def small_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a megabyte count as large, and the allocator is as it comes."""
    monkeypatch.setattr(recycling, "LEAST_BYTES", 1 << 18)
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)


def softmax() -> Any:
    return tw.compile(lambda x: jax.nn.softmax(x, axis=-1), effort=0, database=":memory:")


@functools.cache
def at_once() -> bool:
    """Whether XLA runs a native call in the thread that calls; results that are not there yet are not recycled."""
    function = softmax()
    return all(function(argument(seed)).is_ready() for seed in range(4))


@functools.cache
def shared() -> Any:
    """One function for all tests that leave it as it is."""
    return softmax()


def argument(seed: int) -> Any:
    """An array that is there: results of others are not waited for, and not recycled."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)).block_until_ready()


def expected(seed: int) -> np.ndarray:
    return np.asarray(jax.nn.softmax(argument(seed), axis=-1))


def same(value: Any, seed: int) -> None:
    np.testing.assert_allclose(np.array(value), expected(seed), rtol=1e-5, atol=1e-7)


def warm(function: Any) -> None:
    """Calls until memory is recycled."""
    for seed in range(4):
        same(function(argument(seed)), seed)
    assert function.report().mode == "native"


def place(array: jax.Array) -> int:
    return array.unsafe_buffer_pointer()


def test_memory_is_used_again() -> None:
    if not at_once():
        pytest.skip("this jaxlib runs native calls in threads of its own")
    function = softmax()
    warm(function)
    places = set[int]()
    for seed in range(8):
        result = function(argument(seed))
        places.add(place(result))
        same(result, seed)
        assert result.sharding == jax.jit(jnp.exp)(argument(0)).sharding
        assert not result.weak_type and not result.committed
    assert len(places) <= 3


def test_results_that_are_kept_do_not_change() -> None:
    function = softmax()
    warm(function)
    results = [function(argument(seed)) for seed in range(7)]
    assert len({place(result) for result in results}) == 7
    for seed, result in enumerate(results):
        same(result, seed)


ALIASES: dict[str, Callable[[jax.Array], Any]] = {
    "array": lambda y: y,
    "numpy": np.asarray,
    "part of a numpy view": lambda y: np.asarray(y)[:, 3:7],
    "memoryview": memoryview,
    "numpy from dlpack": np.from_dlpack,
    "jax from dlpack": jax.dlpack.from_dlpack,
    "capsule": lambda y: y.__dlpack__(),
    "device_put": lambda y: jax.device_put(y, DEVICE),
    "device_put that may alias": lambda y: jax.device_put(y, may_alias=True),
    "asarray": jnp.asarray,
    "shard": lambda y: y.addressable_shards[0].data,
    "data": lambda y: y.addressable_data(0),
    "global array": lambda y: jax.make_array_from_single_device_arrays(y.shape, y.sharding, [y]),
    "closure": lambda y: jax.jit(lambda: y + 0),
    "closure that was called": lambda y: (lambda f: (f(), f)[1])(jax.jit(lambda: y + 0)),
    "partial": lambda y: jax.tree_util.Partial(jnp.add, y),
    "identity": jax.jit(lambda y: y),
    "stop_gradient": jax.lax.stop_gradient,
    "reshape": lambda y: y.reshape(SHAPE),
    "astype": lambda y: y.astype(jnp.float32),
    "transposed twice": lambda y: y.T.T,
    "reference": lambda y: jax.new_ref(y),
}


def contents(alias: Any) -> np.ndarray:
    """The values behind an alias."""
    if type(alias).__name__ == "PyCapsule":
        return np.from_dlpack(_Exporter(alias))
    if isinstance(alias, jax.tree_util.Partial):
        return np.asarray(alias(0.0))
    if callable(alias):
        return np.asarray(alias())
    if not isinstance(alias, jax.Array | np.ndarray | memoryview):
        return np.asarray(alias[...])
    return np.asarray(alias)


class _Exporter:
    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


@pytest.mark.parametrize("name", ALIASES)
def test_whatever_refers_to_a_result_keeps_it(name: str) -> None:
    function = shared()
    warm(function)
    result = function(argument(50))
    alias = ALIASES[name](result)
    del result
    gc.collect()
    for seed in range(6):
        same(function(argument(seed)), seed)
    values = contents(alias)
    wanted = expected(50)
    np.testing.assert_allclose(values, wanted if values.shape == wanted.shape else wanted[:, 3:7], rtol=1e-5)


def test_an_alias_that_goes_sets_memory_free() -> None:
    function = shared()
    warm(function)
    held = function(argument(1))
    alias, where = np.asarray(held), place(held)
    del held
    assert where not in {place(function(argument(seed))) for seed in range(6)}
    del alias
    kept = [function(argument(seed)) for seed in range(3)]
    assert where in {place(result) for result in kept}


def test_torch_keeps_what_it_imports() -> None:
    torch = pytest.importorskip("torch")
    function = shared()
    warm(function)
    tensor = torch.from_dlpack(function(argument(9)))
    for seed in range(5):
        function(argument(seed))
    same(tensor.numpy(), 9)


def test_computations_that_still_run_keep_what_they_read() -> None:
    function = shared()
    warm(function)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((SHAPE[1], 800)).astype(np.float32))

    @jax.jit
    def slow(y: jax.Array) -> jax.Array:
        return y @ weights + jnp.sin(jnp.cumsum(y, axis=1)) @ weights

    wanted = [np.asarray(slow(jnp.asarray(expected(seed)))) for seed in range(12)]
    pending = [slow(function(argument(seed))) for seed in range(12)]
    for want, got in zip(wanted, pending, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_weak_reference_comes_back_unharmed() -> None:
    function = shared()
    warm(function)
    result = function(argument(3))
    weak = weakref.ref(result)
    del result
    revived = weak()
    for seed in range(4):
        same(function(argument(seed)), seed)
    if revived is not None:
        same(revived, 3)


def test_threads() -> None:
    function = shared()
    warm(function)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            held: list[tuple[int, Any]] = []
            for turn in range(40):
                seed = 10 * number + turn % 5
                result = function(argument(seed))
                held.append((seed, (result, np.asarray(result), jax.device_put(result, DEVICE))[turn % 3]))
                if turn % 4 == 3:
                    for known, value in held:
                        same(value, known)
                    held = held[-(number % 3) :] if number % 3 else []
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_deleting_a_result() -> None:
    function = shared()
    warm(function)
    result = function(argument(1))
    view = np.asarray(result)
    result.delete()
    for seed in range(4):
        same(function(argument(seed)), seed)
    same(view, 1)


@pytest.mark.parametrize("bound", [False, True])
def test_donating_a_result_ends_it(bound: bool) -> None:
    function, update = softmax(), jax.jit(lambda y: y * 2, donate_argnums=0)
    warm(function)
    result = function(argument(1))
    doubled = update(result)
    if not bound:
        del result
    np.testing.assert_allclose(doubled, 2 * expected(1), rtol=1e-5)
    results = [function(argument(seed)) for seed in range(4)]
    for seed, value in enumerate(results):
        same(value, seed)
    same_place = [place(value) for value in results]
    assert [place(update(value)) for value in results] == same_place  # they are XLA's own again


def test_inside_other_functions_nothing_is_recycled() -> None:
    function = softmax()
    warm(function)
    np.testing.assert_allclose(jax.jit(lambda x: function(x) + 1)(argument(1)), expected(1) + 1, rtol=1e-5)
    fixed = argument(2)
    results = jax.jit(lambda x: (function(fixed) + x, function(fixed) - x))(1.0)
    np.testing.assert_allclose(results[0], expected(2) + 1, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(function)(argument(3)[None])[0], expected(3), rtol=1e-5)
    gradient = jax.grad(lambda x: (function(x) * fixed).sum())(argument(4))
    wanted = jax.grad(lambda x: (jax.nn.softmax(x, axis=-1) * fixed).sum())(argument(4))
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-6)
    with jax.disable_jit():
        same(function(argument(5)), 5)
    with jax.debug_nans(True):
        same(function(argument(6)), 6)


def test_structures_types_and_shapes_take_their_own_programs() -> None:
    function = tw.compile(
        lambda a, *, b: {"sum": jax.nn.softmax(a + b, axis=-1), "small": a.sum(axis=1), "as it came": b},
        effort=0,
        database=":memory:",
    )
    for seed in range(12):
        rows = (SHAPE[0], 200)[seed // 2 % 2]
        a, b = argument(seed)[:rows], argument(seed + 1)[:rows]
        got = function(a, b=b if seed % 3 else jnp.asarray(b))
        np.testing.assert_allclose(got["sum"], jax.nn.softmax(a + b, axis=-1), rtol=1e-5)
        np.testing.assert_allclose(got["small"], a.sum(axis=1), rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(got["as it came"], b)
    with jax.enable_x64(True):
        got = function(argument(0), b=argument(1))
        np.testing.assert_allclose(got["sum"], jax.nn.softmax(argument(0) + argument(1), axis=-1), rtol=1e-5)
    with pytest.raises(TypeError):
        function("text", b=argument(0))


def test_compiled_again_in_between() -> None:
    """JAX may compile inside a call that recycles; what it finds out then is not for calls of another kind."""

    def named(values: dict[str, Any]) -> Any:
        return jax.nn.softmax(values["a"], axis=-1) if "a" in values else jnp.sort(values["b"], axis=0)

    function = tw.compile(named, effort=0, database=":memory:")
    for name in ("b", "a"):
        held = [function({"a": argument(seed)}) for seed in range(4)]
        jax.clear_caches()
        if name == "b":
            function({"b": argument(0)})
        held.append(function({"a": argument(4)}))
        for seed, result in enumerate(held):
            same(result, seed)
        del held, result
        for _ in range(6):
            np.testing.assert_array_equal(function({"b": argument(1)}), np.sort(argument(1), axis=0))
            np.testing.assert_allclose(function({"a": argument(2)[:4]}), expected(2)[:4], rtol=1e-5)
    assert not function._calls._new


def test_what_another_call_compiled_is_not_taken() -> None:
    """A call may end while one that compiled something is in progress, as when a finalizer calls."""
    function = softmax()
    warm(function)
    calls = function._calls
    recycler = calls._recycling.find((argument(0),), {})
    small, other = Arguments((argument(0)[:4],), {}), Arguments((argument(0)[:8],), {})
    calls._new[threading.get_ident()] = small, recycler
    calls._start_recycling(other)
    assert calls._recycling.find(*other) is None and not calls._new


def test_threads_with_new_shapes() -> None:
    """Small and large shapes are met for the first time by several threads at a time."""
    function = softmax()
    sizes = (8, 16, 24, SHAPE[0], SHAPE[0] - 8, SHAPE[0] - 16)

    def work(number: int) -> None:
        for turn in range(60):
            rows = sizes[(7 * turn + number) % len(sizes)]
            np.testing.assert_allclose(function(argument(1)[:rows]), expected(1)[:rows], rtol=1e-5, atol=1e-7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not function._calls._new


def test_large_results_inside_a_call_of_the_same_function() -> None:
    large = argument(3)

    def nested(x: Any, depth: Any) -> Any:
        if not depth:
            return jax.nn.softmax(x, axis=-1)
        with jax.ensure_compile_time_eval():
            function(argument(0)[:8], ())
            function(large, ())
        return jnp.sort(x, axis=0)

    function = tw.compile(nested, effort=0, database=":memory:")
    for seed in range(6):
        np.testing.assert_array_equal(function(argument(seed), (1.0,)), np.sort(argument(seed), axis=0))
        same(function(argument(seed), ()), seed)


def test_large_results_after_small_ones() -> None:
    function = softmax()
    for rows in (4, 8, 4):
        small = argument(0)[:rows]
        np.testing.assert_allclose(function(small), jax.nn.softmax(small, axis=-1), rtol=1e-5)
    for _ in range(2):
        warm(function)
        assert function._calls._recycling.find((argument(0),), {}) is not None
        for rows in (4, 12):  # one that is known, and a new one
            np.testing.assert_allclose(function(argument(0)[:rows]), expected(0)[:rows], rtol=1e-5)
        assert function._calls.entry is not function._calls.jitted


def test_what_is_committed_stays_so() -> None:
    function = softmax()
    for seed in range(6):
        result = function(jax.device_put(argument(seed), DEVICE))
        assert result.committed
        same(result, seed)


@pytest.mark.parametrize("dtype", sorted(recycling._VIEWED))
def test_every_element_type(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "worthwhile", lambda parts, choices, target, speedup: dict(choices))
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (400, 5000)).astype(dtype)).block_until_ready()

        def where(x: Any) -> Any:
            return jnp.where(x == 1, x, x[::1] * 0 + x) if dtype != "bool" else jnp.logical_and(x, ~x)

        function = tw.compile(where, effort=0, database=":memory:")
        wanted = np.asarray(jax.jit(where)(x))
        places = set[int]()
        for _ in range(8):
            got = function(x)
            places.add(place(got))
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
        assert len(places) <= 3


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * SHAPE[0] * SHAPE[1]
    monkeypatch.setattr(recycling, "_shelf", recycling._Shelf())
    monkeypatch.setattr(recycling, "MOST_BYTES", 2 * size)
    functions = [softmax() for _ in range(3)]
    for function in functions:
        warm(function)
        assert recycling._shelf.bytes <= 2 * size
    held = [functions[seed % 3](argument(seed)) for seed in range(9)]
    for seed, result in enumerate(held):
        same(result, seed)
    monkeypatch.setattr(recycling, "MOST_BYTES", size - 1)
    function = softmax()
    warm(function)
    assert not function._calls._recycling


def test_code_that_runs_when_an_array_goes_may_call_the_function() -> None:
    function = softmax()
    warm(function)
    seen: list[np.ndarray] = []
    for seed in range(6):
        result = function(argument(seed))
        weakref.finalize(result, lambda: seen.append(np.array(function(argument(70)))))
        same(result, seed)
    del result
    for seed in range(3):
        same(function(argument(seed)), seed)
    assert len(seen) == 6
    for value in seen:
        same(value, 70)
