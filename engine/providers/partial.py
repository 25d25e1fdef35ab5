"""Measurements kept as they come: a JSON-lines file that a killed run continues from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.core.errors import StudyError

MAX_BYTES = 256_000_000


class Partial:
    """An append-only file: first line what determines the numbers, then one record a line."""

    def __init__(self, path: Path | None, head: Mapping[str, Any]) -> None:
        """Open or begin the file; None keeps records in memory only.

        Raises:
            StudyError: the file was begun with another model or other settings, or cannot be written.
        """
        self._path = path
        self.records: list[dict[str, Any]] = []
        if path is None:
            return
        lines = list(_lines(path))
        head = json.loads(json.dumps(head))
        if lines and lines[0] != head:
            different = sorted(k for k in {**lines[0], **head} if lines[0].get(k) != head.get(k))
            raise StudyError(f"{path.name} was begun with other settings ({', '.join(different)[:200]}); continue with "
                             f"those, or name another file.")
        self.records = lines[1:]
        # Written anew without a half-written last line, so that what follows begins on a line of its own.
        self._write("".join(json.dumps(line) + "\n" for line in (lines or [head])), "w")

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep one record; it is on disk when this returns.

        Raises:
            StudyError: the disk is full.
        """
        self.records.append(dict(record))
        self._write(json.dumps(record, allow_nan=False) + "\n", "a")

    def _write(self, text: str, mode: str) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if mode == "w":
                temporary = self._path.with_name(f".{self._path.name}.tmp")
                temporary.write_text(text)
                temporary.replace(self._path)
                return
            with self._path.open(mode) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as failure:
            raise StudyError(f"Cannot write {self._path} ({failure.strerror or failure}); what was measured before is "
                             f"kept, run it again to go on.") from None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of the file; a last one that is none (a kill cut it short) is left out.

    Raises:
        StudyError: it is something else than a file of measurements, which must not be written over, or damaged.
    """
    if not path.is_file():
        return
    if path.stat().st_size > MAX_BYTES:
        raise StudyError(f"{path.name} is too large to be a file of measurements.")
    lines = path.read_text(errors="replace").split("\n")
    if lines[:-1] == [] and lines[0]:
        raise StudyError(f"{path.name} is no file of measurements; name another file.")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            if number == len(lines) - 1 > 1:
                return
            raise StudyError(f"{path.name} is no file of measurements; name another file." if number == 1 else
                             f"Line {number} of {path.name} is damaged; remove that line to go on with the others, or "
                             f"name another file.")
        yield record
