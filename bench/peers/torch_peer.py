"""PyTorch, eager and compiled."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..problem import Problem
from ..workloads.base import chain
from .base import NotExpressed, Values, to_channels_first, to_channels_last
from .torch_functions import CHANNELS_FIRST, TORCH_FUNCTIONS


class _Row(torch.nn.Module):
    """A row as a module, its weights as constants."""

    def __init__(self, problem: Problem, calls: int) -> None:
        super().__init__()
        weights = {name: _weight(value) for name, value in problem.weights.items()}
        for name, value in weights.items():
            self.register_buffer(name, value)
        function = TORCH_FUNCTIONS[problem.expression]
        self._call = chain(lambda *args: function(dict(self.named_buffers()), *args, **problem.parameters), calls)

    def forward(self, *args: torch.Tensor) -> Any:
        return self._call(*args)


class _TorchProgram:
    def __init__(self, call: Any, channels_first: bool) -> None:
        self._call = call
        self._channels_first = channels_first

    def load(self, args: Sequence[Values]) -> list[torch.Tensor]:
        return [_tensor(to_channels_first(value) if self._channels_first else value) for value in args]

    def run(self, loaded: list[torch.Tensor]) -> Any:
        with torch.inference_mode():
            return self._call(*loaded)

    def results(self, raw: Any) -> list[Values]:
        found = raw if isinstance(raw, tuple) else (raw,)
        arrays = [(value.float() if value.dtype == torch.bfloat16 else value).numpy() for value in found]
        return [to_channels_last(array) for array in arrays] if self._channels_first else arrays


def build(problem: Problem, calls: int, threads: int, option: str, folder: str) -> _TorchProgram:
    """Compile a row.

    Args:
        problem: The row.
        calls: How many calls make one program.
        threads: How many threads to use.
        option: `eager` or `compile`.
        folder: For records that later processes of the row may use.

    Raises:
        NotExpressed: There is no form of the row.
    """
    if problem.expression not in TORCH_FUNCTIONS:
        raise NotExpressed(f"no form of {problem.expression} for torch")
    torch.set_num_threads(threads)
    row = _Row(problem, calls).eval()
    channels_first = problem.expression in CHANNELS_FIRST
    if option == "eager":
        return _TorchProgram(row, channels_first)
    # Weights as constants, every choice of templates and kernels timed: what its users can get.
    torch._inductor.config.freezing = True  # pyright: ignore[reportAttributeAccessIssue]
    return _TorchProgram(torch.compile(row, mode="max-autotune", dynamic=False), channels_first)


_MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _weight(value: Values) -> torch.Tensor:
    """A constant in torch's layout: kernels of convolutions begin with results and inputs."""
    if value.ndim < 3:
        return _tensor(value)
    kernel = _tensor(np.moveaxis(value, (-1, -2), (0, 1)))
    if value.ndim == 3:
        kernel = kernel[:, :, None]
    return kernel.contiguous(memory_format=_MEMORY_FORMATS[kernel.ndim])


def _tensor(value: Values) -> torch.Tensor:
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(value.view(np.uint16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(value))
