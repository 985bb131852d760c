"""The `tilewright` command: one module per command, put together in `entry.py`.

Modules of commands import nothing heavy at their top: `tilewright --help` must not wait for JAX.
"""

from __future__ import annotations

from .entry import app as app
from .entry import main as main
