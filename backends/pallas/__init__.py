"""The Pallas backend: scheduled programs as kernels for TPUs and GPUs.

Importing this package imports JAX.
"""

from __future__ import annotations

from .emitter import emit, lowered
from .errors import PallasError
from .routes import TPU, TRITON, Route, Tpu, Triton
from .sketches import GPU_TILES, TPU_TILES, Tiles, tiled

__all__ = [
    "GPU_TILES",
    "TPU",
    "TPU_TILES",
    "TRITON",
    "PallasError",
    "Route",
    "Tiles",
    "Tpu",
    "Triton",
    "emit",
    "lowered",
    "tiled",
]
