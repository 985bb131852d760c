"""The steps between the public API and the parts: what `compile` does for one function and one set of shapes.

`pipeline.py` is the list of steps. `planning.py` cuts a graph into tasks and puts native calls together, `kernels.py`
builds kernels, `references.py` and `verification.py` check them, `tuning.py` searches, `last_check.py` has the whole
compared with `jax.jit` (`gate.py`), `verdicts.py` remembers, `report.py` and `lowered.py` explain.
"""
