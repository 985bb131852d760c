"""The zip around a saved function: written at once or not at all; read with every field of the container checked.

Members are stored, not compressed: weights hardly shrink, and what a file unpacks to is never larger than the file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from .errors import ArtifactError
from .manifest import Manifest, Member, parse_manifest

MANIFEST = "manifest.json"
SIGNATURE = "signature"
MAX_MEMBERS = 50_000
MAX_MANIFEST_BYTES = 64 << 20
_SIGNATURE_BYTES = 64
_TIME = (1980, 1, 1, 0, 0, 0)
_LOCAL_HEADER = 30
# What `zipfile` raises on damaged input, beside `BadZipFile`.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    MemoryError,
    struct.error,
)


def describe_members(members: Mapping[str, bytes]) -> dict[str, Member]:
    """What a manifest says about members."""
    return {name: Member(size=len(data), sha256=_sha256(data)) for name, data in sorted(members.items())}


def write_archive(path: Path, manifest: bytes, signature: str, members: Mapping[str, bytes]) -> None:
    """Write a file, replacing one of the same name only when all of it is on disk.

    Args:
        path: where to.
        manifest: contents of `manifest.json`.
        signature: of the manifest; empty to write none.
        members: everything that the manifest lists.

    Raises:
        ArtifactError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    contents = {MANIFEST: manifest, **({SIGNATURE: signature.encode()} if signature else {}), **members}
    try:
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, data in contents.items():
                    archive.writestr(zipfile.ZipInfo(name, _TIME), data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


class Archive:
    """A file that was read: a valid manifest and members with the digests that it states.

    Attributes:
        manifest: what the file says about itself.
        manifest_bytes: what a signature signs.
        signature: as the file has it; empty if there is none.
    """

    def __init__(self, manifest: Manifest, manifest_bytes: bytes, signature: str, members: Mapping[str, bytes]) -> None:
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self.signature = signature
        self._members = members

    def __getitem__(self, name: str) -> bytes:
        """The contents of a member."""
        return self._members[name]

    def text(self, name: str) -> str:
        """A member that is text.

        Raises:
            ArtifactError: it is not.
        """
        try:
            return self[name].decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{name} is not text ({error.reason}); save the function again") from None


def read_archive(path: Path) -> Archive:
    """Read and check a file; nothing in it is interpreted but the manifest.

    Raises:
        ArtifactError: there is no such file, it is no saved function, or it is damaged.
    """
    if path.exists() and not path.is_file():
        raise ArtifactError(f"expected a file, found a {'folder' if path.is_dir() else 'device or pipe'}")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _read(archive, path.stat().st_size)
    except FileNotFoundError:
        raise ArtifactError("there is no such file") from None
    except PermissionError as error:
        raise ArtifactError(f"it can't be read: {error.strerror}") from None
    except ArtifactError:
        raise
    except _ZIP_ERRORS as error:
        raise ArtifactError(
            f"expected a zip that Compiled.save wrote, found something else or a damaged one "
            f"({one_line(error)}); copy it again, or save the function again"
        ) from None


def _read(archive: zipfile.ZipFile, file_bytes: int) -> Archive:
    infos = _checked_infos(archive, file_bytes)
    if MANIFEST not in infos:
        raise ArtifactError(f"expected a file that Compiled.save wrote, found a zip without {MANIFEST}")
    if infos[MANIFEST].file_size > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"expected {MANIFEST} to have at most {MAX_MANIFEST_BYTES} bytes, found more")
    manifest_bytes = archive.read(infos.pop(MANIFEST))
    manifest = parse_manifest(manifest_bytes)
    signature = _signature(archive, infos.pop(SIGNATURE, None))
    if difference := sorted(infos.keys() ^ manifest.members.keys()):
        raise ArtifactError(
            f"expected exactly the members that the manifest lists, found a difference in {one_line(difference[0])!r} "
            f"({len(difference)} in all): the file was changed; copy it again, or save the function again"
        )
    members = {name: _member(archive, infos[name], expected) for name, expected in manifest.members.items()}
    return Archive(manifest, manifest_bytes, signature, members)


def _checked_infos(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The zip's directory by name, if it is one that `write_archive` could have written."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ArtifactError(f"expected at most {MAX_MEMBERS} members, found {len(infos)}")
    end = 0
    for info in sorted(infos, key=lambda entry: entry.header_offset):
        _check_info(info)
        if info.header_offset < end or info.header_offset + _LOCAL_HEADER + info.file_size > file_bytes:
            raise ArtifactError(f"member {one_line(info.filename)!r} lies outside the file or inside another member")
        end = info.header_offset + _LOCAL_HEADER + info.file_size
    found = {info.filename: info for info in infos}
    if len(found) != len(infos):
        raise ArtifactError("expected every member once, found two of the same name")
    return found


def _check_info(info: zipfile.ZipInfo) -> None:
    name = one_line(info.filename)
    if info.orig_filename != info.filename:
        raise ArtifactError(f"member {name!r} has a name that hides another one")
    if info.flag_bits & 0x1:
        raise ArtifactError(f"member {name!r} is encrypted; expected a file that Compiled.save wrote")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ArtifactError(f"member {name!r} is compressed; expected stored members, as Compiled.save writes them")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ArtifactError(f"member {name!r} is a link or a folder; expected plain files")


def _signature(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> str:
    if info is None:
        return ""
    if info.file_size != _SIGNATURE_BYTES:
        raise ArtifactError(f"expected a signature of {_SIGNATURE_BYTES} characters, found {info.file_size}")
    return archive.read(info).decode("ascii", "replace")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, expected: Member) -> bytes:
    if info.file_size != expected.size:
        raise ArtifactError(
            f"{info.filename}: expected {expected.size} bytes, found {info.file_size}; "
            "the file is damaged: copy it again, or save the function again"
        )
    data = archive.read(info)
    if len(data) != expected.size or _sha256(data) != expected.sha256:
        raise ArtifactError(
            f"{info.filename}: its contents have another digest than the manifest says; "
            "the file is damaged: copy it again, or save the function again"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def one_line(what: object) -> str:
    """A message that may quote a file, short and printable."""
    text = str(what) or type(what).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
