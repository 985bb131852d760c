"""Programs whose values can be stored in other layouts, arguments on which sums don't round, and their regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from random_graphs import SUPPORTED

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.graph_text import canonical
from tilewright.passes.fusion import greedy
from tilewright.passes.graph_trace import Grouping
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.sink_views import sink_views

Program = tuple[Callable[..., Any], tuple[np.ndarray, ...]]


def greedily(graph: Graph) -> Grouping:
    return Grouping(graph, greedy(graph, SUPPORTED), greedily)


def grouped(fn: Any, *args: Any) -> Grouping:
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))
    graph = canonical(sink_views(graph))
    return greedily(graph)


def whole(*shape: int, seed: int = 0) -> np.ndarray:
    """Small whole numbers: however they are added up, nothing rounds."""
    return np.random.default_rng([seed, *shape]).integers(-3, 4, shape).astype(np.float32)


def special(*shape: int) -> np.ndarray:
    """The same with a NaN, an infinity and a negative zero."""
    array = whole(*shape)
    array.flat[1], array.flat[3], array.flat[5] = np.nan, -np.inf, -0.0
    return array


def conv(x: Any, w: np.ndarray, numbers: tuple[str, str, str] = ("NCHW", "OIHW", "NCHW"), **options: Any) -> Any:
    settings: dict[str, Any] = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **settings)


def residual(x):
    y = jax.nn.relu(conv(x, whole(4, 3, 3, 3)) + whole(4)[:, None, None])
    return y + jnp.tanh(conv(y, whole(4, 4, 1, 1))), y


def strided(x):
    y = conv(x, whole(6, 3, 3, 2), window_strides=(2, 1), padding=((1, 0), (2, 1)), rhs_dilation=(1, 2))
    return conv(y, whole(6, 1, 3, 3), feature_group_count=6, padding=((0, 1), (1, 1)))


def in_groups(x):
    return conv(conv(x, whole(8, 3, 1, 1)), whole(4, 4, 3, 3), feature_group_count=2)


def transposed(x):
    y = conv(x, whole(4, 3, 2, 2), lhs_dilation=(2, 2), padding=((1, 1), (1, 1)))
    return jax.nn.relu(y) * 2


def batch_groups(x, w):
    return conv(x, w, ("CNHW", "IOHW", "NCHW"), batch_group_count=3)


def line(x):
    return jnp.maximum(conv(x, whole(5, 3, 3), ("NCH", "OIH", "NCH")), 0.0).sum(2)


def volume(x):
    y = conv(x, whole(4, 2, 1, 2, 2), ("NCDHW", "OIDHW", "NCDHW"), window_strides=(1, 2, 1))
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 2, 1, 2), (1, 1, 1, 1, 2), "SAME")


def pools(x):
    y = lax.reduce_window(x, 0.0, lax.add, (1, 1, 3, 2), (1, 1, 2, 1), ((0, 0), (0, 0), (1, 0), (0, 1)))
    z = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1, 3), (1, 1, 2, 1), "SAME", window_dilation=(1, 1, 1, 2))
    return y, z


def dense_block(x):
    y = jnp.concatenate([x, conv(x, whole(2, 3, 3, 3))], 1)
    return jnp.concatenate([y, conv(y, whole(2, 5, 1, 1)), y[:, 1:3]], 1)


def upsampled(x):
    y = jnp.repeat(jnp.repeat(x, 2, axis=2), 3, axis=3)
    return lax.pad(y, 0.0, ((0, 0, 0), (1, 0, 1), (0, -1, 0), (-1, 2, 0)))


def channel_softmax(x):
    return jax.nn.softmax(conv(x, whole(4, 3, 1, 1)) * 0.1, axis=1)


def statistics(x):
    y = (x - x.max((2, 3), keepdims=True)) * x.sum(1, keepdims=True)
    return y, jnp.argmax(x, 1), jnp.argmin(x, 3), x.min((0, 2)), (x > 0).all(1)


def group_norm(x):
    y = x.reshape(x.shape[0], 2, -1, *x.shape[2:])
    return (y - y.sum((2, 3, 4), keepdims=True)).reshape(x.shape)


def flat(x):
    return x.reshape(x.shape[0], -1) @ whole(3 * 6 * 5, 7), x.reshape(-1), x.reshape(3, 2, *x.shape[2:])


def products(x, y):
    z = jnp.einsum("nchw,oc->nohw", x, whole(5, 3))
    return z, jnp.einsum("nchw,ncwk->cnhk", x, y), jnp.einsum("nchw,kc->whnk", x, whole(2, 3))


def moved(x):
    y = x.transpose(0, 2, 3, 1)
    z = (y * 2 + y.max(-1, keepdims=True)).transpose(0, 3, 1, 2)
    return z + x, y, jnp.flip(x, (1, 3)), x[:, ::2, 1:, :-1], jnp.swapaxes(z, 1, 3)


def prefixes(x):
    return lax.cumsum(x, 1), lax.cumsum(x, 3, reverse=True), x + lax.broadcasted_iota(jnp.float32, x.shape, 2)


def choices(x, flag):
    y = jnp.clip(x, -1, 1)
    picked = lax.select_n(flag, x, y)
    return jnp.where(x > y, picked, x.astype(jnp.int32).astype(jnp.float32)), (x != x), lax.clamp(0.0, x, 2.0)


def refusing(x):
    """Sorting, gathering, updating and loops go on in the layout that they are given."""
    top, where = lax.top_k(x, 2)
    _, sums = lax.scan(lambda s, row: (s + row.sum(), row * 2), 0.0, x)
    picked = jnp.take(x, np.array([1, 0, 2]), axis=1)
    return lax.sort((x, -x), dimension=1), top, where, sums, picked, x.at[:, 1].set(0.0), x[:, jnp.int32(x[0, 0, 0, 0])]


def arguments(x, y):
    """Arguments and constants as results, and results that are read, repeated and empty."""
    z = x + y[:, :, None, None]
    return x, z, z, z * 2, jnp.float32(3), z[:, :0], whole(1, 3, 1, 1), conv(z[:, :, :0], whole(2, 3, 1, 1))


IMAGE = whole(2, 3, 6, 5)
PROGRAMS: dict[str, Program] = {
    "residual": (residual, (IMAGE,)),
    "strided": (strided, (IMAGE,)),
    "groups": (in_groups, (IMAGE,)),
    "transposed": (transposed, (IMAGE,)),
    "batch groups": (batch_groups, (whole(3, 6, 5, 4), whole(3, 6, 2, 2))),
    "line": (line, (whole(2, 3, 9),)),
    "volume": (volume, (whole(1, 2, 3, 5, 4),)),
    "pools": (pools, (special(2, 3, 6, 5),)),
    "dense block": (dense_block, (IMAGE,)),
    "upsampled": (upsampled, (special(2, 3, 3, 4),)),
    "channel softmax": (channel_softmax, (IMAGE,)),
    "statistics": (statistics, (special(2, 3, 6, 5),)),
    "group norm": (group_norm, (whole(2, 4, 3, 5),)),
    "flat": (flat, (IMAGE,)),
    "products": (products, (IMAGE, whole(2, 3, 5, 4))),
    "moved": (moved, (special(2, 3, 6, 5),)),
    "prefixes": (prefixes, (IMAGE,)),
    "choices": (choices, (special(2, 3, 6, 5), np.asarray(True))),
    "refusing": (refusing, (IMAGE,)),
    "arguments": (arguments, (IMAGE, whole(2, 3))),
    "units": (residual, (whole(1, 3, 1, 1),)),
    "nothing": (lambda x: (x.sum(1), jnp.tanh(x).transpose(0, 2, 3, 1), x.reshape(0, 3, 10)), (whole(0, 3, 2, 5),)),
}
