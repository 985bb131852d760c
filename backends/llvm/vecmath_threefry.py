"""Random words: Threefry-2x32 with 20 rounds (Salmon et al., Parallel Random Numbers, SC 2011), as JAX draws them."""

from __future__ import annotations

from collections.abc import Sequence

from .builder import Builder, VType
from .vecmath_basic import Params

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_GROUPS = 5
_PARITY = 0x1BD11BDA


def threefry(b: Builder, t: VType, args: Sequence[str], params: Params) -> str:
    """Both words of the counter (0, i) under the key k0, k1, exclusive-ored.

    Args:
        b: gets the instructions.
        t: uint32.
        args: k0, k1 and i.
        params: none.
    """
    k0, k1, counter = args
    keys = (k0, k1, b.op("xor", t, b.op("xor", t, k0, k1), b.const(_PARITY, t)))
    x, y = k0, b.op("add", t, counter, k1)
    for group in range(_GROUPS):
        for rotation in _ROTATIONS[group % 2]:
            x = b.op("add", t, x, y)
            y = b.op("xor", t, b.intrinsic("fshl", t, y, y, b.const(rotation, t)), x)
        x = b.op("add", t, x, keys[(group + 1) % 3])
        added = b.op("add", t, keys[(group + 2) % 3], b.const(group + 1, t))
        y = b.op("add", t, y, added)
    return b.op("xor", t, x, y)
