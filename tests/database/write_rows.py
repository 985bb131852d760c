"""Writes records, one transaction each, and prints each id once it is committed: PATH SEED COUNT."""

from __future__ import annotations

import sys

from database_rows import record

from tilewright.database.store import Database

if __name__ == "__main__":
    path, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with Database(path) as database:
        for number in range(count):
            one = record(number, 1e-3, seed=seed)
            database.add(one)
            print(one.id, flush=True)
