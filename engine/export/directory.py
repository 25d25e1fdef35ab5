"""A directory that appears whole or not at all: written beside its target, renamed when everything in it is checked."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from engine.core.errors import EngineError

_MARK = ".exporting-"


@contextlib.contextmanager
def staged(target: str | os.PathLike[str], needed_bytes: int = 0) -> Iterator[Path]:
    """A temporary neighbour of `target` that takes its place when the block ends well, and vanishes if it does not.

    A process that is killed leaves at most a hidden neighbour, which the next export to the same target removes.

    Args:
        target: must not exist, unless as an empty directory.
        needed_bytes: refuse at once if the disk has less room.

    Raises:
        EngineError: the target exists, the disk is full or not writable; nothing was left behind.
    """
    path = Path(target).absolute()
    check_target(path, needed_bytes)
    temporary = path.with_name(f".{path.name}{_MARK}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        temporary.mkdir()
        yield temporary
        _flush(temporary)
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except (OSError, SafetensorError) as failure:  # the libraries' own files fail the second way
        raise EngineError(f"Cannot write {path}: {getattr(failure, 'strerror', None) or failure}; nothing was left "
                          f"behind.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(path: Path, needed_bytes: int = 0) -> None:
    """Refuse a target that exists, or a disk without room.

    Raises:
        EngineError: one sentence.
    """
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise EngineError(f"{path} exists already; name a new directory, or remove that one first.")
        parent = next(p for p in path.parents if p.exists())
        free = shutil.disk_usage(parent).free
    except OSError as failure:
        raise EngineError(f"Cannot write {path}: {failure.strerror or failure}; nothing was changed.") from None
    if free < needed_bytes:
        raise EngineError(f"The export takes {needed_bytes / 1e6:,.1f} MB, but {parent} has {free / 1e6:,.1f} MB free; "
                          f"free space there, or choose another disk.")


def _remove_stale(path: Path) -> None:
    """Remove what killed exports to this target left; those of living processes stay."""
    for left in path.parent.glob(f".{path.name}{_MARK}*"):
        number = left.name.rpartition("-")[2]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False  # an earlier process had our number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _flush(directory: Path) -> None:
    """Have the disk hold every file before the rename makes it look finished."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
