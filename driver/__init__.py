"""The steps between the public API and the parts: what `compile` does for one function and one set of shapes.

`pipeline.py` is the list of steps. `planning.py` cuts a graph into tasks and puts native calls together, `kernels.py`
builds kernels, `references.py` and `verification.py` check them, `tuning.py` searches, `gate.py` compares the whole
with `jax.jit`, `verdicts.py` remembers, `report.py` and `lowered.py` explain.
"""
