"""A row as files, for processes that do not run JAX: arguments, weights, float64 results and allowed errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ..ir import dtypes
from ..ir.graph import Graph
from ..ir.graph_text import parse_graph, print_graph
from .messages import Error
from .workloads.base import Workload

Values = NDArray[np.generic]
_FILE = "problem.json"
_GRAPH = "network.txt"


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
    expression: str
    parameters: dict[str, bool | int | float | str]
    calls: int
    weights: dict[str, str]
    arguments: list[str]
    inputs: int
    allowed: list[list[Error]]
    network: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that was read back.

    Attributes:
        expression: Name of the computation.
        parameters: Its plain values.
        calls: How many calls, each on the result of the one before, make one program.
        weights: Constants by name.
        inputs: Argument lists that take turns.
        references: Float64 results of one call, for the first inputs.
        allowed: Errors of `jax.jit` with the limits of the accuracy contract, per input and output.
        graph: Of a whole network, which has no expression: the network with its weights as constants.
    """

    expression: str
    parameters: Mapping[str, bool | int | float | str]
    calls: int
    weights: Mapping[str, Values]
    inputs: Sequence[Sequence[Values]]
    references: Sequence[Sequence[Values]]
    allowed: Sequence[Sequence[Error]]
    graph: Graph | None = None

    def errors(self, index: int, results: Sequence[Values]) -> list[Error]:
        """Errors of results on an input.

        Raises:
            ValueError: The results have other shapes than the references.
        """
        found = []
        for result, exact, allowed in zip(results, self.references[index], self.allowed[index], strict=True):
            if result.shape != exact.shape:
                raise ValueError(f"expected a result of shape {exact.shape}, found {result.shape}")
            difference = np.abs(result.astype(np.float64) - exact.astype(np.float64))
            found.append(allowed.model_copy(update={"candidate": float(difference.max(initial=0.0))}))
        return found


def write_problem(
    folder: str,
    row: Workload | Graph,
    weights: Mapping[str, Values],
    inputs: Sequence[Sequence[Values]],
    references: Sequence[Sequence[Values]],
    allowed: Sequence[Sequence[Error]],
) -> None:
    """Write a row into an existing folder; see `Problem` for what the arguments are.

    Raises:
        ValueError: A network holds something that only this process can run.
    """
    path = Path(folder)
    for name, value in weights.items():
        _save(path / f"weight-{name}.npy", value)
    for index, args in enumerate(inputs):
        for position, value in enumerate(args):
            _save(path / f"input-{index}-{position}.npy", value)
    for index, results in enumerate(references):
        for position, value in enumerate(results):
            _save(path / f"reference-{index}-{position}.npy", value)
    network = isinstance(row, Graph)
    if network:
        _write_graph(path, row)
    description = _Description(
        expression="network" if network else row.expression,
        parameters={} if network else dict(row.parameters),
        calls=1 if network else row.calls,
        weights={name: value.dtype.name for name, value in weights.items()},
        arguments=[value.dtype.name for value in inputs[0]],
        inputs=len(inputs),
        allowed=[list(errors) for errors in allowed],
        network=network,
    )
    (path / _FILE).write_text(description.model_dump_json())


def _write_graph(path: Path, graph: Graph) -> None:
    if graph.opaque:
        names = ", ".join(sorted({op.opcode for op in graph.ops if op.opaque})) or "constants"
        raise ValueError(f"expected a network of plain operations, found {names}, which only JAX knows")
    (path / _GRAPH).write_text(print_graph(graph))
    for constant in graph.constants.values():
        _save(path / f"constant-{constant.digest}.npy", np.asarray(constant.value))


def _read_graph(path: Path) -> Graph:
    constants = {
        file.stem.removeprefix("constant-"): np.load(file, allow_pickle=False) for file in path.glob("constant-*.npy")
    }
    return parse_graph((path / _GRAPH).read_text(), constants)


def read_problem(folder: str) -> Problem:
    """Read what `write_problem` wrote."""
    path = Path(folder)
    found = _Description.model_validate_json((path / _FILE).read_text())
    weights = {name: _load(path / f"weight-{name}.npy", dtype) for name, dtype in found.weights.items()}
    inputs = [
        [_load(path / f"input-{index}-{position}.npy", dtype) for position, dtype in enumerate(found.arguments)]
        for index in range(found.inputs)
    ]
    references = [
        [np.load(path / f"reference-{index}-{position}.npy", allow_pickle=False) for position in range(len(errors))]
        for index, errors in enumerate(found.allowed)
    ]
    graph = _read_graph(path) if found.network else None
    return Problem(found.expression, found.parameters, found.calls, weights, inputs, references, found.allowed, graph)


def _save(path: Path, value: Values) -> None:
    # NumPy's files don't know bfloat16; its bits travel as integers.
    np.save(path, value.view(np.uint16) if value.dtype.name == "bfloat16" else value, allow_pickle=False)


def _load(path: Path, dtype: str) -> Values:
    value = np.load(path, mmap_mode="r", allow_pickle=False)  # read when it is used
    return value.view(dtypes.to_numpy(dtype)) if dtype == "bfloat16" else value
