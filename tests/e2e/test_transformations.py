"""Every JAX transformation of a compiled function gives what it gives for `jax.jit` of the same function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tilewright

W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@jax.custom_vjp
def clipped_gradient(x: jax.Array) -> jax.Array:
    return jnp.sin(x) * x


clipped_gradient.defvjp(lambda x: (clipped_gradient(x), x), lambda x, ct: (jnp.clip(ct * x, -0.1, 0.1),))


@jax.custom_jvp
def own_tangent(x: jax.Array) -> jax.Array:
    return jnp.exp(x)


own_tangent.defjvp(lambda primals, tangents: (jnp.exp(primals[0]), 2.0 * tangents[0]))


def dense(x: jax.Array) -> jax.Array:
    return jax.nn.softmax(jnp.tanh(x @ W), axis=-1).sum() + jax.nn.relu6(x).mean()


def norms(x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return jnp.sum(centred * lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-3) * jnp.arange(4.0))


def control(x: jax.Array) -> jax.Array:
    def body(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        carry = lax.cond(carry.sum() > 0, jnp.sin, jnp.cos, carry + row)
        return carry, carry[0]

    total, firsts = lax.scan(body, jnp.zeros_like(x[0]), jnp.stack([x[0], x[-1]]))
    return total.sum() + firsts.sum()


def own_rules(x: jax.Array) -> jax.Array:
    return clipped_gradient(x).sum() * 0.5 + own_tangent(x * 0.1).mean()


def indexing(x: jax.Array) -> jax.Array:
    y = x.at[0].add(x[-1]).at[..., 1].set(0.5)
    return jnp.sum(jnp.sort(y, -1)[..., ::-1] * jnp.cumsum(y, -1)) + y[jnp.array([0, 1]), jnp.array([2, 3])].sum()


FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    f.__name__: f for f in (dense, norms, control, own_rules, indexing)
}
NOT_TWICE_FORWARD = {"own_rules"}  # custom_vjp has no forward mode


def forward_grad(f: Any, x: Any) -> Any:
    return jax.jvp(f, (x,), (jnp.ones_like(x) * 0.3,))


TRANSFORMATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "call": lambda f, x: f(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "jvp": forward_grad,
    "grad": lambda f, x: jax.grad(f)(x),
    "value_and_grad": lambda f, x: jax.value_and_grad(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(jnp.stack([x, x * 2, -x])),
    "vmap_of_grad": lambda f, x: jax.vmap(jax.grad(f))(jnp.stack([x, x * 2])),
    "grad_of_vmap": lambda f, x: jax.grad(lambda xs: jax.vmap(f)(xs).sum())(jnp.stack([x, -x])),
    "vmap_axis_1": lambda f, x: jax.vmap(f, in_axes=1)(jnp.stack([x, x + 1], axis=1)),
    "hessian": lambda f, x: jax.hessian(f)(x),
    "jacfwd": lambda f, x: jax.jacfwd(f)(x),
    "jacrev": lambda f, x: jax.jacrev(f)(x),
    "grad_of_grad": lambda f, x: jax.grad(lambda y: jax.grad(f)(y).sum())(x),
    "linearize": lambda f, x: jax.linearize(f, x)[1](x),
    "vjp": lambda f, x: jax.vjp(f, x)[1](jnp.float32(2)),
    "checkpoint": lambda f, x: jax.grad(jax.checkpoint(f))(x),
    "checkpoint_with_policy": lambda f, x: jax.grad(jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable))(x),
    "grad_under_jit": lambda f, x: jax.jit(jax.grad(f))(x),
    "scan_body": lambda f, x: lax.scan(lambda c, _: (c * 0.5 + f(c), f(c)), x, None, length=3),
    "grad_of_scan_body": lambda f, x: jax.grad(lambda y: lax.scan(lambda c, _: (c + f(c), None), y, None, 2)[0].sum())(
        x
    ),
    "while_body": lambda f, x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + f(c[1])), (0, x)),
    "cond_branch": lambda f, x: lax.cond(x[0, 0] > 0, f, lambda y: -f(y), x),
    "map": lambda f, x: lax.map(f, jnp.stack([x, -x])),
    "pmap_of_one": lambda f, x: jax.pmap(f)(x[None]),
    "disable_jit": lambda f, x: _without_jit(f, x),
    "compile_time_eval": lambda f, x: _compile_time(f, x),
}
FORWARD = {"jvp", "hessian", "jacfwd", "linearize"}


def _without_jit(f: Any, x: Any) -> Any:
    with jax.disable_jit():
        return f(x)


def _compile_time(f: Any, x: Any) -> Any:
    @jax.jit
    def outer(y: Any) -> Any:
        with jax.ensure_compile_time_eval():
            z = f(x)
        return y + z

    return outer(1.0)


def close(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(a) == jax.typeof(b)
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=2e-6)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each transformation with two of the functions, all of them with `--full`."""
    if "transformation" not in metafunc.fixturenames:
        return
    names = list(FUNCTIONS)
    pairs = []
    for number, transformation in enumerate(TRANSFORMATIONS):
        chosen = names if metafunc.config.getoption("--full") else [names[(number + i) % len(names)] for i in (0, 2)]
        pairs += [(name, transformation) for name in chosen]
    metafunc.parametrize(("name", "transformation"), pairs)


