"""The C interface between XLA and a custom call, read from the header that jaxlib ships.

Struct layouts, enumerators and the interface's version come from the installed ``xla/ffi/api/c_api.h``, so that they
belong to the very XLA that will call. The header is plain C with structs of scalars and pointers; whatever else the
structs in use may come to contain is an error here, not a wrong offset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: The structs that a custom call touches.
STRUCTS = (
    "XLA_FFI_Api",
    "XLA_FFI_Buffer",
    "XLA_FFI_CallFrame",
    "XLA_FFI_Error_Create_Args",
    "XLA_FFI_Error_Destroy_Args",
    "XLA_FFI_InternalExtension",
    "XLA_FFI_Metadata",
    "XLA_FFI_Metadata_Extension",
    "XLA_FFI_ThreadPool_NumThreads_Args",
    "XLA_FFI_ThreadPool_Schedule_Args",
)

#: Names in headers of earlier jaxlibs (before 0.11), and what the same is called since.
RENAMED = {"XLA_FFI_Extension_Base": "XLA_FFI_InternalExtension"}

_POINTER = 8
_SCALARS = {
    "size_t": 8,
    "int64_t": 8,
    "uint64_t": 8,
    "int32_t": 4,
    "uint32_t": 4,
    "int": 4,
    "bool": 1,
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"\bstruct\s+(\w+)\s*\{([^{}]*)\}")
_ENUM = re.compile(r"\btypedef\s+enum\s*\w*\s*\{([^{}]*)\}\s*(\w+)\s*;")
_ALIAS = re.compile(r"\btypedef\s+(\w+)\s+(\w+)\s*;")
_LAST_FIELD = re.compile(r"\bXLA_FFI_DEFINE_STRUCT_TRAITS\(\s*(\w+)\s*,\s*(\w+)\s*\)\s*;")
_DEFINE = re.compile(r"^#define\s+(XLA_FFI_API_(?:MAJOR|MINOR))\s+(\d+)\s*$", re.MULTILINE)
_API_FUNCTION = re.compile(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)$")
_FUNCTION_POINTER = re.compile(r".*\(\s*\*\s*(\w+)\s*\)\s*\(.*\)$", re.DOTALL)
_FIELD = re.compile(r"(?:const\s+)?(?:struct\s+)?(\w+)\s*((?:\*\s*(?:const\s*)?)*)\s*(\w+)$")


class XlaAbiError(RuntimeError):
    """The header of the installed jaxlib can't be understood."""


@dataclass(frozen=True, slots=True)
class XlaAbi:
    """What a custom call must know of XLA's C interface.

    Args:
        offsets: byte offset of each field of `STRUCTS`, by ``Struct.field`` or ``Struct.field.field``.
        sizes: the size that XLA writes and expects in the ``struct_size`` of each of `STRUCTS`.
        enumerators: values by name.
        major: major version of the interface.
        minor: minor version of the interface.
    """

    offsets: dict[str, int]
    sizes: dict[str, int]
    enumerators: dict[str, int]
    major: int
    minor: int


def read_abi(include_dir: Path) -> XlaAbi:
    """Read the interface from a directory of headers.

    Args:
        include_dir: what ``jax.ffi.include_dir()`` returns.

    Returns:
        The interface.

    Raises:
        XlaAbiError: there is no such header, or it contains something unknown.
    """
    path = include_dir / "xla" / "ffi" / "api" / "c_api.h"
    try:
        text = path.read_text()
    except OSError as error:
        raise XlaAbiError(f"can't read jaxlib's header {path}: {error}") from error
    return parse_abi(text)


