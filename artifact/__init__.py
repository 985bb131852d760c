"""Compiled functions as files: written by `Compiled.save`, read by `tilewright.load`.

A file is a zip of a manifest and members that it lists (`manifest.py`, `archive.py`). `writer.py` makes one,
`reader.py` reads one and decides whether its object code may run (`signing.py`, `environment.py`); if not, `rebuild.py`
makes the kernels anew. `program.py` is what both have in common, `loaded.py` the callable.
"""
