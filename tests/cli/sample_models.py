"""Functions that the tests of the command line compile."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import tilewright

_RNG = np.random.default_rng(0)
KERNEL = 0.1 * _RNG.standard_normal((3, 3, 3, 32)).astype(np.float32)
WEIGHTS = 0.1 * _RNG.standard_normal((32, 10)).astype(np.float32)
INNER = 0.05 * _RNG.standard_normal((512, 512)).astype(np.float32)
not_a_function = 3


def predict(images: jax.Array) -> jax.Array:
    """A convolution, a mean and a dense layer; images are `f32[batch, height, width, 3]`."""
    hidden = jax.lax.conv_general_dilated(images, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    hidden = jax.nn.relu(hidden * 0.5 + 0.1)
    return jax.nn.softmax(jnp.mean(hidden, axis=(1, 2)) @ WEIGHTS)


def layer(x: jax.Array) -> jax.Array:
    """A dense layer for `f32[n, 512]` with enough work to be worth a kernel."""
    return jax.nn.relu(x @ INNER + 1.0)


def affine(x: jax.Array, scale: jax.Array, *, shift: jax.Array) -> dict[str, jax.Array]:
    """Several arguments, one by name, and two results by name."""
    return {"value": x * scale + shift, "total": jnp.sum(x)}


def pick(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Whole numbers as an argument."""
    return table[rows]


def widen(x: jax.Array) -> jax.Array:
    """Takes and gives bfloat16."""
    return x + jnp.bfloat16(1)


def noisy(x: jax.Array) -> jax.Array:
    """Prints while it is traced."""
    print("tracing noisy")
    return x + 1


def printing(x: jax.Array) -> jax.Array:
    """Has an effect, so that it can't be saved."""
    jax.debug.print("x is {}", x)
    return x


def make_layer() -> object:
    """A factory."""
    return layer


def make_number() -> int:
    """A factory of the wrong thing."""
    return 3


def failing_factory() -> object:
    """A factory that raises."""
    raise RuntimeError("no weights here")


class Net:
    """A network with a method that needs no instance."""

    @staticmethod
    def forward(x: jax.Array) -> jax.Array:
        return layer(x)


net = Net()
jitted = jax.jit(layer)
compiled = tilewright.compile(layer, effort=0, seed=7, database=":memory:")
