"""Programs of other systems as graphs: `jaxpr.py` reads a closed jaxpr, `primitives.py` knows the primitives."""
