"""Benchmarks: models, paired comparisons with jax.jit, and the limits of parts."""
