"""Running a saved model: arguments in, results and times out. Imports no more than that needs: it has to start fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import load
from ..ir import dtypes
from .arrays import random_array, read_arrays, write_arrays
from .errors import UsageError, guess
from .inputs import type_of
from .output import Output, duration
from .replacing import ARRAYS, check_target


def run_model(
    out: Output, path: Path, inputs: Path | None, output: Path | None, repeat: int, trust: bool, seed: int
) -> None:
    """Loads a model, calls it once, then `repeat` times with the clock, and prints what came of it.

    Raises:
        UsageError: a file is not there, or the arguments don't fit the model.
        ArtifactError: the file is no model, or damaged.
    """
    _check_paths(path, inputs, output)
    start = time.perf_counter()
    model = load(path, trust=trust)
    loaded_s = time.perf_counter() - start
    args, kwargs = _arguments(model.inputs, inputs, seed)
    results = jax.block_until_ready(model(*args, **kwargs))
    first_s = seconds_since_start()
    seconds = [_timed(lambda: model(*args, **kwargs)) for _ in range(repeat)]
    named = {name: np.asarray(leaf) for name, leaf in _leaves(results).items()}
    if output is not None:
        write_arrays(output, named)
    data = {
        "model": str(path),
        "status": model.status,
        "load_s": loaded_s,
        "first_result_s": first_s,
        "calls": _statistics(seconds),
        "outputs": [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in named.items()],
        "output": None if output is None else str(output),
    }
    out.result(data, "\n".join(_lines(data, named)))


def _check_paths(path: Path, inputs: Path | None, output: Path | None) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        models = [p.name for p in path.parent.glob("*.tw")] if path.parent.is_dir() else []
        raise UsageError(f"{path}: expected a saved model, found {found}", guess(path.name, models))
    if inputs is not None and str(inputs).startswith("@") and not inputs.exists():
        raise UsageError(f"--input {inputs}: expected the path of a file", "leave out the @")
    if output is not None and output.suffix == ".npy":
        raise UsageError(f"--output {output}: results are written as a .npz file", "choose another name")
    if output is not None:
        check_target(output, ARRAYS)


def seconds_since_start() -> float | None:
    """Seconds since this process was started, interpreter start included; None where the system does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (AttributeError, IndexError, OSError, ValueError):
        return None


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _statistics(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    lower, middle, upper = np.percentile(seconds, (25, 50, 75))
    return {
        "count": len(seconds),
        "median_s": float(middle),
        "min_s": min(seconds),
        "iqr_s": float(upper - lower),
    }


def _lines(data: dict[str, Any], named: dict[str, np.ndarray]) -> list[str]:
    since = data["first_result_s"]
    first = "" if since is None else f"first result {duration(since)} after the process was started, "
    lines = [f"status: {data['status']}", f"{first}loaded in {duration(data['load_s'])}"]
    calls = data["calls"]
    if calls:
        lines.append(
            f"{calls['count']} calls: median {duration(calls['median_s'])}, fastest {duration(calls['min_s'])}, "
            f"interquartile range {duration(calls['iqr_s'])}"
        )
    lines += [f"{name}: {type_of(array)}" for name, array in named.items()]
    return [*lines, f"written to {data['output']}"] if data["output"] else lines


def _arguments(wanted: Any, file: Path | None, seed: int) -> tuple[Any, Any]:
    """Arguments of the types that the model was saved for: those of a file, else random ones."""
    (args, kwargs), structure = wanted, jax.tree.structure(wanted)
    types = _leaves(args) | _leaves(kwargs)
    if file is None:
        rng = np.random.default_rng(seed)
        values = [_random(name, item, rng) for name, item in types.items()]
    else:
        values = _from_file(file, types)
    return jax.tree.unflatten(structure, values)


def _random(name: str, wanted: Any, rng: np.random.Generator) -> jax.Array:
    type_ = type_of(wanted)
    if not dtypes.is_known(type_.dtype):
        raise UsageError(f"{name}: random values can't be drawn for the type {type_}", "use the model from Python")
    return jax.numpy.asarray(random_array(type_, rng))


def _from_file(file: Path, types: dict[str, Any]) -> list[jax.Array]:
    found = read_arrays(file)
    if len(found) == len(types) == 1:  # there is nothing to mix up
        found = dict(zip(types, found.values(), strict=True))
    missing = [f"{name}: {type_of(item)}" for name, item in types.items() if name not in found]
    extra = [name for name in found if name not in types]
    if missing or extra:
        lacks = f"it lacks {', '.join(missing)}" if missing else ""
        has = f"the model takes no {', '.join(extra)}" if extra else ""
        expected = ", ".join(f"{name}: {type_of(item)}" for name, item in types.items()) or "nothing"
        raise UsageError(f"{file}: {' and '.join(filter(None, (lacks, has)))}", f"the model takes {expected}")
    return [_fitting(file, name, found[name], item) for name, item in types.items()]


def _fitting(file: Path, name: str, array: np.ndarray, wanted: Any) -> jax.Array:
    value = jax.numpy.asarray(array)
    if wanted.dtype == jax.numpy.bfloat16 and value.dtype == np.float32:  # most programs can't write bfloat16
        value = value.astype(wanted.dtype)
    if type_of(value) != type_of(wanted):
        raise UsageError(f"{file}: expected {name} to be {type_of(wanted)}, found {type_of(array)}")
    return value


def _leaves(tree: Any) -> dict[str, Any]:
    """Arrays of a tree by name: `arr_0`, `arr_1`, ... by position, dictionary keys, and dots in between below."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    if not path:
        return "arr_0"
    first, *rest = [jax.tree_util.keystr((key,), simple=True) for key in path]
    position = isinstance(path[0], jax.tree_util.SequenceKey)
    return ".".join([f"arr_{first}" if position else first, *rest])
