"""Text form, parser, verifier and digest of graphs.

    tilewright.graph 1
    %0 = input float32[2,3]
    %1 = constant float32[] 2.0
    %2 = constant float32[300] blake2b:6f0c...
    %3 = mul(%0, %1) : float32[2,3]
    %4, %5 = top_k(%3) {"axis": 1, "k": 2} : float32[2,2], int32[2,2]
    return %4, %5

The body of a loop stands between braces behind its operation, indented by two blanks:

    %2 = scan(%0, %1) {"length": 3, ...} : float32[2] {
      %0 = input float32[2]
      ...
      return %4
    }

`parse_graph(print_graph(g))` gives `g` back exactly when nothing in it is opaque. Parameters are JSON with lists for
tuples. Constants of at most 16 bytes stand in the text; larger ones are named by content digest and looked up when the
text is parsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from . import dtypes
from .graph import Constant, Graph, GraphError, Op, Param, TensorType
from .infer import infer
from .scan import verify_scan

HEADER = "tilewright.graph 1"
_INLINE_BYTES = 16
_NEIGHBOURS = 4
_OPEN, _CLOSE = " {", "}"
MAX_DEPTH = 32
"""How many loops may stand inside each other in a text."""

_TYPE = re.compile(r"(?P<dtype>[^\[\]*@\s]+)(?P<weak>\*?)(?P<varying>(?:@[^\[\]@\s]+)*)\[(?P<shape>[\d,]*)\]")
_OP = re.compile(r"(?P<opcode>[^\s(]+)\((?P<operands>[^)]*)\)(?P<params> \{.*\})? : (?P<types>.+)")


def print_graph(graph: Graph) -> str:
    """The text of a graph; opaque parts are marked `opaque` and can't be parsed back."""
    return "\n".join([HEADER, *_print_lines(graph)]) + "\n"


def _print_lines(graph: Graph) -> list[str]:
    lines = [f"%{value} = input {type_}" for value, type_ in graph.inputs.items()]
    lines += [f"%{value} = constant {_print_constant(constant)}" for value, constant in graph.constants.items()]
    for op in graph.ops:
        if op.body is None:
            lines.append(_print_op(op))
        else:
            lines += [_print_op(op) + _OPEN, *(f"  {line}" for line in _print_lines(op.body)), _CLOSE]
    return [*lines, f"return {_print_values(graph.outputs)}".rstrip()]


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """Reads a graph back from its text.

    Args:
        text: What `print_graph` gave.
        constants: Arrays of the large constants by content digest (`Constant.digest`).

    Raises:
        GraphError: the text is malformed, has an opaque part, or names a constant that is not given.
    """
    lines = text.rstrip("\n").split("\n")
    if lines[0] != HEADER:
        raise GraphError(f"expected a graph that starts with {HEADER!r}, found {lines[0]!r}")
    graph, last = _parse_lines(lines, 1, "", constants or {})
    if last != len(lines):
        raise GraphError(f"line {last + 1}: text after the return\n  {lines[last]}")
    verify(graph)
    return graph


def _parse_lines(lines: list[str], start: int, indent: str, constants: Mapping[str, np.ndarray]) -> tuple[Graph, int]:
    """The graph whose lines begin at `start` behind `indent`, and where the line after its return is."""
    inputs: dict[int, TensorType] = {}
    known: dict[int, Constant] = {}
    ops: list[Op] = []
    number = start
    while number < len(lines):
        line = lines[number].removeprefix(indent)
        if line == "return" or line.startswith("return "):
            with _at(number, lines):
                return Graph(inputs, known, tuple(ops), _parse_values(line[len("return") :])), number + 1
        with _at(number, lines):
            left, separator, right = line.partition(" = ")
            if not separator:
                raise GraphError("expected `%value = ...`")
            results = _parse_values(left)
            kind, _, rest = right.partition(" ")
            if kind == "input":
                inputs[_single(results)] = parse_type(rest)
            elif kind == "constant":
                known[_single(results)] = _parse_constant(rest, constants)
            else:
                ops.append(_parse_op(results, right.removesuffix(_OPEN)))
        number += 1
        if right.endswith(_OPEN):
            if len(indent) >= 2 * MAX_DEPTH:
                raise GraphError(f"line {number}: expected at most {MAX_DEPTH} loops inside each other")
            body, number = _parse_lines(lines, number, indent + "  ", constants)
            if number == len(lines) or lines[number] != indent + _CLOSE:
                raise GraphError(f"line {number + 1}: expected `}}` after the return of a body")
            ops[-1] = replace(ops[-1], body=body)
            number += 1
    raise GraphError("expected a last line `return ...`, found the end of the text")


