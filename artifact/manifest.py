"""What a saved function's file says about itself: plain data, checked when read.

A manifest refers to the other members by name and digest; nothing in a file counts that its manifest does not list.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import ml_dtypes
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..ir import dtypes
from ..ir.graph import GraphError, TensorType
from ..ir.graph_text import parse_type
from ..ir.loop import Buffer, Pack, Scope
from ..ir.plan import Condition, Slot, SlotKind, Window
from .errors import ArtifactError

SCHEMA = 1
"""Version of the manifest's fields and of the members' meaning."""
MAX_ELEMENTS = 1 << 48
_EXTRA_DTYPES = frozenset(
    name
    for name in dir(ml_dtypes)
    if isinstance(getattr(ml_dtypes, name), type) and name.startswith(("float", "int", "uint"))
)


def type_of_text(text: str) -> TensorType:
    """A type in the notation of graphs, ``float32*[2,3]``.

    Raises:
        ValueError: it is no type, its element type can't be stored, or it is impossibly large.
    """
    try:
        found = parse_type(text)
    except GraphError as error:
        raise ValueError(str(error)) from None
    if not dtypes.is_known(found.dtype) and found.dtype not in _EXTRA_DTYPES:
        raise ValueError(f"expected an element type that NumPy can hold, found {found.dtype}")
    if found.size > MAX_ELEMENTS:
        raise ValueError(f"expected at most {MAX_ELEMENTS} elements, found {text}")
    return found


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy equivalent of an element type that `type_of_text` lets pass."""
    return dtypes.to_numpy(name) if dtypes.is_known(name) else np.dtype(getattr(ml_dtypes, name))


