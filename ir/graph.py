"""The graph IR: a flat list of operations in static single assignment form, like a jaxpr but printable and portable.

Values are integers. Opcodes keep the names of `jax.lax` primitives. An operation whose parameters are plain data is
*transparent*; one that is only known to JAX is *opaque*: it carries an in-process reference that is bound again when
the graph is emitted, so a graph with an opaque operation can be run and printed but has no portable identity.

Loops hold what they repeat as a graph of its own (`scan.py`). Text form and digest are in `graph_text.py`, shape rules
in `infer.py`, rewriting helpers in `graph_edit.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from . import dtypes

Param = Any
"""A canonical parameter: None, bool, int, float, str, or a (nested) tuple of these."""


class GraphError(ValueError):
    """A graph breaks a rule of the IR; the message shows where."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value.

    Attributes:
        shape: Sizes of the axes.
        dtype: NumPy name of the element type (`float32`, `bfloat16`, `bool`, ...) or JAX's own (`key<fry>`, `float0`).
        weak_type: Whether JAX lets the element type yield to another one (Python scalars).
        varying: Names of the manual mesh axes over which the value differs (only inside `shard_map`), sorted.
    """

    shape: tuple[int, ...]
    dtype: str
    weak_type: bool = False
    varying: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements; only for element types that NumPy has."""
        return self.size * dtypes.itemsize(self.dtype)

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        """The same type with other axes."""
        return replace(self, shape=tuple(shape))

    def with_dtype(self, dtype: str, weak_type: bool = False) -> TensorType:
        """The same type with another element type."""
        return replace(self, dtype=dtype, weak_type=weak_type)

    def same_data(self, other: TensorType) -> bool:
        """Whether shape and element type agree (weak types aside)."""
        return self.shape == other.shape and self.dtype == other.dtype

    def __str__(self) -> str:
        marks = ("*" if self.weak_type else "") + "".join(f"@{axis}" for axis in self.varying)
        return f"{self.dtype}{marks}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Constant:
    """A value known at compile time; the array is shared, never copied.

    Attributes:
        value: A NumPy array, or a JAX array of an element type that NumPy has no name for (PRNG keys).
        type: Its type.
    """

    value: Any
    type: TensorType

    def __post_init__(self) -> None:
        if isinstance(self.value, np.generic):  # what NumPy makes of arrays without axes
            object.__setattr__(self, "value", np.asarray(self.value))

    @property
    def portable(self) -> bool:
        """Whether the value is plain data."""
        return isinstance(self.value, np.ndarray)

    @cached_property
    def digest(self) -> str:
        """Content digest: BLAKE2b of dtype, shape and row-major bytes."""
        if not self.portable:
            raise GraphError(f"a constant of type {self.type} is an in-process reference and has no digest")
        state = hashlib.blake2b(f"{self.type.dtype}{self.type.shape}".encode(), digest_size=16)
        data = np.ascontiguousarray(self.value)
        state.update(data.reshape(-1).view(np.uint8).data)
        return state.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation.

    Attributes:
        opcode: Name of the `jax.lax` primitive, or `tilewright_plan` for a native call.
        operands: The values it reads.
        results: The values it defines.
        types: Types of the results.
        params: Canonical parameters of a transparent operation; never mutated. Empty for an opaque one.
        ref: In-process reference of an opaque operation, else None.
        effects: Names of its side effects; an operation with any is never removed, merged or reordered.
        body: What a loop repeats, a graph of its own (see `scan.py`); None for everything else.
    """

    opcode: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    types: tuple[TensorType, ...]
    params: Mapping[str, Param] = field(default_factory=dict)
    ref: Any = None
    effects: tuple[str, ...] = ()
    body: Graph | None = None

    @property
    def opaque(self) -> bool:
        """Whether only the process that made it can run it."""
        return self.ref is not None or (self.body is not None and self.body.opaque)

    @property
    def result(self) -> int:
        """The only result.

        Raises:
            GraphError: there is not exactly one.
        """
        if len(self.results) != 1:
            raise GraphError(f"{self.opcode} has {len(self.results)} results, expected one")
        return self.results[0]

    @property
    def type(self) -> TensorType:
        """Type of the only result."""
        if len(self.types) != 1:
            raise GraphError(f"{self.opcode} has {len(self.types)} results, expected one")
        return self.types[0]


@dataclass(frozen=True, eq=False)
class Graph:
    """A program: inputs and constants, then operations in order, then outputs.

    Attributes:
        inputs: Value and type of each argument, in order.
        constants: Value and content of each constant.
        ops: Operations; each defines its results before they are read.
        outputs: The values returned; inputs, constants and repetitions are allowed.
    """

    inputs: Mapping[int, TensorType]
    constants: Mapping[int, Constant]
    ops: tuple[Op, ...]
    outputs: tuple[int, ...]

    @cached_property
    def types(self) -> Mapping[int, TensorType]:
        """Type of every value."""
        table = dict(self.inputs)
        table.update((value, constant.type) for value, constant in self.constants.items())
        for op in self.ops:
            table.update(zip(op.results, op.types, strict=True))
        return table

    @cached_property
    def producers(self) -> Mapping[int, int]:
        """Index in `ops` of the operation that defines a value; inputs and constants are absent."""
        return {value: index for index, op in enumerate(self.ops) for value in op.results}

    @cached_property
    def users(self) -> Mapping[int, tuple[int, ...]]:
        """Indices of the operations that read a value, ascending, without repetition; every value has an entry."""
        table: dict[int, list[int]] = {value: [] for value in self.types}
        for index, op in enumerate(self.ops):
            for value in dict.fromkeys(op.operands):
                table[value].append(index)
        return {value: tuple(indices) for value, indices in table.items()}

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        """Types of the outputs, in order."""
        return tuple(self.types[value] for value in self.outputs)

    @property
    def opaque(self) -> bool:
        """Whether anything in it is an in-process reference, so that it has no digest and can't be parsed back."""
        return any(op.opaque for op in self.ops) or not all(c.portable for c in self.constants.values())

    def producer(self, value: int) -> Op | None:
        """The operation that defines `value`, or None for inputs and constants."""
        index = self.producers.get(value)
        return None if index is None else self.ops[index]

    def constant(self, value: int) -> np.ndarray | None:
        """The array of a portable constant, or None for anything else."""
        found = self.constants.get(value)
        return found.value if found is not None and found.portable else None

    def fresh(self) -> int:
        """A value number that is not in use, as are all above it."""
        return max(self.types, default=-1) + 1

    def with_ops(self, ops: Iterable[Op], outputs: Sequence[int] | None = None) -> Graph:
        """The same inputs and constants with other operations and, if given, outputs."""
        return Graph(self.inputs, self.constants, tuple(ops), self.outputs if outputs is None else tuple(outputs))