@contextmanager
def _at(number: int, lines: list[str]) -> Iterator[None]:
    """Says in errors which line they are about."""
    try:
        yield
    except (GraphError, ValueError) as error:
        raise GraphError(f"line {number + 1}: {error}\n  {lines[number]}") from error


def digest(graph: Graph) -> str:
    """Identity of a graph: BLAKE2b of its canonical text (values renumbered, large constants by content).

    Raises:
        GraphError: the graph has an opaque part.
    """
    if graph.opaque:
        raise GraphError(f"a graph with opaque parts has no portable digest: {', '.join(_opaque_names(graph))}")
    return hashlib.blake2b(print_graph(canonical(graph)).encode(), digest_size=16).hexdigest()


def canonical(graph: Graph) -> Graph:
    """The same program with values numbered in order and constants in order of first use (unused ones dropped)."""
    uses = [value for op in graph.ops for value in op.operands] + list(graph.outputs)
    used_constants = [value for value in dict.fromkeys(uses) if value in graph.constants]
    defined = [*graph.inputs, *used_constants, *(value for op in graph.ops for value in op.results)]
    number = {value: index for index, value in enumerate(defined)}

    def renumber(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(number[value] for value in values)

    return Graph(
        {number[value]: type_ for value, type_ in graph.inputs.items()},
        {number[value]: graph.constants[value] for value in used_constants},
        tuple(
            replace(
                op,
                operands=renumber(op.operands),
                results=renumber(op.results),
                body=None if op.body is None else canonical(op.body),
            )
            for op in graph.ops
        ),
        renumber(graph.outputs),
    )


def verify(graph: Graph) -> None:
    """Checks every rule of the IR.

    Raises:
        GraphError: a rule is broken; the message names it and shows the operations around the fault.
    """
    types: dict[int, TensorType] = {}
    for value, type_ in graph.inputs.items():
        _define(graph, types, value, type_, None)
    for value, constant in graph.constants.items():
        _define(graph, types, value, constant.type, None)
        _verify_constant(graph, value, constant)
    for index, op in enumerate(graph.ops):
        for value in op.operands:
            if value not in types:
                raise _fault(graph, index, f"%{value} is read before it is defined")
        if len(op.results) != len(op.types):
            raise _fault(graph, index, f"{len(op.results)} results but {len(op.types)} types")
        _verify_params(graph, index, op)
        _verify_types(graph, index, op, [types[value] for value in op.operands])
        for value, type_ in zip(op.results, op.types, strict=True):
            _define(graph, types, value, type_, index)
    for value in graph.outputs:
        if value not in types:
            raise _fault(graph, len(graph.ops), f"output %{value} is not defined")


def _define(graph: Graph, types: dict[int, TensorType], value: int, type_: TensorType, where: int | None) -> None:
    if value in types:
        raise _fault(graph, where, f"%{value} is defined twice")
    if any(not isinstance(size, int) or size < 0 for size in type_.shape):
        raise _fault(graph, where, f"%{value} has a size that is not a whole number >= 0: {type_}")
    types[value] = type_


def _verify_constant(graph: Graph, value: int, constant: Constant) -> None:
    if not constant.portable:
        return
    array, type_ = constant.value, constant.type
    if (array.shape, array.dtype.name) != (type_.shape, type_.dtype):
        found = f"{array.dtype.name}{list(array.shape)}"
        raise _fault(graph, None, f"constant %{value} is declared {type_}, its array is {found}")


def _verify_params(graph: Graph, index: int, op: Op) -> None:
    if op.opaque and op.params:
        raise _fault(graph, index, "an opaque operation keeps its parameters in its reference")
    for name, value in op.params.items():
        if not is_canonical(value):
            raise _fault(graph, index, f"parameter {name} is not plain data: {value!r}")


def _verify_types(graph: Graph, index: int, op: Op, operands: list[TensorType]) -> None:
    if op.opaque:
        return
    try:
        if op.body is not None:
            verify_scan(op, operands)
            verify(op.body)
            return
        expected = infer(op.opcode, operands, op.params)
    except (GraphError, KeyError, IndexError, ValueError) as error:
        raise _fault(graph, index, f"{op.opcode} does not accept these operands: {error}") from error
    if expected is None:
        return
    agree = len(expected) == len(op.types) and all(a.same_data(b) for a, b in zip(expected, op.types, strict=True))
    if not agree:
        wanted, found = (", ".join(map(str, types)) for types in (expected, op.types))
        raise _fault(graph, index, f"{op.opcode} gives {wanted}, but {found} is declared")


def _fault(graph: Graph, index: int | None, message: str) -> GraphError:
    if index is None:
        return GraphError(message)
    around = range(max(0, index - _NEIGHBOURS), min(len(graph.ops), index + _NEIGHBOURS + 1))
    lines = [f"  {'>' if i == index else ' '} {i}: {_print_op(graph.ops[i])}" for i in around]
    return GraphError("\n".join([f"{message} (operation {index})", *lines]))


def is_canonical(value: Param) -> bool:
    """Whether a parameter is plain data: None, bool, int, float, str or nested tuples of these."""
    if isinstance(value, tuple):
        return all(map(is_canonical, value))
    return value is None or type(value) in (bool, int, float, str)


def parse_type(text: str) -> TensorType:
    """Reads a type like `float32*[2,3]` (`*` marks a weak type, `@axis` a manual mesh axis it varies over)."""
    match = _TYPE.fullmatch(text)
    if match is None:
        raise GraphError(f"expected a type like float32[2,3], found {text!r}")
    shape = tuple(int(size) for size in match["shape"].split(",") if size)
    varying = tuple(axis for axis in match["varying"].split("@") if axis)
    return TensorType(shape, match["dtype"], bool(match["weak"]), varying)


def _print_values(values: tuple[int, ...]) -> str:
    return ", ".join(f"%{value}" for value in values)


def _parse_values(text: str) -> tuple[int, ...]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not all(re.fullmatch(r"%\d+", item) for item in items):
        raise GraphError(f"expected values like %1, %2, found {text!r}")
    return tuple(int(item[1:]) for item in items)


def _single(values: tuple[int, ...]) -> int:
    if len(values) != 1:
        raise GraphError(f"expected one value, found {len(values)}")
    return values[0]


def _print_op(op: Op) -> str:
    params = f" {json.dumps(op.params, sort_keys=True, default=repr)}" if op.params else ""
    marks = ("opaque " if op.opaque else "") + (f"effects[{','.join(op.effects)}] " if op.effects else "")
    types = ", ".join(map(str, op.types))
    left = f"{_print_values(op.results)} = " if op.results else ""
    return f"{left}{marks}{op.opcode}({_print_values(op.operands)}){params} : {types}".rstrip()


def _parse_op(results: tuple[int, ...], text: str) -> Op:
    if text.startswith(("opaque ", "effects[")):
        raise GraphError("an opaque operation exists only in the process that printed it")
    match = _OP.fullmatch(text)
    if match is None:
        raise GraphError("expected `opcode(%operand, ...) {params} : types`")
    params = {name: _tuples(value) for name, value in json.loads(match["params"] or "{}").items()}
    types = tuple(parse_type(item) for item in match["types"].split(", "))
    return Op(match["opcode"], _parse_values(match["operands"]), results, types, params)


def _tuples(value: Param) -> Param:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _print_constant(constant: Constant) -> str:
    if not constant.portable:
        return f"{constant.type} opaque"
    array = constant.value
    if array.nbytes > _INLINE_BYTES or not dtypes.is_known(constant.type.dtype):
        return f"{constant.type} blake2b:{constant.digest}"
    if array.ndim == 0 and _prints_exactly(array):
        return f"{constant.type} {json.dumps(array.astype(_wide(array.dtype.name)).item())}"
    return f"{constant.type} hex:{np.ascontiguousarray(array).tobytes().hex()}"


def _prints_exactly(array: np.ndarray) -> bool:
    return (array.dtype.kind in "biuf" and bool(array == array)) or (
        array.dtype.name == "bfloat16" and bool(array == array)
    )


def _wide(dtype: str) -> str:
    return "float64" if dtypes.is_float(dtype) else dtype


def _parse_constant(text: str, constants: Mapping[str, np.ndarray]) -> Constant:
    type_text, _, body = text.partition(" ")
    type_ = parse_type(type_text)
    if body == "opaque":
        raise GraphError("an opaque constant exists only in the process that printed it")
    if body.startswith("blake2b:"):
        key = body.removeprefix("blake2b:")
        if key not in constants:
            raise GraphError(f"the constant with digest {key} is not among those given")
        constant = Constant(constants[key], type_)
        if constant.digest != key:
            raise GraphError(f"the array given for constant {key} has other content (digest {constant.digest})")
        return constant
    if not dtypes.is_known(type_.dtype):
        raise GraphError(f"unknown element type {type_.dtype!r}")
    dtype = dtypes.to_numpy(type_.dtype)
    if body.startswith("hex:"):
        data = np.frombuffer(bytes.fromhex(body.removeprefix("hex:")), dtype)
        return Constant(data.reshape(type_.shape), type_)
    return Constant(np.asarray(json.loads(body), dtype=dtype).reshape(type_.shape), type_)


def _opaque_names(graph: Graph) -> list[str]:
    names = [name for op in graph.ops if op.opaque for name in (_opaque_names(op.body) if op.body else [op.opcode])]
    names += [str(constant.type) for constant in graph.constants.values() if not constant.portable]
    return sorted(set(names))
