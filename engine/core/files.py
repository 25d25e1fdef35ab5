"""Reading strangers' JSON safely and writing files so that a crash or a full disk leaves the old one whole."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from engine.core.errors import EngineError

MAX_JSON_BYTES = 8_000_000


def typed_path(text: str, error: type[EngineError]) -> Path:
    """A path that somebody typed, `~` taken for a home; whether there is anything is for the caller to ask.

    Raises:
        EngineError: of the given kind; nothing on this machine can lie there, or it may not be looked at.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as failure:
        why = getattr(failure, "strerror", None) or str(failure)
        raise error(f"{text[:60]!r} cannot be a path on this machine ({why.rstrip('.')}).") from None
    return path


def read_json(path: str | os.PathLike[str], error: type[EngineError], max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The JSON value in a file.

    Raises:
        error: the file is missing, larger than `max_bytes`, or no JSON; one sentence.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"{path.name} is {size / 1e6:.1f} MB; files of this kind are at most {max_bytes / 1e6:.0f} MB.")
        return parse_json(path.read_bytes(), path.name, error)
    except OSError as failure:
        raise error(f"Cannot read {path}: {failure.strerror or failure}.") from None


def parse_json(data: bytes | str, name: str, error: type[EngineError]) -> Any:
    """Decode JSON, refusing NaN, duplicate keys and nesting that exhausts the stack."""
    try:
        return json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as failure:
        raise error(f"{name} is not valid JSON ({str(failure)[:120] or 'nested too deeply'}).") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object names the same key twice")
    return result


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a whole file or nothing: a temporary neighbour is flushed to disk, then renamed over the target.

    Raises:
        EngineError: the disk is full or the place is not writable; the old file is untouched.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a rename would replace a device or fail on a directory
        raise EngineError(f"Cannot write {path}: it is no ordinary file; name another.")
    payload = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; results are ordinary files of the user.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as failure:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise EngineError(f"Cannot write {path}: {failure.strerror or failure}; nothing was changed.") from None


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`write_atomic` of readable, key-ordered-as-given JSON."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
