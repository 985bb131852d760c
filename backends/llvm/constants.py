"""Numbers as LLVM IR writes them."""

from __future__ import annotations

import struct

from ...ir.dtypes import FLOATS, SIGNED


def scalar_constant(value: float | int | bool, dtype: str) -> str:
    """LLVM's text of one constant, floats as their bits (those of bfloat16 as an integer).

    Args:
        value: The number; rounded to a float type, wrapped around to an integer type.
        dtype: NumPy name of the type.
    """
    if dtype == "bool":
        return "true" if value else "false"
    if dtype not in FLOATS:
        bits = int(dtype.lstrip("uint"))
        wrapped = int(value) & ((1 << bits) - 1)
        return str(wrapped - (1 << bits) if dtype in SIGNED and wrapped >> (bits - 1) else wrapped)
    number = float(value)
    if dtype == "float64":
        return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
    if dtype == "float16":
        return f"0xH{struct.unpack('<H', _packed('<e', number))[0]:04X}"
    rounded = struct.unpack("<f", _packed("<f", number))[0]
    if dtype == "float32":
        # LLVM writes a float as the double with the same value.
        return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
    return str(_bfloat16_bits(rounded))


def _packed(code: str, number: float) -> bytes:
    """``struct.pack`` that rounds what is too large to infinity, as IEEE conversion does."""
    try:
        return struct.pack(code, number)
    except OverflowError:
        return struct.pack(code, float("inf") if number > 0 else float("-inf"))


def _bfloat16_bits(number: float) -> int:
    """The bits of ``number`` (a float32) rounded to the nearest bfloat16, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", number))[0]
    if number != number:
        return (bits >> 16) | 0x40
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
