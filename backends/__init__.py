"""Code generation, measuring, and the way into JAX."""
