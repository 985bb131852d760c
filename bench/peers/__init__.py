"""Other compilers and runtimes on the same rows, each in a process of its own that does not run JAX."""
