"""Functions to save, and ways to take a saved file apart and put it together again."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tilewright as tw
from tilewright.artifact import archive, signing


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


WEIGHT = normal(24, 40)
INPUT = normal(32, 24)


def native(x: Any) -> Any:
    """All of it has loops that kernels can compute."""
    return jax.nn.relu(x @ WEIGHT + WEIGHT[0]) * 0.5


def mixed(x: Any) -> Any:
    """Sorting stays XLA's, between two native parts."""
    y = jax.lax.sort(jax.nn.relu(x @ WEIGHT + WEIGHT[0]))
    return jnp.tanh(y + normal(40, seed=1)) @ normal(40, 16, seed=2)


def plain(x: Any) -> Any:
    """Nothing that kernels can compute."""
    return jax.lax.real(jax.lax.cumsum(jax.lax.complex(x, normal(*x.shape))))


def compiled(fn: Callable[..., Any], **options: Any) -> Any:
    return tw.compile(fn, **{"effort": 0, "database": ":memory:", **options})


def bits(tree: Any) -> Any:
    """Types, shapes and bytes of all leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.dtype.name, x.shape, np.asarray(x).tobytes()) for x in map(jnp.asarray, leaves)]


@dataclass(frozen=True)
class Saved:
    """A saved function.

    Args:
        path: the file.
        argument: what it takes.
        result: what the compiled function gave for it.
        members: contents of the file by name.
    """

    path: Path
    argument: np.ndarray
    result: np.ndarray
    members: dict[str, bytes]

    def manifest(self) -> Any:
        return json.loads(self.members["manifest.json"])


def save_mixed(path: Path) -> Saved:
    fast = compiled(mixed)
    result = np.asarray(fast(INPUT))
    assert fast.report().mode == "native"
    fast.save(path, INPUT)
    return Saved(path, INPUT, result, read(path))


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path: Path, members: Mapping[str, bytes]) -> Path:
    """A zip of these members as they are."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def changed(saved: Saved, path: Path, *, sign: bool = False, manifest: Any = None, **members: bytes | None) -> Path:
    """A copy with other members and a manifest that says so.

    Args:
        saved: the original.
        path: where to.
        sign: whether to sign the copy, as its owner could.
        manifest: changes the manifest, a dict, in place.
        members: new contents by name; None removes a member. Dots and slashes of names are written as `__` and `_0_`.
    """
    contents = dict(saved.members)
    for name, data in members.items():
        real = name.replace("_0_", "/").replace("__", ".")
        contents.pop(real, None)
        if data is not None:
            contents[real] = data
    described = saved.manifest()
    listed = {name: data for name, data in contents.items() if name not in ("manifest.json", "signature")}
    described["members"] = {n: m.model_dump() for n, m in archive.describe_members(listed).items()}
    if manifest is not None:
        manifest(described)
    text = json.dumps(described).encode()
    contents["manifest.json"] = text
    contents.pop("signature")
    if sign:
        contents["signature"] = signing.sign(text).encode()
    return write(path, contents)
