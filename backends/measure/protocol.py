"""Frames between the parent and the worker: a JSON header followed by raw bytes.

    "TWMF"  u32 header length  u64 payload length  header (UTF-8 JSON object)  payload

The worker sends events without payload. A dying worker sends a crash note instead, written by a signal handler that
can do no better than copy a few bytes:

    "TWCR"  i32 signal number  u64 faulting address
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from io import BufferedReader
from typing import Any

FRAME_MAGIC = b"TWMF"
CRASH_MAGIC = b"TWCR"
FRAME_PREFIX = struct.Struct("<4sIQ")
CRASH_NOTE = struct.Struct("<4siQ")
MAX_HEADER = 16 << 20

assert FRAME_PREFIX.size == CRASH_NOTE.size  # a reader takes this many bytes before it knows which one comes


class ProtocolError(Exception):
    """The other side sent something that is no frame."""


def encode(header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """The frame up to its payload.

    Args:
        header: JSON object.
        payload_bytes: length of what the sender will write next.
    """
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER:
        raise ProtocolError(f"a header of {len(text)} bytes is longer than {MAX_HEADER}")
    return FRAME_PREFIX.pack(FRAME_MAGIC, len(text), payload_bytes) + text


def decode_header(text: bytes) -> dict[str, Any]:
    """The JSON object of a header.

    Raises:
        ProtocolError: it is none.
    """
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"expected a JSON header, found {text[:40]!r}") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"expected a JSON object as header, found {text[:40]!r}")
    return header


def parse_prefix(prefix: bytes) -> tuple[int, int]:
    """Lengths of header and payload.

    Raises:
        ProtocolError: the bytes don't start a frame.
    """
    magic, header_bytes, payload_bytes = FRAME_PREFIX.unpack(prefix)
    if magic != FRAME_MAGIC or header_bytes > MAX_HEADER:
        raise ProtocolError(f"expected a frame, found {prefix!r}")
    return header_bytes, payload_bytes


def read_frame(stream: BufferedReader) -> tuple[dict[str, Any], int] | None:
    """Read a frame up to its payload from a blocking stream (the worker's side).

    Returns:
        Header and length of the payload that follows; None at the end of the stream.

    Raises:
        ProtocolError: the bytes are no frame, or the stream ends within one.
    """
    prefix = stream.read(FRAME_PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < FRAME_PREFIX.size:
        raise ProtocolError(f"the stream ends after {len(prefix)} bytes of a frame")
    header_bytes, payload_bytes = parse_prefix(prefix)
    text = stream.read(header_bytes)
    if len(text) < header_bytes:
        raise ProtocolError("the stream ends within a header")
    return decode_header(text), payload_bytes


def read_into(stream: BufferedReader, target: memoryview) -> None:
    """Fill ``target`` from a blocking stream.

    Raises:
        ProtocolError: the stream ends before.
    """
    done = 0
    while done < len(target):
        count = stream.readinto(target[done:])
        if not count:
            raise ProtocolError(f"the stream ends {len(target) - done} bytes before the end of a payload")
        done += count


def skip(stream: BufferedReader, count: int) -> None:
    """Read and drop ``count`` bytes."""
    while count > 0:
        dropped = stream.read(min(count, 1 << 20))
        if not dropped:
            raise ProtocolError("the stream ends within a payload")
        count -= len(dropped)


def payload_size(parts: Iterable[memoryview]) -> int:
    """Total length in bytes."""
    return sum(part.nbytes for part in parts)
