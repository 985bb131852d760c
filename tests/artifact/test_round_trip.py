"""What is saved and loaded computes the same, takes the same and says how it runs."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from saved_functions import INPUT, WEIGHT, Saved, bits, compiled, mixed, native, normal, plain, read

import tilewright as tw


def several(x: Any, *, scale: Any) -> Any:
    """Pytrees in and out, integers and booleans among them, one of the arguments unused."""
    y = jax.nn.relu(x["a"] @ WEIGHT) * scale
    return {
        "value": (y, [y.sum(-1) > 3.0]),
        "best": jnp.argmax(y, -1),
        "none": None,
        "same": x["b"][0],
        "count": jnp.int32(7),
    }


def half(x: Any) -> Any:
    return (x.astype(jnp.bfloat16) * jnp.asarray(normal(24), jnp.bfloat16)).sum(-1)


def nothing(x: Any) -> Any:
    return ()


PROGRAMS = [(native, "native"), (mixed, "native"), (plain, "plain JAX"), (half, "native"), (nothing, "plain JAX")]


@pytest.mark.parametrize(("fn", "status"), PROGRAMS, ids=lambda x: getattr(x, "__name__", ""))
def test_loaded_equals_compiled(fn: Any, status: str, tmp_path: Path) -> None:
    fast = compiled(fn)
    expected = fast(INPUT)
    path = fast.save(tmp_path / "f.tw", INPUT)
    assert fast.report().basis in ("database", "predicted")
    loaded = tw.load(path)
    assert loaded.status.split(":")[0] == status
    assert bits(loaded(INPUT)) == bits(expected)
    assert bits(jax.jit(lambda x: loaded(x))(INPUT)) == bits(expected)


def test_pytrees_types_and_names(tmp_path: Path) -> None:
    arguments = {"a": INPUT, "b": (np.arange(3), None), "unused": INPUT}
    fast = compiled(several)
    expected = fast(arguments, scale=2.0)
    loaded = tw.load(fast.save(tmp_path / "f.tw", arguments, scale=2.0))
    assert bits(loaded(arguments, scale=2.0)) == bits(expected)
    assert jax.tree.structure(loaded(arguments, scale=2.0)) == jax.tree.structure(expected)
    (shapes,), by_name = loaded.inputs
    assert shapes["a"].shape == (32, 24) and shapes["b"][1] is None
    assert by_name["scale"].weak_type
    assert bits(loaded(arguments, scale=np.float32(2))) == bits(expected)


def test_weak_types_of_results(tmp_path: Path) -> None:
    fast = compiled(lambda x, s: (x * s, s + 1))
    loaded = tw.load(fast.save(tmp_path / "f.tw", INPUT, 3))
    results = loaded(INPUT, 3)
    assert [r.aval.weak_type for r in results] == [r.aval.weak_type for r in fast(INPUT, 3)] == [False, True]


def test_shapes_are_enough_to_save(tmp_path: Path) -> None:
    path = compiled(native).save(tmp_path / "f.tw", jax.ShapeDtypeStruct(INPUT.shape, INPUT.dtype))
    loaded = tw.load(path)
    assert loaded.status == "native"
    np.testing.assert_allclose(loaded(INPUT), native(INPUT), rtol=1e-4, atol=1e-4)


def test_static_arguments_are_part_of_the_file(tmp_path: Path) -> None:
    fast = compiled(lambda x, times, mode: x * times if mode == "mul" else x, static_argnums=(1, 2))
    loaded = tw.load(fast.save(tmp_path / "f.tw", INPUT, 3, "mul"))
    assert bits(loaded(INPUT)) == bits(fast(INPUT, 3, "mul"))
    with pytest.raises(TypeError, match="expected 1 positional argument, found 3"):
        loaded(INPUT, 3, "mul")


def test_weights_are_stored_once(tmp_path: Path) -> None:
    weights = normal(512, 512)
    path = compiled(lambda x: jax.nn.relu(x @ weights) @ weights).save(tmp_path / "f.tw", normal(64, 512))
    assert tw.load(path).status == "native"
    assert path.stat().st_size < weights.nbytes + 100_000


def test_sixty_four_bits(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        wide = INPUT.astype(np.float64)
        fast = compiled(lambda x: x * 2)
        expected = fast(wide)
        path = fast.save(tmp_path / "f.tw", wide)
        assert bits(tw.load(path)(wide)) == bits(expected)
    with pytest.raises(tw.ArtifactError, match="jax_enable_x64"):
        tw.load(path)


Point = collections.namedtuple("Point", "x y")


def test_custom_pytrees_need_a_registration(tmp_path: Path) -> None:
    fast = compiled(lambda p: Point(p.y, p.x))
    with pytest.raises(tw.ArtifactError, match=r"the arguments hold a Point.*register_namedtuple_serialization"):
        fast.save(tmp_path / "f.tw", Point(INPUT, INPUT))
    export.register_namedtuple_serialization(Point, serialized_name="tests.Point")
    path = fast.save(tmp_path / "f.tw", Point(INPUT, INPUT + 1))
    loaded = tw.load(path)
    assert isinstance(loaded(Point(INPUT, INPUT + 1)), Point)
    code = f"import tilewright as tw; tw.load({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ArtifactError" in done.stderr and "registered as 'tests.Point'" in done.stderr


def test_saving_replaces_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compiled(plain).save(tmp_path / "f.tw", INPUT)
    compiled(native).save(path, INPUT)
    assert tw.load(path).status == "native"
    before = path.read_bytes()
    compiled(native).save(path, INPUT)
    assert path.read_bytes() == before, "the same function gives the same file"

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(tw.ArtifactError, match=r"f\.tw can't be written: No space left"):
        compiled(native).save(path, INPUT)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(tw.ArtifactError, match="can't be written: No such file"):
        compiled(plain).save(tmp_path / "missing" / "f.tw", INPUT)


WRONG_CALLS = [
    (lambda f, x: f(), "expected 1 positional argument and scale by name, found 0 positional arguments"),
    (lambda f, x: f({"a": x}, scale=1.0), r"argument 0: expected \{'a': \*, 'b': .*\}, found \{'a': \*\}"),
    (
        lambda f, x: f({"a": x[0], "b": (x, None)}, scale=1.0),
        r"argument 0\['a'\]: expected float32\[32,24\], found flo",
    ),
    (lambda f, x: f({"a": x, "b": (x, None)}, scale=1), r"argument scale: expected float32\[\], found int32\[\]"),
    (
        lambda f, x: f({"a": x, "b": ("text", None)}, scale=1.0),
        r"argument 0\['b'\]\[0\]: expected .*, found str 'text'",
    ),
    (lambda f, x: f({"a": x.astype(int), "b": (x, None)}, scale=1.0), r"argument 0\['a'\]: expected .*, found int32"),
]


@pytest.mark.parametrize(("call", "message"), WRONG_CALLS)
def test_wrong_calls_name_the_argument(call: Any, message: str, tmp_path: Path) -> None:
    def fn(tree: Any, *, scale: Any) -> Any:
        return tree["a"] * scale + tree["b"][0]

    loaded = tw.load(compiled(fn).save(tmp_path / "f.tw", {"a": INPUT, "b": (INPUT, None)}, scale=1.0))
    with pytest.raises(TypeError, match=message):
        call(loaded, INPUT)


def test_what_a_loaded_function_can_not_do(saved: Saved) -> None:
    loaded = tw.load(saved.path)
    with pytest.raises(NotImplementedError, match="mixed was loaded from a file and has no derivatives"):
        jax.grad(lambda x: loaded(x).sum())(INPUT)
    with pytest.raises(NotImplementedError, match="mixed was loaded from a file and has fixed shapes"):
        jax.vmap(loaded)(INPUT[None])
    with jax.disable_jit():
        assert bits(loaded(INPUT)) == bits(saved.result)
    assert bits(jax.lax.map(loaded, INPUT[None])[0]) == bits(saved.result)


def test_many_threads(saved: Saved) -> None:
    loaded = tw.load(saved.path)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: bits(loaded(INPUT)), range(64), timeout=60))
    assert all(result == bits(saved.result) for result in results)


def searching(x: Any) -> Any:
    return jax.lax.while_loop(lambda c: c.sum() < 100, lambda c: c * 2, jax.numpy.abs(x) + 1)


def printing(x: Any) -> Any:
    jax.debug.print("{}", x.sum())
    return x


def random(x: Any) -> Any:
    return x + jax.random.normal(jax.random.key(0), x.shape)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (searching, r"found while at .*test_round_trip.py:\d+.*no form outside this process"),
        (printing, r"found debug_(print|callback) at .*test_round_trip.py:\d+.*side effects"),
        (random, r"found random_\w+"),
        (lambda x: jax.jit(searching)(x), "found while at"),
    ],
)
def test_impure_functions_are_refused(fn: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(tw.ArtifactError, match=message):
        compiled(fn).save(tmp_path / "f.tw", INPUT)
    assert not list(tmp_path.iterdir())


def test_traced_arguments_can_not_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="values that are being traced"):
        jax.jit(lambda x: compiled(native).save(tmp_path / "f.tw", x))(INPUT)


FRESH = """
import sys, numpy as np, tilewright as tw
loaded = tw.load(sys.argv[1])
np.save(sys.argv[3], loaded(np.load(sys.argv[2])))
heavy = {"sqlalchemy", "lightgbm", "keras", "rich", "typer", "tilewright.driver.pipeline"} & set(sys.modules)
print(loaded.status, sorted(heavy))
"""


def test_fresh_process(saved: Saved, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", saved.argument)
    command = [sys.executable, "-c", FRESH, str(saved.path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "native []\n"
    assert bits(np.load(tmp_path / "out.npy")) == bits(saved.result)


def test_file_holds_what_the_format_says(saved: Saved) -> None:
    folders = {name.split("/")[0] for name in read(saved.path)}
    assert folders == {
        "manifest.json",
        "signature",
        "graph.txt",
        "program.export",
        "constants",
        "objects",
        "traces",
    }
    manifest = tw.load(saved.path).manifest
    assert manifest.name == "mixed" and len(manifest.calls) == 2
    assert manifest.versions["jax"] == jax.__version__


def test_a_loop_is_saved_with_its_plan(tmp_path: Path) -> None:
    weights = np.linspace(0.5, 1, INPUT.shape[-1], dtype=np.float32)

    def fn(x: Any) -> Any:
        return jax.lax.scan(lambda c, step: (c * weights + step, c), x, jax.numpy.arange(7.0))

    compiled(fn).save(path := tmp_path / "f.tw", INPUT)
    loaded = tw.load(path)
    assert loaded.status == "native"
    for a, b in zip(loaded(INPUT), jax.jit(fn)(INPUT), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
