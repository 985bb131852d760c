"""Pytree structures as plain data and back. Custom types need what `jax.export` needs: a registered serialisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from jax._src.export._export import (  # exported by no public module
    deserialization_registry,
    serialization_registry,
)

from .errors import ArtifactError
from .manifest import Tree

_CONTAINERS: dict[Any, Any] = {tuple: "tuple", list: "list", dict: "dict", type(None): "none"}


def describe(structure: Any, what: str) -> Tree:
    """A structure as data.

    Args:
        structure: a `jax.tree_util.PyTreeDef`.
        what: ``arguments`` or ``result``, for messages.

    Raises:
        ArtifactError: it holds a type without a registered serialisation, or a dict with other keys than strings or
            whole numbers.
    """
    node = structure.node_data()
    if node is None:
        return Tree(kind="leaf")
    kind, auxiliary = node
    children = tuple(describe(child, what) for child in structure.children())
    if kind in _CONTAINERS:
        keys = tuple(_key(key, what) for key in auxiliary) if kind is dict else ()
        return Tree(kind=_CONTAINERS[kind], keys=keys, children=children)
    if kind not in serialization_registry:
        raise ArtifactError(
            f"the {what} hold a {kind.__qualname__}, which can't be stored: register it with "
            "jax.export.register_pytree_node_serialization (or register_namedtuple_serialization) here and where the "
            "file is loaded, or use tuples, lists and dicts"
        )
    name, serialize = serialization_registry[kind]
    return Tree(kind="custom", name=name, data=bytes(serialize(auxiliary)).hex(), children=children)


def _key(key: Any, what: str) -> str | int:
    if type(key) in (str, int):
        return key
    raise ArtifactError(f"the {what} hold a dict with the key {key!r}: expected strings or whole numbers as keys")


def structure_of(tree: Tree) -> Any:
    """The `jax.tree_util.PyTreeDef` of a description.

    Raises:
        ArtifactError: it needs a type that is not registered here, or that does not take such children.
    """
    structure = jax.tree.structure(_build(tree))
    if structure.num_leaves != tree.leaves:
        raise ArtifactError(
            f"expected {tree.leaves} arrays in its arguments or results, found {structure.num_leaves}: a type in them "
            "is another one than when it was saved"
        )
    return structure


def _build(tree: Tree) -> Any:
    children = [_build(child) for child in tree.children]
    match tree.kind:
        case "leaf":
            return 0
        case "none":
            return None
        case "tuple":
            return tuple(children)
        case "list":
            return children
        case "dict":
            return dict(zip(tree.keys, children, strict=True))
        case "custom":
            return _custom(tree, children)


def _custom(tree: Tree, children: list[Any]) -> Any:
    if tree.name not in deserialization_registry:
        raise ArtifactError(
            f"its arguments or results hold a type registered as {tree.name!r}: register it in this process with "
            "jax.export.register_pytree_node_serialization before loading"
        )
    _, deserialize, build = deserialization_registry[tree.name]
    try:
        return build(deserialize(bytes.fromhex(tree.data)), children)
    except Exception as error:  # the user's code, on data of the file
        raise ArtifactError(f"the type registered as {tree.name!r} can't be rebuilt: {error}") from error


def leaf_names(structure: Any) -> Iterator[str]:
    """What messages call the leaves of a structure of ``(args, kwargs)``: ``argument 0['w']``, ``argument scale``."""
    tree = jax.tree.unflatten(structure, [0] * structure.num_leaves)
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        first, *rest = path[1:]
        name = getattr(first, "idx", getattr(first, "key", first))
        yield f"argument {name}{jax.tree_util.keystr(tuple(rest))}"
