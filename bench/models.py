"""Real networks as benchmark inputs: public Keras and Flax models with seeded, informative weights.

`python -m tilewright.bench.models [NAME ...]` checks of each that its input and each of its blocks move its output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoder import Decoder
from .weights import draw_images, draw_weight, informativeness

Args = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class ModelCase:
    """One network, ready to compile.

    Attributes:
        name: Name in the benchmark.
        fn: The network with its weights closed over, `fn(*args) -> outputs`, free of side effects.
        make_input: Draws fresh arguments from a generator.
        apply: The same network with explicit weights, `apply(weights, *args)`.
        weights: The weights in `fn`, by path.
    """

    name: str
    fn: Callable[..., Any]
    make_input: Callable[[np.random.Generator], Args]
    apply: Callable[..., Any]
    weights: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _KerasModel:
    """A network of keras.applications; `module` is where its preprocessing lives."""

    application: str
    module: str
    height: int = 224
    width: int = 224
    batch: int = 1
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class _Encoder:
    """A transformer encoder with the norm in front of attention and feed-forward."""

    layers: int = 6
    features: int = 512
    heads: int = 8
    hidden: int = 2048
    sequence: int = 512
    batch: int = 1


_MODELS: dict[str, _KerasModel | _Encoder | Decoder] = {
    "mobilenetv2": _KerasModel("MobileNetV2", "mobilenet_v2"),
    "resnet50": _KerasModel("ResNet50", "resnet"),
    "convnexttiny": _KerasModel("ConvNeXtTiny", "convnext"),
    "encoder": _Encoder(),
    "decoder-step": Decoder(),
    "mobilenetv2-192x160": _KerasModel("MobileNetV2", "mobilenet_v2", height=192, width=160),
    "mobilenetv2-batch3": _KerasModel("MobileNetV2", "mobilenet_v2", batch=3),
    "mobilenetv2-alpha0.75": _KerasModel("MobileNetV2", "mobilenet_v2", alpha=0.75),
    "efficientnetb0": _KerasModel("EfficientNetB0", "efficientnet"),
    "mobilenetv3small": _KerasModel("MobileNetV3Small", "mobilenet_v3"),
    "densenet121": _KerasModel("DenseNet121", "densenet"),
    "mobilenet": _KerasModel("MobileNet", "mobilenet"),
    "mobilenetv3large": _KerasModel("MobileNetV3Large", "mobilenet_v3"),
    "efficientnetv2b0": _KerasModel("EfficientNetV2B0", "efficientnet_v2"),
    "resnet50v2": _KerasModel("ResNet50V2", "resnet_v2"),
    "inceptionv3": _KerasModel("InceptionV3", "inception_v3", height=299, width=299),
    "xception": _KerasModel("Xception", "xception", height=299, width=299),
    "nasnetmobile": _KerasModel("NASNetMobile", "nasnet"),
}
_STATISTICS_BATCH = 8


def model_names() -> tuple[str, ...]:
    """Names that `load_model` knows, the main ones first."""
    return tuple(_MODELS)


def load_model(name: str, seed: int = 0) -> ModelCase:
    """Build a network with seeded weights; takes a few seconds.

    Args:
        name: One of `model_names()`.
        seed: Decides every weight.

    Returns:
        A float32 network. Its batch-norm statistics come from one training pass over a batch of pictures, so that
        activations have the spread they have in a trained network.

    Raises:
        ValueError: The name is unknown.
        RuntimeError: Keras was already imported with another backend than JAX.
    """
    if name not in _MODELS:
        raise ValueError(f"expected one of {', '.join(_MODELS)}, found {name!r}")
    rng = np.random.default_rng([seed, *name.encode()])
    description = _MODELS[name]
    if isinstance(description, _Encoder):
        return _load_encoder(name, description, rng)
    if isinstance(description, Decoder):
        return load_decoder(name, description, rng)
    return _load_keras(name, description, rng)


def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "jax"  # read by Keras when it is first imported
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"expected Keras on the JAX backend, found {keras.backend.backend()!r}: Keras was imported earlier; "
            "set KERAS_BACKEND=jax before the first import"
        )
    return keras


def _load_keras(name: str, description: _KerasModel, rng: np.random.Generator) -> ModelCase:
    keras = _keras()
    network = _build_keras(keras, description)
    preprocess = getattr(keras.applications, description.module).preprocess_input
    variables = {variable.path: variable for variable in network.variables}
    if len(variables) != len(network.variables):
        raise RuntimeError(f"expected distinct weight paths in {description.application}, found duplicates")
    trainable = [variable.path for variable in network.trainable_variables]
    state = [variable.path for variable in network.non_trainable_variables]

    def call(weights: Mapping[str, Any], images: Any, training: bool) -> tuple[Any, list[Any]]:
        values = [weights[path] for path in trainable], [weights[path] for path in state]
        return network.stateless_call(*values, images, training=training)

    def apply(weights: Mapping[str, Any], images: Any) -> Any:
        return call(weights, images, training=False)[0]

    def make_input(generator: np.random.Generator, batch: int = description.batch) -> Args:
        images = draw_images(generator, batch, description.height, description.width)
        return (np.asarray(preprocess(images), np.float32),)

    drawn = {path: draw_weight(path, tuple(v.shape), v.dtype, rng) for path, v in variables.items()}
    if any(path.endswith("/moving_mean") for path in state):
        statistics = _batch_statistics(call, drawn, make_input(rng, _STATISTICS_BATCH)[0])
        drawn.update(zip(state, statistics, strict=True))
    return _case(name, apply, make_input, drawn)


def _build_keras(keras: Any, description: _KerasModel) -> Any:
    """The untrained network, its variables left uninitialised, its training pass made deterministic."""
    options: dict[str, Any] = {} if description.alpha is None else {"alpha": description.alpha}
    keras.utils.clear_session()  # else automatic names, which are the weights' paths, depend on what was built before
    # Keras' own initial values are never used; computing them would compile a random generator per shape (10 s).
    with keras.StatelessScope(initialize_variables=False):
        network = getattr(keras.applications, description.application)(
            weights=None,
            classifier_activation=None,
            input_shape=(description.height, description.width, 3),
            **options,
        )
    keras.utils.clear_session()  # else the first call initialises the variables after all, inside its own trace
    for layer in network.layers:
        if hasattr(layer, "momentum"):
            layer.momentum = 0.0
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    return network


def _batch_statistics(call: Callable[..., Any], weights: Mapping[str, Any], images: np.ndarray) -> list[np.ndarray]:
    """State of the network after one training pass; with momentum 0 its norms hold this batch's statistics."""
    import jax

    def state(weights: Mapping[str, Any], images: Any) -> list[Any]:
        return call(weights, images, training=True)[1]

    return [np.asarray(value) for value in jax.jit(state)(weights, images)]


