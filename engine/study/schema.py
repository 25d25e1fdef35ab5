"""The study file's tables, and opening it: whatever is wrong with the file is said in one sentence.

Constraints: one SQLite file; one writer at a time (a lock file beside it, given back by the system when the process
dies, however it dies); readers may look on; a kill at any moment leaves whole trials only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from engine.core.errors import StudyError

APPLICATION = 0x51534354  # "QSCT", so that other programs' databases are told apart
VERSION = 1
WAIT_S = 5.0

TABLES = """
CREATE TABLE study (
  protocol TEXT NOT NULL, hash TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE environment (
  id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, content TEXT NOT NULL
);
CREATE TABLE trial (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
  preset TEXT NOT NULL, seed INTEGER NOT NULL, number INTEGER NOT NULL, granularity TEXT NOT NULL,
  recipe TEXT NOT NULL, bits REAL NOT NULL, bytes INTEGER NOT NULL,
  environment INTEGER NOT NULL REFERENCES environment(id),
  state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
  started REAL, duration_s REAL, generating_s REAL
);
CREATE INDEX trial_by_number ON trial (preset, seed, number);
CREATE TABLE metric (
  trial INTEGER NOT NULL REFERENCES trial(id), name TEXT NOT NULL,
  value REAL NOT NULL, n INTEGER NOT NULL, unit TEXT NOT NULL, higher_is_better INTEGER NOT NULL,
  per_image BLOB,
  PRIMARY KEY (trial, name)
) WITHOUT ROWID;
CREATE TABLE predictor (
  id INTEGER PRIMARY KEY, created REAL NOT NULL, name TEXT NOT NULL,
  settings TEXT NOT NULL, figures TEXT NOT NULL, weights BLOB
);
"""


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """SQLite's errors as one sentence each.

    Raises:
        StudyError: the file is in use, damaged, not a database, not writable, or the disk is full.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StudyError(_sentence(path, str(error))) from None


def damaged(path: Path, what: str) -> StudyError:
    """The error for a file whose pages are whole but whose contents cannot be: one sentence."""
    return StudyError(f"{path.name} is damaged ({what}); restore a copy, or start again under another name.")


def _sentence(path: Path, text: str) -> str:
    low = text.lower()
    if "locked" in low or "busy" in low:
        return f"{path.name} is being used by another process; let it finish, or use another file."
    if "not a database" in low:
        return f"{path.name} is no SQLite file; give a study file, or a new name to start one."
    if "malformed" in low or "disk image" in low:
        return f"{path.name} is damaged or cut short ({text}); restore a copy, or start again under another name."
    if "full" in low:
        return f"The disk of {path} is full; the trials finished so far are kept. Make room and start again."
    if "readonly" in low or "unable to open" in low:
        return f"{path} cannot be opened for writing; check the folder and its permissions."
    return f"{path.name} cannot be used as a study file ({text})."


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A read-only connection to an existing study file.

    Raises:
        StudyError: no such file, no study, another version, damaged.
    """
    if not path.is_file():
        raise StudyError(f"There is no study file at {path}; `study MODEL --db {path.name}` starts one.")
    with reported(path):
        connection = _connect(path, "mode=ro")
        if not check(connection, path):
            connection.close()
            raise StudyError(f"{path.name} is empty; it holds no study.")
    return connection


def open_for_writing(path: Path) -> tuple[sqlite3.Connection, bool]:
    """A connection for the one writer, and whether the file is new (then without tables); hold a `writer_lock` first.

    Raises:
        StudyError: as `open_for_reading`; or the folder is missing or not writable.
    """
    if not path.parent.is_dir():
        raise StudyError(f"There is no folder {path.parent}; make it, or put the study elsewhere.")
    with reported(path):
        connection = _connect(path, "mode=rwc")
        try:
            known = check(connection, path)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        except (sqlite3.DatabaseError, StudyError):
            connection.close()
            raise
    return connection, not known


def create_tables(connection: sqlite3.Connection) -> None:
    """All tables, inside the caller's transaction."""
    for statement in TABLES.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION}")
    connection.execute(f"PRAGMA user_version={VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing.

    Raises:
        StudyError: the disk is full, the file in use or damaged; nothing of the transaction is kept.
    """
    with reported(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def writer_lock(path: Path, wait_s: float = 0.1) -> Iterator[None]:
    """Be the only writer of a file (a study, a store) while inside; waits `wait_s` for another to end.

    A second, empty SQLite file is held locked: that works on every platform, and ends with the process.

    Raises:
        StudyError: another process is writing.
    """
    if not path.parent.is_dir():
        raise StudyError(f"There is no folder {path.parent}; make it, or put the study elsewhere.")
    beside, end = path.with_name(path.name + ".lock"), time.monotonic() + wait_s
    holder = None
    while holder is None:
        try:
            holder = _held(beside, max(0.0, end - time.monotonic()))
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StudyError(f"{path.name} is being written by another process; let it finish or stop it."
                                 ) from None
            if "disk I/O" not in str(error) or time.monotonic() > end:  # so SQLite calls a file removed meanwhile
                raise StudyError(_sentence(path, str(error))) from None
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)
        holder.close()


def _held(beside: Path, wait_s: float) -> sqlite3.Connection | None:
    """The lock's file held by this process; None if who held it before removed it meanwhile, so that it is nobody's."""
    with contextlib.suppress(OSError):  # it lies there, or SQLite says why it cannot
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR))
    before = _file(beside)
    holder = sqlite3.connect(beside, timeout=wait_s, isolation_level=None, check_same_thread=False)
    try:
        holder.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        holder.close()
        raise
    if before is not None and _file(beside) == before:
        return holder
    holder.close()
    return None


def _file(path: Path) -> tuple[int, int] | None:
    """Which file lies there, None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns


def check(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a study of this version (False: it is empty).

    Raises:
        StudyError: another program's file, another version, or damaged pages.
    """
    if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
        return False
    application, version = (connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and application == 0:
        return False
    if application != APPLICATION:
        raise StudyError(f"{path.name} is a database of another program; give a study file, or a new name.")
    if version != VERSION:
        raise StudyError(f"{path.name} is a study of version {version}; this program reads version {VERSION}.")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StudyError(f"{path.name} is damaged or cut short ({str(verdict)[:80]}); restore a copy, or start again "
                         f"under another name.")
    return True


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=WAIT_S, isolation_level=None,
                                 check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection
