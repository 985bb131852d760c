"""Benchmark networks: informative, deterministic, free of hidden randomness; and the float64 reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.bench import weights
from tilewright.bench.models import ModelCase, load_model, model_names
from tilewright.bench.reference import Accuracy, compare, reference


@pytest.fixture(scope="module")
def mobilenet() -> ModelCase:
    return load_model("mobilenetv3small")


@pytest.fixture(scope="module")
def encoder() -> ModelCase:
    return load_model("encoder")


@pytest.mark.parametrize("name", ["mobilenet", "encoder"])
def test_input_and_every_block_move_the_output(name: str, request: pytest.FixtureRequest) -> None:
    case: ModelCase = request.getfixturevalue(name)
    found = weights.informativeness(jax.jit(case.apply), case.weights, case.make_input, np.random.default_rng(1))
    assert found.failures() == []
    assert len(found.block_changes) == {"mobilenet": 11, "encoder": 6}[name]


def test_traced_network_holds_no_random_generator(mobilenet: ModelCase) -> None:
    program = str(jax.make_jaxpr(mobilenet.fn)(*mobilenet.make_input(np.random.default_rng(0))))
    assert "conv_general_dilated" in program
    assert "random" not in program


def test_network_takes_and_gives_float32(mobilenet: ModelCase) -> None:
    (images,) = mobilenet.make_input(np.random.default_rng(0))
    assert images.shape == (1, 224, 224, 3) and images.dtype == np.float32
    assert 0 <= images.min() and 100 < images.max() <= 255  # this network rescales pixels itself
    output = jax.eval_shape(mobilenet.fn, images)
    assert output.shape == (1, 1000) and output.dtype == np.float32


def test_batch_norms_hold_statistics_of_a_batch(mobilenet: ModelCase) -> None:
    means = {path: value for path, value in mobilenet.weights.items() if path.endswith("moving_mean")}
    variances = {path: value for path, value in mobilenet.weights.items() if path.endswith("moving_variance")}
    assert len(means) == len(variances) == 34
    assert all(np.abs(value).max() > 0 for value in means.values())
    assert all((np.asarray(value) != 1).all() and (np.asarray(value) >= 0).all() for value in variances.values())


def test_weights_depend_on_the_seed_alone(encoder: ModelCase) -> None:
    again, other = load_model("encoder"), load_model("encoder", seed=1)
    assert list(again.weights) == list(encoder.weights)
    for path, value in encoder.weights.items():
        assert np.array_equal(value, again.weights[path])
        assert not np.array_equal(value, other.weights[path])


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of mobilenetv2.*found 'resnet51'"):
        load_model("resnet51")
    assert len(model_names()) == len(set(model_names())) >= 10


def test_dead_block_and_dead_input_are_found() -> None:
    parameters = {"block_1/kernel": np.ones(3, np.float32), "block_2/kernel": np.ones(3, np.float32)}

    def apply(values: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        return 1.0 + values["block_1/kernel"] + 1e-6 * values["block_2/kernel"] + 1e-6 * x

    found = weights.informativeness(apply, parameters, lambda rng: (rng.random(3),), np.random.default_rng(0))
    assert [text.split(" (")[0] for text in found.failures()] == ["another input", "block_2"]


def test_a_block_that_makes_nan_is_found() -> None:
    found = weights.Informativeness(1.0, {"block_1": float("nan")})
    assert found.failures() == ["block_1 (nan)"]


@pytest.mark.parametrize(
    ("path", "low", "high"),
    [("bn/gamma", 0.5, 1.5), ("stage_0_block_1_layer_scale/variable_3", 0.1, 1.0), ("norm/scale", 0.5, 1.5)],
)
def test_scales_stay_away_from_zero(path: str, low: float, high: float) -> None:
    values = weights.draw_weight(path, (1000,), "float32", np.random.default_rng(0))
    assert low <= values.min() < low + 0.05 and high - 0.05 < values.max() <= high and values.dtype == np.float32


@pytest.mark.parametrize(
    ("path", "shape", "fan_in"),
    [
        ("conv/kernel", (3, 3, 64, 128), 576),
        ("depthwise/kernel", (3, 3, 512, 1), 9),
        ("attention/query/kernel", (512, 8, 64), 512),
        ("attention/out/kernel", (8, 64, 512), 512),
        ("dense/kernel", (256, 512), 256),
        ("block2_sepconv1/depthwise_kernel", (3, 3, 512, 1), 9),
        ("block2_sepconv1/pointwise_kernel", (1, 1, 64, 128), 64),
    ],
)
def test_kernels_keep_the_variance(path: str, shape: tuple[int, ...], fan_in: int) -> None:
    values = weights.draw_weight(path, shape, "float32", np.random.default_rng(0))
    assert np.std(values.astype(np.float64)) == pytest.approx(fan_in**-0.5, rel=0.05)


def test_weight_of_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="known kind of weight, found 'block_1/theta'"):
        weights.draw_weight("block_1/theta", (3,), "float32", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("Conv1/kernel", None),
        ("block_12_expand_BN/gamma", "block_12"),
        ("conv2_block1_1_conv/kernel", "conv2_block1"),
        ("conv2_block11_1_conv/kernel", "conv2_block11"),
        ("block2a_se_reduce/bias", "block2a"),
        ("expanded_conv_project/kernel", "expanded_conv"),
        ("expanded_conv_10_project/kernel", "expanded_conv_10"),
        ("convnext_tiny_stage_2_block_8_pointwise_conv_1/bias", "convnext_tiny_stage_2_block_8"),
        ("layer_3/attention/query/kernel", "layer_3"),
        ("conv_dw_12/kernel", "conv_dw_12"),
        ("block13_sepconv2/pointwise_kernel", "block13"),
        ("predictions/kernel", None),
    ],
)
def test_weights_are_assigned_to_blocks(path: str, block: str | None) -> None:
    assert weights.block_of(path) == block


def test_layers_are_blocks_where_none_is_named() -> None:
    paths = ["conv2d/kernel", "conv2d/bias", "conv2d_1/kernel"]
    found = weights.blocks(dict.fromkeys(paths))
    assert found == {"conv2d": ("conv2d/kernel", "conv2d/bias"), "conv2d_1": ("conv2d_1/kernel",)}
    assert weights.blocks(dict.fromkeys([*paths, "block_1/kernel"])) == {"block_1": ("block_1/kernel",)}


def test_images_fill_the_range_and_differ() -> None:
    rng = np.random.default_rng(0)
    first, second = weights.draw_images(rng, 2, 30, 17), weights.draw_images(rng, 2, 30, 17)
    assert first.shape == (2, 30, 17, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 255 and first.std() > 20
    assert np.abs(first.mean((1, 2)) - second.mean((1, 2))).max() > 5  # the difference survives pooling


def test_reference_computes_in_float64() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 40)).astype(np.float32), rng.standard_normal((40, 5)).astype(np.float32)

    def fn(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jax.nn.relu(x @ w) * np.float32(0.1) + jnp.ones((), jnp.float32) / 3  # an inner jit, a custom derivative
        return y.astype(jnp.float32), jnp.argmax(y, axis=1)

    exact, index = reference(fn, (x,))
    expected = np.maximum(x.astype(np.float64) @ w.astype(np.float64), 0) * np.float64(np.float32(0.1)) + 1 / 3
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, expected, rtol=1e-14)
    np.testing.assert_array_equal(index, expected.argmax(1))
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32


def test_reference_of_a_network_agrees_to_float32_rounding(encoder: ModelCase) -> None:
    args = encoder.make_input(np.random.default_rng(3))
    output = jax.jit(encoder.fn)(*args)
    (accuracy,) = compare(output, output, reference(encoder.fn, args))
    assert 0 < accuracy.baseline < 1e-4 * accuracy.scale
    assert accuracy.holds


def test_reference_refuses_programs_that_it_has_no_form_for() -> None:
    def summed(x: jax.Array) -> jax.Array:
        return jax.lax.reduce(x, np.float32(0), lambda a, b: a + b + a * b, (0,))

    with pytest.raises(NotImplementedError, match="loops and branches at most, found 'reduce'"):
        reference(summed, (np.zeros(2, np.float32),))


@pytest.mark.parametrize(
    ("error", "holds"), [(0.0, True), (2.0 + 16 * 8, True), (2.1 + 16 * 8, False), (float("nan"), False)]
)
def test_accuracy_contract(error: float, holds: bool) -> None:
    assert Accuracy(candidate=error, baseline=1.0, scale=4.0, epsilon=2.0).holds is holds


def test_integers_must_be_equal() -> None:
    truth = np.array([1, 2])
    baseline = jnp.array([1, 2])
    assert compare(jnp.array([1, 2]), baseline, [truth])[0].holds
    assert not compare(jnp.array([1, 3]), baseline, [truth])[0].holds


def test_outputs_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected float32\(2,\), found float32\(1, 2\)"):
        compare(jnp.ones((1, 2)), jnp.ones(2), [np.ones(2)])
    with pytest.raises(ValueError, match="expected outputs"):
        compare([jnp.ones(2)], jnp.ones(2), [np.ones(2)])
