"""`python -m tilewright.cli` is `tilewright`."""

from __future__ import annotations

from .entry import main

main()