def _is_type(text: str) -> str:
    type_of_text(text)
    return text


Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
MemberName = Annotated[
    str,
    Field(
        pattern=r"^(graph\.txt|partition\.json|program\.export|constants/[0-9a-f]{32}\.bin|objects/tw_[0-9a-f]{24}\.o"
        r"|objects/(handler|entry)\.o|traces/[0-9a-f]{16,64}\.json)$"
    ),
]
TypeText = Annotated[str, Field(max_length=1000), AfterValidator(_is_type)]
ConstantDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Symbol = Annotated[str, Field(pattern=r"^tw_[0-9a-f]{24}$")]
_SLOT = r"(input|output|constant|arena):(\d{1,15})(?:@(\d{1,15})([+-]\d{1,15}))?"
SlotText = Annotated[str, Field(pattern=f"^{_SLOT}$")]
Count = Annotated[int, Field(ge=0, le=MAX_ELEMENTS, strict=True)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Member(_Model):
    """One file of the archive: its size in bytes and the SHA-256 of its contents."""

    size: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Machine(_Model):
    """Where it was saved; only the fingerprint is compared, the rest is for people."""

    fingerprint: Name
    name: Text
    arch: Name
    features: Annotated[str, Field(max_length=10_000)]
    threads: Annotated[int, Field(ge=1, strict=True)]


class Tree(_Model):
    """A pytree's structure.

    Args:
        kind: what the node is; ``custom`` for types registered with `jax.export`.
        keys: of a ``dict``, one per child.
        name: of a ``custom`` node: what its type is registered as.
        data: of a ``custom`` node: its auxiliary data as hexadecimal digits.
        children: the nodes below.
    """

    kind: Literal["leaf", "none", "tuple", "list", "dict", "custom"]
    keys: tuple[Annotated[str, Field(strict=True)] | Annotated[int, Field(strict=True)], ...] = ()
    name: Annotated[str, Field(max_length=1000)] = ""
    data: Annotated[str, Field(max_length=1 << 20, pattern=r"^([0-9a-f]{2})*$")] = ""
    children: tuple[Tree, ...] = ()

    @property
    def leaves(self) -> int:
        """How many leaves it has."""
        return int(self.kind == "leaf") + sum(child.leaves for child in self.children)

    @model_validator(mode="after")
    def _consistent(self) -> Tree:
        if self.kind in ("leaf", "none") and self.children:
            raise ValueError(f"expected no children in a {self.kind}, found {len(self.children)}")
        if len(self.keys) != (len(self.children) if self.kind == "dict" else 0):
            raise ValueError(f"expected a key for each child of a dict and no others, found {len(self.keys)}")
        if len(set(self.keys)) != len(self.keys) or len({type(key) for key in self.keys}) > 1:
            raise ValueError("expected distinct keys of one type in a dict")
        return self


class Argument(_Model):
    """A leaf of the arguments: its type, and whether the function reads it."""

    type: TypeText
    used: Annotated[bool, Field(strict=True)]


class Layout(_Model):
    """A change of layout of a constant; see `ir.loop.Pack`."""

    axis: Count
    factor: Annotated[int, Field(ge=1, le=MAX_ELEMENTS, strict=True)]
    extent: Count


class Parameter(_Model):
    """A parameter of a kernel; see `ir.loop.Buffer`."""

    name: Name
    shape: tuple[Count, ...]
    dtype: Name
    scope: Scope
    packing: tuple[Layout, ...] = ()

    @classmethod
    def of(cls, buffer: Buffer) -> Parameter:
        """Describe a buffer."""
        packing = tuple(Layout(axis=p.axis, factor=p.factor, extent=p.extent) for p in buffer.packing)
        return cls(name=buffer.name, shape=buffer.shape, dtype=buffer.dtype, scope=buffer.scope, packing=packing)

    def buffer(self) -> Buffer:
        """The buffer again."""
        packing = tuple(Pack(p.axis, p.factor, p.extent) for p in self.packing)
        return Buffer(self.name, self.shape, self.dtype, self.scope, packing)


class KernelEntry(_Model):
    """A kernel without its code; see `backends.llvm.kernel.Kernel`."""

    extent: Count
    scratch_bytes: Count
    params: tuple[Parameter, ...]
    num_outputs: Count
    in_place: tuple[Count, ...] = ()


class StageEntry(_Model):
    """One kernel call of a plan; see `ir.plan.Stage`. ``condition`` is the slot of its condition, if it has one."""

    kernel: Symbol
    args: tuple[SlotText, ...]
    extent: Count
    chunks: Count
    condition: SlotText | None = None
    wanted: bool = True

    def slots(self) -> tuple[Slot, ...]:
        """The arguments."""
        return tuple(map(_slot, self.args))

    def when(self) -> Condition | None:
        """The condition."""
        return None if self.condition is None else Condition(_slot(self.condition), self.wanted)


def _slot(text: str) -> Slot:
    """What `ir.plan.slot_text` made a text of."""
    found = re.fullmatch(_SLOT, text)
    assert found is not None, text
    kind, index, offset, stride = found.groups()
    kinds: dict[str, SlotKind] = {"input": "input", "output": "output", "constant": "constant", "arena": "arena"}
    return Slot(kinds[kind], int(index), None if offset is None else Window(int(offset), int(stride)))


class RepeatEntry(_Model):
    """Stages of a plan that are repeated; see `ir.plan.Repeat`."""

    first: Count
    stages: Count
    count: Count


class NativeCall(_Model):
    """A native call; see `ir.plan.ExecPlan`.

    Args:
        target: the name under which `program.export` calls it.
        inputs: types of the arguments.
        outputs: types of the results.
        constants: the constants that its kernels read, each to be packed as its first reader wants it.
        arena_bytes: memory for intermediates.
        stages: kernel calls in order.
        repeats: which of them are repeated.
    """

    target: Annotated[str, Field(pattern=r"^tilewright_[0-9a-f]{32}_[0-9a-f]{8}$")]
    inputs: tuple[TypeText, ...]
    outputs: tuple[TypeText, ...]
    constants: tuple[ConstantDigest, ...]
    arena_bytes: Count
    stages: tuple[StageEntry, ...]
    repeats: tuple[RepeatEntry, ...] = ()


class Manifest(_Model):
    """The file `manifest.json`.

    Args:
        schema_version: `SCHEMA`; written as ``schema``.
        name: the function.
        versions: of tilewright and the libraries under it.
        backend: the code generator and its version.
        schedule_version: of what schedule primitives mean.
        machine: where it was saved.
        x64: whether it needs JAX's 64-bit types.
        inputs: structure of ``(args, kwargs)``, static arguments left out.
        arguments: the leaves of ``inputs``, in order.
        outputs: structure of the result.
        results: types of the leaves of ``outputs``.
        reason: why the function runs as plain JAX; empty if it has native calls.
        constants: types of the arrays in ``constants/``, by digest.
        parameters: constants that `program.export` takes in front of the arguments.
        kernels: by symbol.
        calls: the native calls.
        members: every other file but the signature.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: Name
    versions: dict[Name, Name]
    backend: Name
    schedule_version: Annotated[int, Field(ge=0, strict=True)]
    machine: Machine
    x64: Annotated[bool, Field(strict=True)]
    inputs: Tree
    arguments: tuple[Argument, ...]
    outputs: Tree
    results: tuple[TypeText, ...]
    reason: Text
    constants: dict[ConstantDigest, TypeText]
    parameters: tuple[ConstantDigest, ...]
    kernels: dict[Symbol, KernelEntry]
    calls: tuple[NativeCall, ...]
    members: dict[MemberName, Member]

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        wanted = {"graph.txt", "program.export"}
        wanted |= {f"constants/{digest}.bin" for digest in self.constants}
        wanted |= {f"objects/{symbol}.o" for symbol in self.kernels}
        wanted |= {"objects/handler.o", "objects/entry.o"} if self.calls else set()
        listed = {name for name in self.members if not name.startswith("traces/") and name != "partition.json"}
        if listed != wanted:
            raise ValueError(f"members: the list and the contents differ in {_few(listed ^ wanted)}")
        used = {digest for call in self.calls for digest in call.constants} | set(self.parameters)
        if unknown := used - set(self.constants):
            raise ValueError(f"constants: {_few(unknown)} are used but not there")
        if unknown := {s.kernel for call in self.calls for s in call.stages} ^ set(self.kernels):
            raise ValueError(f"kernels: those that are called and those that are there differ in {_few(unknown)}")
        return self

    @model_validator(mode="after")
    def _callable(self) -> Manifest:
        kinds = [child.kind for child in self.inputs.children]
        if self.inputs.kind != "tuple" or kinds != ["tuple", "dict"]:
            raise ValueError("inputs: expected a tuple of a tuple and a dict")
        if not all(isinstance(key, str) for key in self.inputs.children[1].keys):
            raise ValueError("inputs: expected strings as names of arguments")
        for tree, count in ((self.inputs, len(self.arguments)), (self.outputs, len(self.results))):
            if tree.leaves != count:
                raise ValueError(f"expected a type for each of {tree.leaves} leaves, found {count}")
        return self

    def to_json(self) -> bytes:
        """The contents of `manifest.json`."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True).encode()


def parse_manifest(data: bytes) -> Manifest:
    """Read what `Manifest.to_json` wrote.

    Raises:
        ArtifactError: it is not valid, or of another schema.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        if place == "schema":
            found = str(first.get("input"))[:40]
            raise ArtifactError(
                f"expected a file of schema {SCHEMA}, found {found}: load it with the version of tilewright "
                "that wrote it, or save the function again"
            ) from None
        where = f"{place}: " if place else ""
        raise ArtifactError(
            f"manifest.json is not valid ({where}{first['msg'][:300]}); save the function again"
        ) from None


def _few(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
