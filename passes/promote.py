"""The same program in double precision: what accuracy is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.graph import Constant, Graph, GraphBuilder, Op, Param, TensorType

_WIDER = {
    "float16": "float64",
    "bfloat16": "float64",
    "float32": "float64",
    "complex64": "complex128",
}
_DTYPE_PARAMS = ("new_dtype", "dtype", "preferred_element_type", "out_dtype")
# These depend on how a number is stored, so they run in the type they were written for.
_STORED = frozenset({"bitcast_convert_type", "nextafter", "tilewright_plan"})


def promote(graph: Graph) -> Graph:
    """Widens every floating point value of a graph to 64 bits.

    Args:
        graph: The program. Its inputs keep their types and are converted first.

    Returns:
        A graph with the same inputs; its outputs are float64 where they were floating point numbers. Opaque operations,
        and those that look at how numbers are stored, compute in their own precision between conversions.
    """
    return _Promotion(graph).run()


def wider(type_: TensorType) -> TensorType:
    """The type that a value has after promotion."""
    return type_.with_dtype(_WIDER[type_.dtype], type_.weak_type) if type_.dtype in _WIDER else type_


class _Promotion:
    def __init__(self, graph: Graph, body: bool = False) -> None:
        self.graph = graph
        self.body = body  # of a loop: what it reads is wide already
        self.builder = GraphBuilder()
        self.wide: dict[int, int] = {}

    def run(self) -> Graph:
        for value, type_ in self.graph.inputs.items():
            self.wide[value] = self.builder.input(wider(type_) if self.body else type_)
        for value in self.graph.inputs:
            self.wide[value] = self.convert(self.wide[value], wider(self.graph.inputs[value]))
        for value, constant in self.graph.constants.items():
            self.wide[value] = self.constant(constant)
        for op in self.graph.ops:
            results = self.stored(op) if op.opaque or op.opcode in _STORED else self.widened(op)
            self.wide.update(zip(op.results, results, strict=True))
        return self.builder.build([self.wide[value] for value in self.graph.outputs])

    def constant(self, constant: Constant) -> int:
        type_ = wider(constant.type)
        if not constant.portable or type_ == constant.type:
            return self.builder.constant(constant.value, constant.type)
        return self.builder.constant(np.asarray(constant.value).astype(type_.dtype), type_)

    def widened(self, op: Op) -> tuple[int, ...]:
        params: dict[str, Param] = {name: _wider_param(name, value) for name, value in op.params.items()}
        types = [wider(type_) for type_ in op.types]
        body = None if op.body is None else _Promotion(op.body, body=True).run()
        return self.builder.add(op.opcode, [self.wide[value] for value in op.operands], params, types, body=body)

    def stored(self, op: Op) -> tuple[int, ...]:
        """Keeps an operation's own types: operands are rounded to them, results widened."""
        operands = [self.convert(self.wide[value], self.graph.types[value]) for value in op.operands]
        results = self.builder.add(op.opcode, operands, op.params, op.types, ref=op.ref, effects=op.effects)
        return tuple(self.convert(value, wider(type_)) for value, type_ in zip(results, op.types, strict=True))

    def convert(self, value: int, type_: TensorType) -> int:
        if self.builder.types[value].dtype == type_.dtype:
            return value
        params: dict[str, Any] = {"new_dtype": type_.dtype, "weak_type": type_.weak_type}
        return self.builder.add("convert_element_type", (value,), params, [type_])[0]


def _wider_param(name: str, value: Param) -> Param:
    return _WIDER.get(value, value) if name in _DTYPE_PARAMS and isinstance(value, str) else value
