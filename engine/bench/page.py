"""Figures of a bench as a section of a Markdown page: written by the command that measured them, never by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from engine.core.errors import InputError
from engine.core.files import write_atomic

HEAD = "## "


def keep(path: str | os.PathLike[str], title: str, command: str, machine: str, result: dict[str, Any]) -> Path:
    """Put the figures of one run under `## title`, in place of what stood there; other sections stay as they are.

    Args:
        path: the page; begun if there is none.
        title: of the section.
        command: what was run.
        machine: cores, load and versions, in words.
        result: figures by name; lists of records become tables.

    Raises:
        InputError: the page is no Markdown file.
        EngineError: it cannot be written.
    """
    place = Path(path)
    if place.suffix != ".md":
        raise InputError(f"{place} is no Markdown page; name a file that ends in .md.")
    text = place.read_text() if place.exists() else f"# {place.stem.replace('-', ' ').capitalize()}\n"
    write_atomic(place, replaced(text, title, section(command, machine, result)))
    return place


def replaced(text: str, title: str, body: str) -> str:
    """A page with the section of that title exchanged, or added at its end."""
    lines = text.rstrip().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(HEAD)]
    own = next((i for i in starts if lines[i] == f"{HEAD}{title}"), None)
    new = [f"{HEAD}{title}", "", *body.rstrip().splitlines()]
    if own is None:
        return "\n".join([*lines, "", *new]) + "\n"
    end = next((i for i in starts if i > own), len(lines))
    rest = lines[end:]
    return "\n".join([*lines[:own], *new, *(["", *rest] if rest else [])]) + "\n"


def section(command: str, machine: str, result: dict[str, Any]) -> str:
    """The body of a section: how it was measured, the figures, the tables."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    figures = {k: v for k, v in result.items() if not _is_table(v)}
    parts = [f"`{command}`, {when}; {machine}", _table(["figure", "value"], [[k, v] for k, v in figures.items()])]
    for name, rows in result.items():
        if _is_table(rows):
            parts += [f"{name}:", _table(list(rows[0]), [list(row.values()) for row in rows])]
    return "\n\n".join(parts)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    cells = [[_plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[_plain(h) for h in head], ["---"] * len(head), *cells])


def _plain(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e5 else \
        f"{value:,.0f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
