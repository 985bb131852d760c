"""A transformer block of Flax, compiled with its weights as arguments, tuned once and remembered in a file.

Needs `pip install flax`. The second run of this program takes what the first one found:

    python examples/flax_transformer.py
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
from flax import linen

import tilewright

DATABASE = Path(__file__).with_suffix(".db")


class Block(linen.Module):
    """Attention and a feed-forward network, each behind a norm."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Values of the same shape."""
        x = x + linen.MultiHeadDotProductAttention(num_heads=8)(linen.LayerNorm()(x))
        hidden = linen.gelu(linen.Dense(4 * x.shape[-1])(linen.LayerNorm()(x)))
        return x + linen.Dense(x.shape[-1])(hidden)


def main() -> None:
    """Run the example."""
    block = Block()
    x = jax.random.normal(jax.random.key(0), (1, 128, 256))
    weights = block.init(jax.random.key(1), x)
    fast = tilewright.compile(block.apply, budget="20s", database=DATABASE)
    start = time.perf_counter()
    fast(weights, x)
    report = fast.report()
    print(f"ready after {time.perf_counter() - start:.1f} s, decided by: {report.basis}")
    print(f"{report.speedup:.1f} times jax.jit" if report.speedup else report.reason)


if __name__ == "__main__":
    main()
