"""What the suites measure: workloads with shapes, counts and inputs, and the plain JAX functions they run."""
