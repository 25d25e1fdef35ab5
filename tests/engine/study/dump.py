"""What two studies must have in common, whatever happened on the way."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

CHILD_PATH = os.pathsep.join(map(str, (Path(__file__).resolve().parent, Path(__file__).resolve().parents[3])))


def content(path: Path, *, ordered: bool = True) -> list[Any]:
    """Everything in a study but timestamps, durations and attempts; unordered for merged shards."""
    connection = sqlite3.connect(path)
    trials = connection.execute(
        "SELECT t.id, t.key, preset, seed, number, granularity, recipe, bits, bytes, e.content, state, error "
        "FROM trial t JOIN environment e ON e.id = t.environment ORDER BY key").fetchall()
    metrics = connection.execute(
        "SELECT t.key, m.name, value, n, unit, higher_is_better, per_image "
        "FROM metric m JOIN trial t ON t.id = m.trial ORDER BY t.key, m.name").fetchall()
    protocol = connection.execute("SELECT protocol, hash FROM study").fetchall()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return [trials if ordered else [row[1:] for row in trials], metrics, protocol]
