"""One step of a decoder with a cache of keys and values: what a language model does for each new token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder with RMS norms in front, rotary positions and gated feed-forward layers.

    Attributes:
        layers: Number of layers.
        features: Size of a token's representation.
        heads: Heads of attention.
        hidden: Size of the feed-forward layers.
        cached: Positions that the cache has room for.
    """

    layers: int = 6
    features: int = 512
    heads: int = 8
    hidden: int = 1376
    cached: int = 1024

    @property
    def size(self) -> int:
        """Features of a head."""
        return self.features // self.heads

    def cache_shape(self) -> tuple[int, ...]:
        """Keys (or values) of a layer: batch, head, position, feature."""
        return (1, self.heads, self.cached, self.size)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by path."""
        features, hidden = self.features, self.hidden
        shapes: dict[str, tuple[int, ...]] = {"norm/scale": (features,)}
        for layer in (f"layer_{number}" for number in range(self.layers)):
            shapes |= {f"{layer}/{norm}/scale": (features,) for norm in ("attention_norm", "mlp_norm")}
            shapes |= {f"{layer}/{part}/kernel": (features, features) for part in ("query", "key", "value", "mix")}
            shapes |= {f"{layer}/{part}/kernel": (features, hidden) for part in ("gate", "up")}
            shapes[f"{layer}/down/kernel"] = (hidden, features)
        return shapes

    def step(self, weights: Mapping[str, Any], x: Any, position: Any, *cache: Any) -> tuple[Any, ...]:
        """One token through all layers.

        The cache is read only: a caller that owns it writes the returned keys and values to the position itself, in
        place. Returning the whole cache would time a copy of it that no serving loop makes.

        Args:
            weights: By path.
            x: The token's representation, (1, features).
            position: Place of the token, an int32 number.
            cache: Keys and values of the first layer, of the second one, ..., see `cache_shape`; those from `position`
                on are not looked at.

        Returns:
            The token's new representation, (1, features), then its keys and values of each layer, (1, heads, 1, size).
        """
        import jax
        import jax.numpy as jnp

        seen = jnp.arange(self.cached) < position
        angles = position.astype(jnp.float32) * 10000.0 ** (-jnp.arange(self.size // 2) / (self.size // 2))
        turn = jnp.cos(angles), jnp.sin(angles)
        made: list[Any] = []
        for layer in range(self.layers):
            part = {
                path.split("/", 1)[1]: value for path, value in weights.items() if path.startswith(f"layer_{layer}/")
            }
            y = _normalise(x, part["attention_norm/scale"])
            query, key, value = (
                (y @ part[f"{name}/kernel"]).reshape(1, self.heads, 1, self.size) for name in ("query", "key", "value")
            )
            query, key = _rotated(query, *turn), _rotated(key, *turn)
            mixed = _attend(query, key, value, cache[2 * layer], cache[2 * layer + 1], seen)
            x = x + mixed.reshape(1, self.features) @ part["mix/kernel"]
            y = _normalise(x, part["mlp_norm/scale"])
            x = x + (jax.nn.silu(y @ part["gate/kernel"]) * (y @ part["up/kernel"])) @ part["down/kernel"]
            made += [key, value]
        return _normalise(x, weights["norm/scale"]), *made


def _normalise(x: Any, scale: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * scale


def _rotated(x: Any, cosine: Any, sine: Any) -> Any:
    """Rotary positions: halves of the features as pairs."""
    import jax.numpy as jnp

    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def _attend(query: Any, key: Any, value: Any, keys: Any, values: Any, seen: Any) -> Any:
    """Attention to the cached positions that are seen, and to the token itself."""
    import jax
    import jax.numpy as jnp

    scale = query.shape[-1] ** -0.5
    cached = jnp.where(seen, jnp.einsum("bhqd,bhkd->bhqk", query, keys) * scale, -jnp.inf)
    own = jnp.einsum("bhqd,bhkd->bhqk", query, key) * scale
    shares = jax.nn.softmax(jnp.concatenate([cached, own], axis=-1), axis=-1)
    return jnp.einsum("bhqk,bhkd->bhqd", shares[..., :-1], values) + shares[..., -1:] * value
