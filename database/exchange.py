"""Moving records between databases: merging files, and JSON lines that can be concatenated."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import batched as _batched  # type: ignore[attr-defined]
from pathlib import Path
from typing import TextIO

from .engine import DatabaseError
from .record import PlanRecord, TuningRecord
from .store import Database, reason
