"""The child's end of the conversation: reads requests from standard input, answers on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .messages import REQUEST, AnyRequest, Missing, Reply

_MAX_REASON = 500


def serve(answer: Callable[[AnyRequest], Reply]) -> None:
    """Answer requests until there are no more; an exception becomes the reply `failed`.

    Args:
        answer: Does what a request asks for.
    """
    # Whatever libraries print must not mix with the replies.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            try:
                reply = answer(REQUEST.validate_json(line))
            except Exception as error:
                reply = Missing(status="failed", reason=f"{type(error).__name__}: {error}"[:_MAX_REASON])
            replies.write(reply.model_dump_json() + "\n")
            replies.flush()
