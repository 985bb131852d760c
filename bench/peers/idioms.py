"""Finds what a network means: which values are a layer norm, a GELU, a softmax of another value.

Libraries spell these in many ways; exporters of networks write them as one operator, which runtimes have fast code for.
An idiom is therefore found by what it computes, not by how it is spelled: the operations between a value and one that
all of them depend on are evaluated in float64 on random values, and compared with the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ...ir.graph import Graph, Op
from .evaluate import ELEMENTWISE, evaluate, has_form

_Values = NDArray[np.float64]

_MOST_OPS = 24  # of an idiom
_PROBES = ((1.0, 0.0), (3.0, 1.0), (0.01, -2.0))  # deviation and mean of the random values; the last one shows epsilon
_TOLERANCE = 1e-5  # constants are rounded to float32
_LARGEST_EPSILON = 1e-2


@dataclass(frozen=True, slots=True)
class Idiom:
    """What a value is.

    Attributes:
        kind: `gelu`, `gelu_tanh`, `silu`, `hard_swish`, `softmax`, `layer_norm`, `rms_norm` or `spatial_mean`; all but
            the last keep the shape. Norms and softmax are along the last axis.
        operand: Of which other value.
        epsilon: Of norms.
        scale: Of norms, per feature; of a mean, one factor.
        shift: Of layer norms, per feature.
    """

    kind: str
    operand: int
    epsilon: float = 0.0
    scale: _Values = field(default_factory=lambda: np.ones(1))
    shift: _Values = field(default_factory=lambda: np.zeros(1))


_FUNCTIONS: Mapping[str, Callable[[_Values], _Values]] = {
    "gelu": lambda x: x * 0.5 * special.erfc(-x / np.sqrt(2)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * special.expit(x),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


def find_idioms(graph: Graph) -> dict[int, Idiom]:
    """Idioms by the value that they compute; an idiom inside of another one is left out."""
    found: dict[int, Idiom] = {}
    above = _dominators(graph)
    inside: set[int] = set()
    for op in reversed(graph.ops):
        if len(op.results) != 1 or op.result in inside:
            continue
        match = _match(graph, above, op.result)
        if match is not None:
            found[op.result], members = match
            inside |= members
    return found


def _match(graph: Graph, above: Mapping[int, int], value: int) -> tuple[Idiom, set[int]] | None:
    """The idiom that ends in a value, with the values between."""
    start, found = above.get(value, -1), None
    while start >= 0:
        cone = _between(graph, start, value)
        if cone is None or not all(has_form(op) for op in cone):
            break
        idiom = _recognise(graph, cone, start, value)
        if idiom is None and found is not None:
            break
        if idiom is not None:
            found = idiom, {op.result for op in cone}
        # Softmax may begin further up, where the maximum is subtracted, and an RMS norm may be part of a layer norm.
        start = above.get(start, -1) if idiom is None or idiom.kind in ("softmax", "rms_norm") else -1
    return found


def _dominators(graph: Graph) -> dict[int, int]:
    """For each computed value the nearest one that all its ways to the inputs go through; -1 if there is none."""
    order = {value: number for number, value in enumerate(graph.types)}
    above: dict[int, int] = dict.fromkeys(graph.inputs, -1)

    def common(a: int, b: int) -> int:
        while a != b and a >= 0 and b >= 0:
            if order[a] > order[b]:
                a = above[a]
            else:
                b = above[b]
        return a if a == b else -1

    for op in graph.ops:
        live = [value for value in op.operands if value in above]
        if live:
            nearest = live[0]
            for value in live[1:]:
                nearest = common(nearest, value)
            above.update(dict.fromkeys(op.results, nearest))
    return above


def _between(graph: Graph, start: int, end: int) -> list[Op] | None:
    """The operations between two values in order; None if there are too many for an idiom."""
    chosen: dict[int, Op] = {}
    waiting = [end]
    while waiting:
        value = waiting.pop()
        index = graph.producers.get(value)
        if value == start or index is None or index in chosen:
            continue
        if len(chosen) == _MOST_OPS:
            return None
        chosen[index] = graph.ops[index]
        waiting += graph.ops[index].operands
    return [chosen[index] for index in sorted(chosen)]


def _recognise(graph: Graph, cone: Sequence[Op], start: int, end: int) -> Idiom | None:
    given, made = graph.types[start], graph.types[end]
    if given.dtype != "float32" or made.dtype != "float32" or not given.shape:
        return None
    codes = {op.opcode for op in cone}
    if not any(code.startswith("reduce_") for code in codes):
        return _function(graph, cone, start, end) if given.shape == made.shape else None
    if given.shape != made.shape and not _is_spatial(given.shape, made.shape):
        return None
    rng = np.random.default_rng(0)
    probes = [mean + deviation * rng.standard_normal(given.shape) for deviation, mean in _PROBES]
    x, y = np.stack(probes), np.stack([_run(graph, cone, {start: probe}, end) for probe in probes])
    if given.shape != made.shape:
        return _spatial_mean(start, x, y)
    if _equal(y, special.softmax(x, axis=-1)):
        return Idiom("softmax", start)
    return _norm(start, x, y, _epsilons(graph, cone))


def _function(graph: Graph, cone: Sequence[Op], start: int, end: int) -> Idiom | None:
    """A function of single elements, tried at points of a line in place of the whole array."""
    constants = [graph.constants[v] for op in cone for v in op.operands if v in graph.constants]
    plain = all(op.opcode in ELEMENTWISE or op.opcode == "integer_pow" for op in cone)
    if not plain or any(constant.type.size != 1 for constant in constants):
        return None
    points = np.linspace(-9.0, 9.0, 999)
    result = _run(graph, cone, {start: points}, end)
    if result.shape != points.shape:
        return None
    kind = next((name for name, function in _FUNCTIONS.items() if _equal(result, function(points))), None)
    return None if kind is None else Idiom(kind, start)


def _is_spatial(image: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether a value has what is left of images without their two middle axes, or with these of size 1."""
    return len(image) == 4 and made in ((image[0], image[3]), (image[0], 1, 1, image[3]))