def numpy_type(array: np.ndarray, weak_type: bool = False) -> TensorType:
    """The type of a NumPy array."""
    return TensorType(tuple(array.shape), array.dtype.name, weak_type)


class GraphBuilder:
    """Makes a graph front to back, or new operations for an existing one.

    Args:
        base: A graph whose inputs and constants are taken over and whose value numbers are avoided; its operations
            and outputs are not.
    """

    def __init__(self, base: Graph | None = None) -> None:
        self.inputs: dict[int, TensorType] = dict(base.inputs) if base else {}
        self.constants: dict[int, Constant] = dict(base.constants) if base else {}
        self.ops: list[Op] = []
        self.types: dict[int, TensorType] = dict(base.types) if base else {}
        self._next = base.fresh() if base else 0

    def fresh(self) -> int:
        """Reserves a new value number."""
        value = self._next
        self._next += 1
        return value

    def input(self, type_: TensorType) -> int:
        """Adds an argument and returns its value."""
        value = self.fresh()
        self.inputs[value] = self.types[value] = type_
        return value

    def constant(self, value: Any, type_: TensorType | None = None) -> int:
        """Adds a constant (a NumPy array, not copied) and returns its value."""
        number = self.fresh()
        constant = Constant(value, type_ if type_ is not None else numpy_type(value))
        self.constants[number] = constant
        self.types[number] = constant.type
        return number

    def append(self, op: Op) -> None:
        """Adds a finished operation whose results are fresh or come from the base graph."""
        self.ops.append(op)
        self.types.update(zip(op.results, op.types, strict=True))

    def add(
        self,
        opcode: str,
        operands: Sequence[int],
        params: Mapping[str, Param] | None = None,
        types: Sequence[TensorType] | None = None,
        *,
        ref: Any = None,
        effects: tuple[str, ...] = (),
        body: Graph | None = None,
    ) -> tuple[int, ...]:
        """Adds an operation and returns its results.

        Args:
            opcode: Name of the primitive.
            operands: Values it reads.
            params: Canonical parameters.
            types: Types of the results; may be left out where `infer.infer` knows the opcode.
            ref: In-process reference, for an opaque operation.
            effects: Names of side effects.
            body: What a loop repeats.

        Raises:
            GraphError: the types were left out and the opcode has no shape rule.
        """
        params = dict(params or {})
        if types is None:
            from .infer import infer  # infer.py builds on this module

            types = infer(opcode, [self.types[value] for value in operands], params)
            if types is None:
                raise GraphError(f"{opcode} has no shape rule: give the types of its results")
        results = tuple(self.fresh() for _ in types)
        self.append(Op(opcode, tuple(operands), results, tuple(types), params, ref, effects, body))
        return results

    def add1(self, opcode: str, *operands: int, **params: Param) -> int:
        """Adds a transparent operation with one result, its type inferred, and returns the result."""
        (result,) = self.add(opcode, operands, params)
        return result

    def build(self, outputs: Sequence[int]) -> Graph:
        """The finished graph."""
        return Graph(dict(self.inputs), dict(self.constants), tuple(self.ops), tuple(outputs))