@pytest.mark.usefixtures("passes_only")
def test_transformation_matches_jit(name: str, transformation: str, rng: np.random.Generator) -> None:
    f, apply = FUNCTIONS[name], TRANSFORMATIONS[transformation]
    x = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    if name in NOT_TWICE_FORWARD and transformation in FORWARD:
        with pytest.raises(TypeError, match="custom_vjp"):
            apply(tilewright.compile(f), x)
        return
    close(apply(tilewright.compile(f), x), apply(jax.jit(f), x))


def test_linear_transpose() -> None:
    def linear(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x @ W, (y * 3.0).T

    arguments = (jnp.ones((2, 4)), jnp.ones((2, 3)))
    cotangents = (jnp.full((2, 3), 2.0), jnp.ones((3, 2)))
    actual = jax.linear_transpose(tilewright.compile(linear), *arguments)(cotangents)
    close(actual, jax.linear_transpose(jax.jit(linear), *arguments)(cotangents))


def test_linear_transpose_with_known_operand() -> None:
    compiled = tilewright.compile(lambda scale, x: jnp.sin(scale) * x)
    scale = jnp.arange(3.0)
    (actual,) = jax.linear_transpose(lambda x: compiled(scale, x), jnp.ones(3))(jnp.ones(3))
    close(actual, jnp.sin(scale))


def test_argnums_and_integer_arguments() -> None:
    def f(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
        return (x[index] * y).sum()

    arguments = (jnp.arange(5.0), jnp.array([1, 3]), jnp.array([2.0, 4.0]))
    close(jax.grad(tilewright.compile(f), argnums=(0, 2))(*arguments), jax.grad(f, argnums=(0, 2))(*arguments))
    close(
        jax.grad(tilewright.compile(f), argnums=1, allow_int=True)(*arguments),
        jax.grad(f, argnums=1, allow_int=True)(*arguments),
    )


def test_collective_under_vmap_with_axis_name() -> None:
    def f(x: jax.Array) -> jax.Array:
        return x - lax.pmean(x, "i") + lax.axis_index("i")

    xs = jnp.arange(12.0).reshape(4, 3)
    close(jax.vmap(tilewright.compile(f), axis_name="i")(xs), jax.vmap(f, axis_name="i")(xs))


def test_vmap_with_unmapped_and_nested_axes() -> None:
    def f(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.dot(x, y) + y.sum()

    x, y = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(12.0).reshape(3, 4)

    def both(g: Any) -> Any:
        return jax.vmap(jax.vmap(g, in_axes=(0, None)), in_axes=(1, 0), out_axes=1)(x, y)

    close(both(tilewright.compile(f)), both(f))


def test_eval_shape_make_jaxpr_and_weak_types() -> None:
    def f(x: Any, y: Any) -> dict[str, Any]:
        return {"sum": x + y, "twice": (x * 2, None), "passed": y}

    compiled = tilewright.compile(f)
    for arguments in ((1.0, 2.0), (jnp.float32(1), 2), (np.ones(3, np.int8), 1), (jnp.ones((2, 0)), 1.5), (True, 2)):
        assert jax.eval_shape(compiled, *arguments) == jax.eval_shape(f, *arguments)
        actual, expected = jax.make_jaxpr(compiled)(*arguments), jax.make_jaxpr(f)(*arguments)
        assert actual.out_avals == expected.out_avals
        close(compiled(*arguments), jax.jit(f)(*arguments))


def test_x64() -> None:
    def f(x: jax.Array) -> jax.Array:
        return jnp.cumsum(x * np.pi) / jnp.float32(3)

    with jax.enable_x64(True):
        x = jnp.linspace(0, 1, 7)
        actual = tilewright.compile(f)(x)
        assert actual.dtype == jnp.float64
        np.testing.assert_array_equal(actual, jax.jit(f)(x))
    compiled = tilewright.compile(f)
    assert compiled(jnp.ones(7)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert compiled(jnp.ones(7, jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
def test_random_keys(make: Callable[[int], jax.Array]) -> None:
    constant_key = make(3)

    def f(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = jax.random.split(key)
        noise = jax.random.normal(first, x.shape) + jax.random.uniform(constant_key, x.shape)
        return x + noise * jax.random.bernoulli(second, 0.5, x.shape), jax.random.fold_in(key, 7)

    key, x = make(0), jnp.ones((3, 5))
    actual, expected = tilewright.compile(f)(key, x), jax.jit(f)(key, x)
    assert jax.typeof(actual[1]) == jax.typeof(expected[1])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    keys = jax.random.split(key, 4)
    xs = jnp.ones((4, 3, 5))
    np.testing.assert_allclose(
        jax.vmap(tilewright.compile(f))(keys, xs)[0], jax.vmap(jax.jit(f))(keys, xs)[0], rtol=1e-6
    )


def test_export_holds_plain_jax() -> None:
    def f(x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ W)

    x = jnp.ones((5, 4))
    exported = jax.export.export(jax.jit(tilewright.compile(f)), platforms=("cpu", "tpu"))(x)
    assert "custom_call" not in exported.mlir_module()
    close(exported.call(x), jax.jit(f)(x))


def test_export_with_symbolic_shape() -> None:
    (rows,) = jax.export.symbolic_shape("rows")
    exported = jax.export.export(jax.jit(tilewright.compile(lambda x: jnp.tanh(x @ W))))(
        jax.ShapeDtypeStruct((rows, 4), jnp.float32)
    )
    close(exported.call(jnp.ones((6, 4))), jnp.tanh(jnp.ones((6, 4)) @ W))


def test_donation() -> None:
    compiled = tilewright.compile(lambda x, y: (x * 2 + y, y.sum()), donate_argnums=0)
    x, y = jnp.ones((128, 128)), jnp.ones((128, 128))
    expected = np.asarray(x) * 2 + 1
    result, _ = compiled(x, y)
    np.testing.assert_array_equal(result, expected)
    assert x.is_deleted() and not y.is_deleted()


def test_closed_over_tracers() -> None:
    def outer(make: Callable[..., Any], x: jax.Array, y: jax.Array) -> jax.Array:
        inner = make(lambda v: jnp.sin(v * x) @ W + y)
        return inner(x).sum() + inner(y[:, :1] * jnp.ones(4)).sum()

    x, y = jnp.arange(8.0).reshape(2, 4), jnp.ones((2, 3))
    for transform in (jax.grad, lambda f: jax.jit(jax.grad(f)), jax.hessian, lambda f: lambda x, y: f(x, y)):
        actual = transform(partial(outer, tilewright.compile))(x, y)
        close(actual, transform(partial(outer, jax.jit))(x, y))


def test_nested_compiled_functions() -> None:
    inner = tilewright.compile(dense)
    outer = tilewright.compile(lambda x: inner(x) + jax.grad(inner)(x).sum())
    x = jnp.arange(12.0).reshape(3, 4)
    close(outer(x), jax.jit(lambda x: dense(x) + jax.grad(dense)(x).sum())(x))


def test_unused_outputs_and_inputs() -> None:
    compiled = tilewright.compile(lambda x, unused, y: (x * 2, jnp.sin(y), x + y))
    run = jax.jit(lambda x, u, y: compiled(x, u, y)[0])
    np.testing.assert_array_equal(run(jnp.arange(3.0), jnp.ones(5), jnp.ones(3)), [0, 2, 4])
    np.testing.assert_array_equal(compiled(jnp.arange(3.0), None, jnp.zeros(3))[2], [0, 1, 2])
    close(jax.grad(lambda x: compiled(x, 1, x)[1].sum())(jnp.ones(3)), jnp.cos(jnp.ones(3)))
