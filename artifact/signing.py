"""A secret key per user, and what is signed with it: a file that this user saved is trusted by this user alone."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

import platformdirs

_LOG = logging.getLogger(__name__)
_KEY_BYTES = 32


def key_path() -> Path:
    """Where the key is kept: a file in the user's data folder that only the user may read."""
    return platformdirs.user_data_path("tilewright") / "signing.key"


def sign(data: bytes) -> str:
    """The user's signature, 64 hexadecimal digits; empty, with a warning, where no key can be kept."""
    try:
        key = _key() or _new_key()
    except OSError as error:
        _LOG.warning("files are saved without a signature: %s", error)
        return ""
    return _mac(key, data)


def refusal(data: bytes, signature: str) -> str:
    """Why a signature is not this user's; empty if it is."""
    if not signature:
        return "the file is not signed"
    try:
        key = _key()
    except OSError as error:
        return str(error)
    if key is None or not hmac.compare_digest(_mac(key, data).encode(), signature.encode()):
        return "the file was not signed with this user's key"
    return ""


def _mac(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """The key, if there is one.

    Raises:
        OSError: there is one that can't be used.
    """
    path = key_path()
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            key = file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"others may read or write the signing key {path}: run `chmod 600 {path}`")
    if len(key) != _KEY_BYTES:
        raise OSError(f"expected {_KEY_BYTES} bytes in the signing key {path}, found another number: remove it")
    return key


def _new_key() -> bytes:
    """Make the key; if another process was faster, its key."""
    path = key_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    key = _key()
    if key is None:
        raise OSError(f"the signing key {path} can't be kept")
    return key
