"""A notation that keeps hand-written LLVM IR readable: named constants and named struct fields.

``$NAME`` stands for a constant, and ``Struct.field(%pointer)`` for the address of a field, so that a field access is
one line instead of an address computation by a bare offset::

    %n = load i64, ptr Plan.stages(%plan)

becomes::

    %at0 = getelementptr i8, ptr %plan, i64 24
    %n = load i64, ptr %at0
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from string import Template

_FIELD = re.compile(r"\b([A-Za-z]\w*(?:\.\w+)+)\((%[\w.]+)\)")


def expand(text: str, constants: Mapping[str, int], offsets: Mapping[str, int]) -> str:
    """Turn the notation into LLVM IR.

    Args:
        text: IR in the notation above.
        constants: values of the ``$NAME``s.
        offsets: byte offset of each ``Struct.field``.

    Returns:
        LLVM IR text.

    Raises:
        KeyError: a constant or a field has no value.
    """
    numbers = itertools.count()
    lines: list[str] = []
    for line in Template(text).substitute(constants).splitlines():
        code, semicolon, comment = line.partition(";")
        for field, pointer in _FIELD.findall(code):
            address = f"%at{next(numbers)}"
            lines.append(f"  {address} = getelementptr i8, ptr {pointer}, i64 {offsets[field]}")
            code = code.replace(f"{field}({pointer})", address, 1)
        lines.append(code + semicolon + comment)
    return "\n".join(lines) + "\n"


def field_offsets(struct: str, fields: tuple[str, ...]) -> dict[str, int]:
    """Offsets of a struct made of 64-bit fields only.

    Args:
        struct: name of the struct.
        fields: names of its fields in order.

    Returns:
        ``Struct.field`` to byte offset.
    """
    return {f"{struct}.{field}": 8 * number for number, field in enumerate(fields)}