def parse_abi(text: str) -> XlaAbi:
    """Parse the text of ``c_api.h``; see `read_abi`."""
    for before, now in RENAMED.items():
        text = re.sub(rf"\b{before}\b", now, text)
    header = _Header(_COMMENT.sub(" ", text))
    missing = [name for name in STRUCTS if name not in header.structs]
    if missing:
        raise XlaAbiError(f"jaxlib's header does not define {', '.join(missing)}")
    offsets = {f"{name}.{field}": at for name in STRUCTS for field, at in header.flat_offsets(name).items()}
    sizes = {name: header.size_up_to(name, last) for name, last in _LAST_FIELD.findall(header.text) if name in STRUCTS}
    versions = {name: int(value) for name, value in _DEFINE.findall(header.text)}
    if set(versions) != {"XLA_FFI_API_MAJOR", "XLA_FFI_API_MINOR"}:
        raise XlaAbiError(f"expected XLA_FFI_API_MAJOR and XLA_FFI_API_MINOR in jaxlib's header, found {versions}")
    return XlaAbi(
        offsets=offsets,
        sizes=sizes,
        enumerators=header.enumerators,
        major=versions["XLA_FFI_API_MAJOR"],
        minor=versions["XLA_FFI_API_MINOR"],
    )


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: str  # "*" for any pointer


class _Header:
    """Declarations of the header, and the layout rules of the 64-bit C ABIs (natural alignment)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.structs = {name: _parse_fields(name, body) for name, body in _STRUCT.findall(text)}
        self.enums = {name for _, name in _ENUM.findall(text)}
        self.enumerators: dict[str, int] = {}
        for body, name in _ENUM.findall(text):
            self.enumerators.update(_parse_enumerators(name, body))
        self.aliases = {name: target for target, name in _ALIAS.findall(text) if target != "struct"}

    def flat_offsets(self, struct: str) -> dict[str, int]:
        """Offsets of a struct's fields, those of nested structs by dotted names."""
        offsets: dict[str, int] = {}
        for field, at in self._placed(struct):
            offsets[field.name] = at
            if field.type in self.structs:
                offsets.update({f"{field.name}.{k}": at + v for k, v in self.flat_offsets(field.type).items()})
        return offsets

    def size_up_to(self, struct: str, last: str) -> int:
        """XLA_FFI_STRUCT_SIZE: the end of field `last`."""
        for field, at in self._placed(struct):
            if field.name == last:
                return at + self._size(field.type)[0]
        raise XlaAbiError(f"struct {struct} of jaxlib's header has no field {last}")

    def _placed(self, struct: str) -> list[tuple[_Field, int]]:
        placed: list[tuple[_Field, int]] = []
        end = 0
        for field in self.structs[struct]:
            size, alignment = self._size(field.type)
            at = -(-end // alignment) * alignment
            placed.append((field, at))
            end = at + size
        return placed

    def _size(self, type_name: str) -> tuple[int, int]:
        """Size and alignment of a type."""
        if type_name == "*":
            return _POINTER, _POINTER
        if type_name in _SCALARS:
            return _SCALARS[type_name], _SCALARS[type_name]
        if type_name in self.enums:
            return 4, 4
        if type_name in self.structs:
            placed = self._placed(type_name)
            alignment = max(self._size(field.type)[1] for field, _ in placed)
            last, at = placed[-1]
            return -(-(at + self._size(last.type)[0]) // alignment) * alignment, alignment
        if type_name in self.aliases:
            return self._size(self.aliases[type_name])
        raise XlaAbiError(f"jaxlib's header uses a type of unknown size: {type_name}")


def _parse_fields(struct: str, body: str) -> list[_Field]:
    fields: list[_Field] = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        api_function = _API_FUNCTION.match(declaration)
        function = _FUNCTION_POINTER.match(declaration)
        plain = _FIELD.match(declaration)
        if api_function:
            fields.append(_Field(api_function[1], "*"))
        elif function:
            fields.append(_Field(function[1], "*"))
        elif plain:
            fields.append(_Field(plain[3], "*" if plain[2] else plain[1]))
        else:
            raise XlaAbiError(f"can't parse a field of struct {struct} in jaxlib's header: {declaration!r}")
    return fields


def _parse_enumerators(enum: str, body: str) -> dict[str, int]:
    values: dict[str, int] = {}
    following = 0
    for item in filter(None, (part.strip() for part in body.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        try:
            following = int(value, 0) if value else following
        except ValueError as error:
            raise XlaAbiError(f"can't parse enumerator {item!r} of {enum} in jaxlib's header") from error
        values[name] = following
        following += 1
    return values
