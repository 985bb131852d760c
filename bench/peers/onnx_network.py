"""A whole network as an ONNX model: one translation of our graph IR, whatever the network.

Images are stored with their channels first from input to output, as exporters of convolution networks do it; where
features are normalised or multiplied in between, the value is turned round there and back. Layer norms, activations,
softmax and means become the operators that they are, see `idioms`. Weights are laid out here, not in the model.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.graph import Graph, Op
from .base import NotExpressed
from .evaluate import evaluate, has_form
from .idioms import Idiom, find_idioms
from .onnx_builder import Builder
from .onnx_images import convolution, pooling, window_mean
from .onnx_products import attention, dot_general
from .stored import Stored, in_order, ordered, reshaped, split

_Values = NDArray[Any]

_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_FRAMES_PER_OP = 8
"""At most so many calls lie between a value and what it is made of."""

_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


class NetworkExporter:
    """Translates a graph, value by value, beginning at its results.

    Args:
        graph: The network after the graph passes.
        builder: Receives the operators; inputs are named `x0`, `x1`, ...
    """

    def __init__(self, graph: Graph, builder: Builder) -> None:
        self.graph = graph
        self.b = builder
        self.idioms = find_idioms(graph)
        self._stored: dict[int, Stored] = {}
        self._folded: dict[int, _Values] = {}
        self._handlers: dict[str, Callable[[Op], Stored]] = {
            "conv_general_dilated": lambda op: convolution(self, op),
            "reduce_window_max": lambda op: pooling(self, op),
            "reduce_window_sum": lambda op: pooling(self, op),
            "dot_general": lambda op: attention(self, op) or dot_general(self, op),
            "transpose": lambda op: split(self.b, self.stored(op.operands[0])).transposed(op.params["permutation"]),
            "reshape": lambda op: reshaped(self.b, self.stored(op.operands[0]), op.type.shape),
            "squeeze": lambda op: reshaped(self.b, self.stored(op.operands[0]), op.type.shape),
            "broadcast_in_dim": self._broadcast,
            "concatenate": self._concatenate,
            "slice": self._slice,
            "pad": self._pad,
            "convert_element_type": self._convert,
            **dict.fromkeys(_REDUCTIONS, self._reduce),
        }
        for number, (value, type_) in enumerate(graph.inputs.items()):
            self._stored[value] = Stored(f"x{number}", type_.shape, self._input_axes(value))

    def inputs(self) -> list[Stored]:
        """Arguments, in order."""
        return [self._stored[value] for value in self.graph.inputs]

    def outputs(self) -> list[Stored]:
        """Results, in order."""
        return [split(self.b, self.stored(value)) for value in self.graph.outputs]

    def constant(self, value: int) -> _Values | None:
        """What is known of a value before the network runs."""
        if value in self._folded:
            return self._folded[value]
        found, op = self.graph.constant(value), self.graph.producer(value)
        if found is None and op is not None and has_form(op):
            operands = [self.constant(operand) for operand in op.operands]
            known = [operand for operand in operands if operand is not None]
            if len(known) == len(operands):
                found = evaluate(op, known).astype(op.type.dtype)
        if found is not None:
            self._folded[value] = found
        return found

    def stored(self, value: int) -> Stored:
        """A value, translated when it is first asked for."""
        if value not in self._stored:
            self._stored[value] = self._translate(value)
        return self._stored[value]

    def only_user(self, value: int) -> bool:
        """Whether a value is read once and is no result."""
        return len(self.graph.users[value]) == 1 and value not in self.graph.outputs

    def _translate(self, value: int) -> Stored:
        known = self.constant(value)
        if known is not None:
            return in_order(self.b.constant(known), known.shape)
        if value in self.idioms:
            return self._idiom(self.idioms[value], self.graph.types[value].shape)
        op = self.graph.producer(value)
        assert op is not None
        if op.opcode == "split":
            return self._split(op, value)
        if op.opcode in self._handlers:
            return self._handlers[op.opcode](op)
        return self._elementwise(op)

    def _input_axes(self, value: int) -> tuple[int, ...]:
        """The order in which the first convolution wants an argument; its own if there is none."""
        seen, waiting = set[int](), [value]
        while waiting:
            for index in self.graph.users[waiting.pop()]:
                op = self.graph.ops[index]
                if op.opcode == "conv_general_dilated":
                    return tuple(op.params["dimension_numbers"][0])
                if op.opcode in _ELEMENTWISE and op.type.rank == self.graph.types[value].rank and index not in seen:
                    seen.add(index)
                    waiting.append(op.result)
        return tuple(range(self.graph.types[value].rank))

    def _idiom(self, idiom: Idiom, shape: tuple[int, ...]) -> Stored:
        b, value = self.b, self.stored(idiom.operand)
        match idiom.kind:
            case "spatial_mean":
                return self._spatial_mean(value, shape, float(idiom.scale[0]))
            case "gelu" | "gelu_tanh":
                form = {"approximate": "tanh"} if idiom.kind == "gelu_tanh" else {}
                name = b.node("Gelu", value.name, **form)
            case "silu":
                name = b.node("Mul", value.name, b.node("Sigmoid", value.name))
            case "hard_swish":
                name = b.node("HardSwish", value.name)
            case _:
                value = ordered(b, value)
                name = self._along_rows(idiom, value.name)
        return Stored(name, value.shape, value.axes, value.merged)

    def _along_rows(self, idiom: Idiom, x: str) -> str:
        b, size = self.b, self.graph.types[idiom.operand].shape[-1]
        if idiom.kind == "softmax":
            return b.node("Softmax", x, axis=-1)
        scale = b.constant(np.broadcast_to(idiom.scale, (size,)).astype(np.float32))
        if idiom.kind == "layer_norm":
            shift = b.constant(np.broadcast_to(idiom.shift, (size,)).astype(np.float32))
            return b.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=idiom.epsilon)
        mean = b.node("ReduceMean", b.node("Pow", x, b.scalar(2.0)), b.shape(-1))
        return b.node("Mul", b.node("Div", x, b.node("Sqrt", b.node("Add", mean, b.scalar(idiom.epsilon)))), scale)

    def _spatial_mean(self, value: Stored, shape: tuple[int, ...], factor: float) -> Stored:
        b, axes = self.b, (0, 3, 1, 2)
        value = ordered(b, value, axes)
        name = b.node("GlobalAveragePool", value.name)
        if abs(factor - 1) > 1e-6:
            name = b.node("Mul", name, b.scalar(factor))
        if len(shape) == 4:
            return Stored(name, shape, axes)
        return in_order(b.node("Flatten", name, axis=1), shape)

    def _elementwise(self, op: Op) -> Stored:
        found = self._clip(op) or window_mean(self, op) or self._merged(op)
        if found is not None:
            return found
        live = [self.stored(v) for v in op.operands if self.constant(v) is None and len(self.graph.types[v].shape) > 0]
        orders = [value.axes for value in live if len(value.shape) == op.type.rank]
        # Of two orders the one with the channels first: the other side of a residual was turned round on the way.
        axes = next((a for a in orders if a != tuple(range(len(a)))), tuple(range(op.type.rank)))
        names = [self._operand(v, axes) for v in op.operands]
        return Stored(self._operator(op, names), op.type.shape, axes)

    def _merged(self, op: Op) -> Stored | None:
        """The same without splitting axes that one operand has merged, if all others are constants."""
        live = [v for v in op.operands if self.constant(v) is None]
        if len(live) != 1 or self.stored(live[0]).merged == 1 or len(self.stored(live[0]).shape) != op.type.rank:
            return None
        value = self.stored(live[0])
        lead = len(value.shape) - value.merged

        def operand(v: int) -> str:
            known = self.constant(v)
            if known is None:
                return value.name
            if known.ndim == 0:
                return self.b.constant(known)
            whole = np.broadcast_to(known, (*known.shape[:lead], *value.shape[lead:]))
            return self.b.constant(np.ascontiguousarray(whole).reshape(*known.shape[:lead], -1))

        names = [operand(v) for v in op.operands]
        return Stored(self._operator(op, names), op.type.shape, value.axes, value.merged)

    def _operand(self, value: int, axes: tuple[int, ...]) -> str:
        known = self.constant(value)
        if known is not None:
            return self.b.constant(np.ascontiguousarray(known.transpose(axes)) if known.ndim == len(axes) else known)
        found = self.stored(value)
        return ordered(self.b, found, axes).name if len(found.shape) == len(axes) else found.name

    def _operator(self, op: Op, names: Sequence[str]) -> str:
        b = self.b
        if op.opcode == "max" and self._bound(op) == 0:
            return b.node("Relu", *(n for n, v in zip(names, op.operands, strict=True) if self.constant(v) is None))
        match op.opcode:
            case "square":
                return b.node("Mul", names[0], names[0])
            case "rsqrt":
                return b.node("Reciprocal", b.node("Sqrt", names[0]))
            case "erfc":
                return b.node("Sub", b.scalar(1.0), b.node("Erf", names[0]))
            case "integer_pow":
                return b.node("Pow", names[0], b.scalar(float(op.params["y"])))
            case "select_n":
                which, first, second = names
                return b.node("Where", which, second, first)
        if op.opcode not in _ELEMENTWISE:
            raise NotExpressed(f"no form of {op.opcode} for ONNX")
        return b.node(_ELEMENTWISE[op.opcode], *names)

    def _bound(self, op: Op) -> float | None:
        """The number that a maximum or minimum is taken with."""
        known = [self.constant(v) for v in op.operands]
        numbers = [float(value.reshape(-1)[0]) for value in known if value is not None and value.size == 1]
        return numbers[0] if len(numbers) == 1 and len(known) == 2 else None

    def _clip(self, op: Op) -> Stored | None:
        """Both bounds as one operator, which runtimes fuse into convolutions."""
        inner = next((p for v in op.operands if (p := self.graph.producer(v)) is not None), None)
        if op.opcode != "min" or inner is None or inner.opcode != "max" or not self.only_user(inner.result):
            return None
        low, high = self._bound(inner), self._bound(op)
        value = next((v for v in inner.operands if self.constant(v) is None), None)
        if low is None or high is None or low > high or value is None:
            return None
        found = self.stored(value)
        name = self.b.node("Clip", found.name, self.b.scalar(low), self.b.scalar(high))
        return Stored(name, found.shape, found.axes, found.merged)

    def _reduce(self, op: Op) -> Stored:
        value = split(self.b, self.stored(op.operands[0]))
        reduced = tuple(op.params["axes"])
        kept = [axis for axis in range(len(value.shape)) if axis not in reduced]
        places = sorted(value.axes.index(axis) for axis in reduced)
        name = self.b.node(_REDUCTIONS[op.opcode], value.name, self.b.shape(*places), keepdims=0)
        return Stored(name, op.type.shape, tuple(kept.index(axis) for axis in value.axes if axis in kept))

    def _broadcast(self, op: Op) -> Stored:
        value, shape = self.stored(op.operands[0]), op.type.shape
        kept = dict(zip(op.params["broadcast_dimensions"], value.shape, strict=True))
        spread = [kept.get(axis, 1) for axis in range(len(shape))]
        found = reshaped(self.b, value, spread)
        if tuple(spread) == shape:
            return found
        return in_order(self.b.node("Expand", found.name, self.b.shape(*shape)), shape)

    def _concatenate(self, op: Op) -> Stored:
        live = [self.stored(v) for v in op.operands if self.constant(v) is None]
        axes = live[0].axes
        names = [self._operand(v, axes) for v in op.operands]
        return Stored(self.b.node("Concat", *names, axis=axes.index(op.params["dimension"])), op.type.shape, axes)

    def _slice(self, op: Op) -> Stored:
        b, value = self.b, split(self.b, self.stored(op.operands[0]))
        strides = op.params["strides"] or (1,) * len(value.shape)
        bounds = [
            [part[axis] for axis in value.axes] for part in (op.params["start_indices"], op.params["limit_indices"])
        ]
        places = range(len(value.axes))
        steps = [strides[axis] for axis in value.axes]
        name = b.node("Slice", value.name, *(b.shape(*part) for part in (*bounds, places, steps)))
        return Stored(name, op.type.shape, value.axes)

    def _split(self, op: Op, result: int) -> Stored:
        """One of several parts."""
        b, value = self.b, split(self.b, self.stored(op.operands[0]))
        axis, number = op.params["axis"], op.results.index(result)
        start = sum(op.params["sizes"][:number])
        bounds = b.shape(start), b.shape(start + op.params["sizes"][number])
        name = b.node("Slice", value.name, *bounds, b.shape(value.axes.index(axis)))
        return Stored(name, op.types[number].shape, value.axes)

    def _pad(self, op: Op) -> Stored:
        b, value = self.b, split(self.b, self.stored(op.operands[0]))
        config = [op.params["padding_config"][axis] for axis in value.axes]
        if any(inner for _, _, inner in config):
            raise NotExpressed("no form of padding between elements for ONNX")
        pads = b.shape(*(low for low, _, _ in config), *(high for _, high, _ in config))
        return Stored(b.node("Pad", value.name, pads, self.stored(op.operands[1]).name), op.type.shape, value.axes)

    def _convert(self, op: Op) -> Stored:
        value = self.stored(op.operands[0])
        return Stored(self.b.cast(value.name, op.type.dtype), value.shape, value.axes, value.merged)


def export_network(graph: Graph, builder: Builder) -> tuple[list[Stored], list[Stored]]:
    """Translate a network.

    Returns:
        Its arguments and results as the model has them.

    Raises:
        NotExpressed: ONNX or this translation has no form of an operation.
    """
    exporter = NetworkExporter(graph, builder)
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(usual + _FRAMES_PER_OP * len(graph.ops))  # a value is asked for by what reads it
    try:
        outputs = exporter.outputs()
    finally:
        sys.setrecursionlimit(usual)
    return exporter.inputs(), outputs