def _spatial_mean(start: int, x: _Values, y: _Values) -> Idiom | None:
    """A mean, or a multiple of it, over the two middle axes of images."""
    mean = x.mean((2, 3))
    found = y.reshape(mean.shape)
    factor = np.asarray([np.vdot(mean, found) / np.vdot(mean, mean)])
    return Idiom("spatial_mean", start, scale=factor) if _equal(found, factor * mean) else None


def _norm(start: int, x: _Values, y: _Values, epsilons: Sequence[float]) -> Idiom | None:
    """A layer or RMS norm with the scale and shift that fit best, if they fit."""
    for kind in ("layer_norm", "rms_norm"):
        centred = x - x.mean(-1, keepdims=True) if kind == "layer_norm" else x
        variance = np.square(centred).mean(-1, keepdims=True)
        for epsilon in epsilons:
            plain = centred / np.sqrt(variance + epsilon)
            rows, results = (value.reshape(-1, value.shape[-1]) for value in (plain, y))
            low = rows.mean(0) if kind == "layer_norm" else np.zeros(rows.shape[-1])
            high = results.mean(0) if kind == "layer_norm" else np.zeros(rows.shape[-1])
            scale = ((rows - low) * (results - high)).sum(0) / np.maximum(np.square(rows - low).sum(0), 1e-30)
            shift = high - low * scale
            if _equal(results, rows * scale + shift):
                return Idiom(kind, start, epsilon, scale, shift)
    return None


def _epsilons(graph: Graph, cone: Sequence[Op]) -> list[float]:
    """Small positive numbers that are read."""
    values = [graph.constant(v) for op in cone for v in op.operands]
    numbers = [float(value.reshape(-1)[0]) for value in values if value is not None and value.size == 1]
    return [number for number in dict.fromkeys(numbers) if 0 < number <= _LARGEST_EPSILON]


def _run(graph: Graph, cone: Sequence[Op], values: dict[int, Any], end: int) -> _Values:
    """Evaluate in float64."""
    values = dict(values)

    def read(value: int) -> Any:
        if value in values:
            return values[value]
        constant = graph.constants[value].value
        return constant.astype(np.float64) if constant.dtype == np.float32 else constant

    with np.errstate(all="ignore"):
        for op in cone:
            values[op.result] = evaluate(op, [read(value) for value in op.operands])
    return values[end]


def _equal(found: _Values, expected: _Values) -> bool:
    """Whether two results are the same up to the rounding of constants."""
    return bool(np.abs(found - expected).max(initial=0.0) <= _TOLERANCE * np.abs(expected).max(initial=0.0))
