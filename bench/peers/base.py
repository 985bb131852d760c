"""What a peer is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..problem import Problem

Values = NDArray[np.generic]


def to_channels_first(value: Values) -> Values:
    """An image, a signal or a volume with its channels first; anything smaller as it is."""
    return value if value.ndim < 3 else np.ascontiguousarray(np.moveaxis(value, -1, 1))


def to_channels_last(value: Values) -> Values:
    """The way back."""
    return value if value.ndim < 3 else np.moveaxis(value, 1, -1)


class NotExpressed(Exception):
    """The peer has no form of a workload."""


class Program(Protocol):
    """A row, compiled by a peer."""

    def load(self, args: Sequence[Values]) -> Any:
        """Arguments as the peer takes them, in memory of their own; not timed."""
        ...

    def run(self, loaded: Any) -> Any:
        """Call the program and wait for its results; this is what is timed."""
        ...

    def results(self, raw: Any) -> list[Values]:
        """Results as arrays of the workload's layout; not timed."""
        ...


@dataclass(frozen=True, slots=True)
class PeerKind:
    """A peer that can be asked for.

    Attributes:
        module: Module of this package; its `build(problem, calls, threads, option, folder) -> Program` compiles for it.
        packages: What must be importable.
        distribution: Whose version is reported.
        extra: The extra of this package that brings it.
        option: Passed to `build` where one module serves several peers.
        start_s: About how long a process takes until it is ready.
        once_s: The same of the first process of a row, on top.
    """

    module: str
    packages: tuple[str, ...]
    distribution: str
    extra: str = "peers"
    option: str = ""
    start_s: float = 2.0
    once_s: float = 0.0

    def missing(self) -> list[str]:
        """Packages that can't be found."""
        return [name for name in self.packages if find_spec(name) is None]

    def builder(self) -> Callable[[Problem, int, int, str, str], Program]:
        """Import the peer."""
        return import_module(f"{__package__}.{self.module}").build


PEERS: dict[str, PeerKind] = {
    "torch": PeerKind("torch_peer", ("torch",), "torch", option="eager"),
    "torch.compile": PeerKind("torch_peer", ("torch",), "torch", option="compile", start_s=7.0),
    "onnxruntime": PeerKind("onnxruntime_peer", ("onnxruntime", "onnx"), "onnxruntime"),
    "openvino": PeerKind("openvino_peer", ("openvino", "onnx"), "openvino"),
    "tvm": PeerKind(
        "tvm_peer",
        ("tvm", "onnx", "cloudpickle", "psutil", "xgboost"),
        "apache-tvm",
        extra="tvm",
        start_s=3.0,
        once_s=90.0,
    ),
}
"""By the name that `--peers` takes."""