def _load_encoder(name: str, description: _Encoder, rng: np.random.Generator) -> ModelCase:
    import jax
    from flax import traverse_util

    network = _encoder_module(description)
    shape = (description.batch, description.sequence, description.features)
    variables = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32))
    paths: dict[str, Any] = traverse_util.flatten_dict(variables["params"], sep="/")
    drawn = {path: draw_weight(path, value.shape, str(value.dtype), rng) for path, value in paths.items()}

    def apply(weights: Mapping[str, Any], tokens: Any) -> Any:
        return network.apply({"params": traverse_util.unflatten_dict(dict(weights), sep="/")}, tokens)

    def make_input(generator: np.random.Generator) -> Args:
        return (generator.standard_normal(shape, dtype=np.float32),)

    return _case(name, apply, make_input, drawn)


def load_decoder(name: str, description: Decoder, rng: np.random.Generator) -> ModelCase:
    """A decoder with drawn weights; its cache holds as many tokens as its place for the next one says."""
    shapes = description.weight_shapes()
    drawn = {path: draw_weight(path, shape, "float32", rng) for path, shape in shapes.items()}

    def make_input(generator: np.random.Generator) -> Args:
        x = generator.standard_normal((1, description.features), dtype=np.float32)
        position = np.asarray(generator.integers(description.cached // 2, description.cached), np.int32)
        shape = description.cache_shape()
        cache = [generator.standard_normal(shape, dtype=np.float32) for _ in range(2 * description.layers)]
        return x, position, *cache

    return _case(name, description.step, make_input, drawn)


def _encoder_module(description: _Encoder) -> Any:
    from flax import linen

    class Layer(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            y = linen.LayerNorm(name="attention_norm")(x)
            x = x + linen.MultiHeadDotProductAttention(num_heads=description.heads, name="attention")(y)
            y = linen.LayerNorm(name="mlp_norm")(x)
            y = linen.gelu(linen.Dense(description.hidden, name="mlp_in")(y))
            return x + linen.Dense(description.features, name="mlp_out")(y)

    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            for index in range(description.layers):
                x = Layer(name=f"layer_{index}")(x)
            return linen.LayerNorm(name="norm")(x)

    return Encoder()


def _case(
    name: str,
    apply: Callable[..., Any],
    make_input: Callable[[np.random.Generator], Args],
    drawn: Mapping[str, np.ndarray],
) -> ModelCase:
    import jax

    weights = {path: jax.device_put(value) for path, value in drawn.items()}

    def fn(*args: Any) -> Any:
        return apply(weights, *args)

    return ModelCase(name, fn, make_input, apply, weights)


def main(names: Sequence[str]) -> int:
    """Check the named models (all, if none is named); 1 if one of them is not informative."""
    import jax

    failed = False
    for name in names or model_names():
        case = load_model(name)
        found = informativeness(jax.jit(case.apply), case.weights, case.make_input, np.random.default_rng(1))
        weakest = min(found.block_changes.values())
        print(
            f"{name}: another input {found.input_change:.2g}, {len(found.block_changes)} blocks {weakest:.2g} or more"
        )
        for failure in found.failures():
            failed = True
            print(f"  does not move the output: {failure}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
