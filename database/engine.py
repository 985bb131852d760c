"""Opening the storage: tables, versions, and telling one's own file from a foreign or damaged one."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    exc,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool

_SQLITE_MAGIC = b"SQLite format 3\x00"
_BUSY_S = 60.0
_DIALECTS = ("sqlite", "postgresql")
_GARBLED = "malformed text"

metadata = MetaData()
meta_table = Table("tilewright_meta", metadata, Column("key", String, primary_key=True), Column("value", String))
# Texts are kept once, under a digest that is computed here: what a record claims is not believed.
workload_table = Table(
    "workloads", metadata, Column("digest", String, primary_key=True), Column("text", Text, nullable=False)
)
# The body is the record; the other columns repeat what look-ups need.
record_table = Table(
    "records",
    metadata,
    Column("id", String, primary_key=True),
    Column("text_digest", String, ForeignKey("workloads.digest"), nullable=False),
    Column("workload_digest", String, nullable=False),
    Column("target", String, nullable=False),
    Column("backend", String, nullable=False),
    Column("schedule_version", Integer, nullable=False),
    Column("threads", Integer, nullable=False),
    Column("allocator", String, nullable=False),
    Column("status", String, nullable=False),
    Column("trace_digest", String, nullable=False),
    Column("median_s", Float),
    Column("created_at", String, nullable=False),
    Column("body", Text, nullable=False),
    Index("records_by_key", "workload_digest", "target", "backend", "schedule_version"),
)
plan_table = Table(
    "plans",
    metadata,
    Column("id", String, primary_key=True),
    Column("graph_digest", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("body", Text, nullable=False),
    Index("plans_by_key", "graph_digest", "environment"),
)


class DatabaseError(RuntimeError):
    """The database can't be opened or used; the message says what was found and what to do."""


def default_database_path() -> Path:
    """Where tuning results are kept unless told otherwise: a file in the user's cache directory."""
    return platformdirs.user_cache_path("tilewright") / "tuning.db"


def open_engine(path_or_url: str | os.PathLike[str] | None) -> Engine:
    """Open or create a database and bring it to this version.

    Args:
        path_or_url: path of an SQLite file, an SQLAlchemy URL, ``":memory:"``, or None for `default_database_path`.

    Raises:
        DatabaseError: the file is foreign, damaged or of a newer version, or can't be reached. It is left as it is.
    """
    url = _url(path_or_url)
    if url.get_backend_name() not in _DIALECTS:
        raise DatabaseError(f"expected a database of {', '.join(_DIALECTS)}, found {url.get_backend_name()!r}")
    name = describe(url)
    if url.get_backend_name() == "sqlite":
        check_file(url.database)
    with translated(name):
        engine = _create(url)
        try:
            _upgrade(engine, name)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextlib.contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: all of it is kept, or nothing."""
    with engine.execution_options(writes=True).begin() as connection:
        yield connection


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn the storage's errors into ones that say what to do.

    Args:
        name: what to call the database.
    """
    try:
        yield
    except (exc.DatabaseError, exc.InterfaceError, exc.TimeoutError) as error:
        raise DatabaseError(f"{name}: {_reason(error)}") from error
    except UnicodeDecodeError as error:  # in SQLite's own message about a damaged description of the tables
        raise DatabaseError(f"{name}: {_reason_text(_GARBLED)}") from error


def describe(url: URL) -> str:
    """What messages call a database; passwords are left out."""
    if url.get_backend_name() == "sqlite":
        return f"tuning database {url.database or ':memory:'}"
    return f"tuning database {url.render_as_string(hide_password=True)}"


def _reason(error: exc.SQLAlchemyError) -> str:
    return _reason_text(str(getattr(error, "orig", None) or error))


def _reason_text(message: str) -> str:
    text = " ".join(message.split())[:300]  # it may quote the file
    if "malformed" in text or "not a database" in text:
        return (
            f"the file is damaged ({text}). Nothing was deleted; move it away, restore a copy, "
            "or save what is left with `sqlite3 FILE .recover`"
        )
    if "locked" in text:
        return f"another process kept it locked for {_BUSY_S:g} s ({text}); try again, or end that process"
    if "readonly" in text or "read-only" in text:
        return f"it can't be written ({text}); check the permissions of the file and its folder, or use another path"
    if "unable to open" in text:
        return f"it can't be opened ({text}); check that its folder exists and may be written"
    return text


def _url(path_or_url: str | os.PathLike[str] | None) -> URL:
    if path_or_url is None:
        path = default_database_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"{path} can't be created: {error.strerror}; name another database, or set XDG_CACHE_HOME to a folder "
                "that can be written"
            ) from error
        return URL.create("sqlite", database=str(path))
    text = os.fspath(path_or_url)
    if "://" in text:
        try:
            return make_url(text)
        except exc.ArgumentError as error:
            raise DatabaseError(f"expected a path or a database URL, found {text!r}: {error}") from error
    return URL.create("sqlite", database=text)


