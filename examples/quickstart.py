"""A function of plain JAX, compiled, explained, and used under `grad`, `vmap` and `jit`.

python examples/quickstart.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import tilewright


def classify(x: jax.Array, w1: jax.Array, b1: jax.Array, w2: jax.Array, b2: jax.Array) -> jax.Array:
    """Two dense layers; each row of the result sums to 1."""
    hidden = jax.nn.gelu(x @ w1 + b1)
    return jax.nn.softmax(hidden @ w2 + b2)


def main() -> None:
    """Run the example."""
    shapes = (256, 512), (512, 2048), (2048,), (2048, 512), (512,)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    x, *weights = [0.1 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]

    fast = tilewright.compile(classify, budget="10s")
    probabilities = fast(x, *weights)  # the first call compiles, tunes, checks and compares
    print(fast.report())
    print("largest difference from jax.jit:", jnp.abs(probabilities - jax.jit(classify)(x, *weights)).max())

    gradient = jax.grad(lambda x: fast(x, *weights)[:, 0].sum())(x)
    batched = jax.vmap(lambda row: fast(row[None], *weights)[0])(x[:4])
    inside = jax.jit(lambda x: fast(x, *weights).argmax(-1))(x)
    print("gradient", gradient.shape, "under vmap", batched.shape, "inside jit", inside.shape)


if __name__ == "__main__":
    main()
