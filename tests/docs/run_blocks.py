"""Runs the code blocks of a page in order in one namespace, as a reader would who types them into one session.

On standard input: JSON of the page's name and of pairs of line number and code. The only argument names the file that
receives JSON of what each block printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the blocks; the first that raises ends the process with its traceback."""
    page, blocks = json.load(sys.stdin)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for line, code in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            # The empty lines make tracebacks name lines of the page.
            exec(compile("\n" * line + code, page, "exec"), namespace)
        printed.append(out.getvalue())
    Path(sys.argv[1]).write_text(json.dumps(printed))


if __name__ == "__main__":
    main()