def check_file(name: str | None) -> None:
    """Refuse what can be seen not to be ours before the storage touches it; a file may also be missing.

    Raises:
        DatabaseError: what was found instead, and what to do.
    """
    if name in (None, "", ":memory:"):
        return
    path = Path(name)
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; expected the path of a file, for example {path / 'tuning.db'}")
    if not path.parent.is_dir():
        raise DatabaseError(f"{path} can't be created: there is no folder {path.parent}; create it first")
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DatabaseError(f"{path} can't be read: {error.strerror}") from error
    if start and start != _SQLITE_MAGIC:
        raise DatabaseError(
            f"{path} is not a tuning database: it starts with {start!r}. It was left as it is; "
            "choose another path (JSON lines can be imported into a database)"
        )
    if start:
        _check_tables(path)


def _check_tables(path: Path) -> None:
    """Refuse another program's SQLite file before connecting to it for good, which would change its journal mode."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    except sqlite3.OperationalError:
        return  # busy, or no right to create a log beside it: the real connection will tell
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"tuning database {path}: {_reason_text(str(error))}") from error
    except UnicodeDecodeError as error:
        raise DatabaseError(f"tuning database {path}: {_reason_text(_GARBLED)}") from error
    if tables and meta_table.name not in tables:
        shown = ", ".join(sorted(tables)[:5])
        raise DatabaseError(
            f"{path} belongs to another program (it has the tables {shown}). It was left as it is; choose another path"
        )


def _create(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        try:
            return create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise DatabaseError(f"{describe(url)} needs the package {error.name}: pip install {error.name}") from error
    in_memory = url.database in (None, "", ":memory:")
    # In memory, the one connection is the database: threads take turns.
    size = {"pool_size": 1, "max_overflow": 0} if in_memory else {}
    engine = create_engine(
        url, poolclass=QueuePool, connect_args={"timeout": _BUSY_S, "check_same_thread": False}, **size
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "checkout", _refuse_other_process)
    return engine


def _configure(connection: sqlite3.Connection, record: Any) -> None:
    """Set up a new SQLite connection: readers and a writer at once, and transactions begun by us."""
    connection.isolation_level = None
    connection.text_factory = _text
    record.info["pid"] = os.getpid()
    connection.execute("PRAGMA foreign_keys = ON")
    # A process that dies loses nothing committed; only a power cut can take the last commits (never the file).
    connection.execute("PRAGMA synchronous = NORMAL")
    _retry_busy(lambda: connection.execute("PRAGMA journal_mode = WAL").close())


def _text(data: bytes) -> str:
    """Text that was damaged must not make the rows beside it unreadable; a record finds out by its digest."""
    return data.decode(errors="replace")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later may be refused at once when another one wrote in between;
    # a writer therefore takes its turn at the beginning, where waiting works.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _refuse_other_process(connection: Any, record: Any, proxy: Any) -> None:
    """A connection must not be used by a forked child: let the pool make a new one."""
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = proxy.dbapi_connection = None
        raise exc.DisconnectionError("this connection belongs to another process")


def _retry_busy(action: Callable[[], None]) -> None:
    """Switching the journal mode does not wait for other processes by itself."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# ---- versions


def _create_tables(connection: Connection) -> None:
    metadata.create_all(connection)


#: What leads from version *n* (the position) to *n + 1*; never change an entry that was released.
MIGRATIONS: list[Callable[[Connection], None]] = [_create_tables]


def _upgrade(engine: Engine, name: str) -> None:
    with engine.connect() as connection:
        version = _version(connection, name)
    if version == len(MIGRATIONS):
        return
    with write(engine) as connection:
        for migrate in MIGRATIONS[_version(connection, name) :]:  # read again: another process may have been faster
            migrate(connection)
        connection.execute(meta_table.delete().where(meta_table.c.key == "version"))
        connection.execute(meta_table.insert().values(key="version", value=str(len(MIGRATIONS))))


def _version(connection: Connection, name: str) -> int:
    """Version of the tables; 0 for an empty database."""
    tables = inspect(connection).get_table_names()
    if meta_table.name in tables:
        value = connection.execute(select(meta_table.c.value).where(meta_table.c.key == "version")).scalar()
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,9}", value):
            raise DatabaseError(
                f"{name} is damaged: expected a version number, found {str(value)[:40]!r}. It was left as it is"
            )
        if int(value) > len(MIGRATIONS):
            raise DatabaseError(
                f"{name} has version {value}, written by a newer release; this one knows versions up to "
                f"{len(MIGRATIONS)}. It was left as it is; upgrade tilewright, or use another path"
            )
        return int(value)
    return 0
