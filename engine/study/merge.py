"""Shards of one study into one file; safe to repeat, since a trial is known by its key."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.core.errors import StudyError
from engine.study.protocol import Environment, Protocol, environment_difference
from engine.study.schema import transaction
from engine.study.storage import Study, open_study, read_study, refuse_other
from engine.study.trial import State


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: trials taken over, trials the target had already, and what it holds now."""

    added: int
    known: int
    trials: int


def merge(target: str | Path, sources: Sequence[str | Path], *, mixed: bool = False) -> Merged:
    """Take every trial of the sources that the target lacks (or has not finished) over into it; made if missing.

    Raises:
        StudyError: a source is of another model, other images or, unless `mixed`, another environment; nothing of
            any source is taken then.
    """
    if not sources:
        raise StudyError("Name the files to merge: study merge TARGET SHARD [SHARD ...].")
    if Path(target).resolve() in [Path(s).resolve() for s in sources]:
        raise StudyError(f"{Path(target).name} is both target and source; name each file once.")
    with read_study(sources[0]) as first:
        protocol = first.protocol
    _refuse_mixtures([*([target] if Path(target).exists() else []), *sources], protocol, mixed=mixed)
    with open_study(target, protocol) as study:
        added = known = 0
        for path in sources:
            with read_study(path) as source:
                new, old = _take_over(study, source)
            added, known = added + new, known + old
        return Merged(added, known, sum(study.counts().values()))


def _refuse_mixtures(paths: Sequence[str | Path], protocol: Protocol, *, mixed: bool) -> None:
    seen: list[tuple[str, Environment]] = []
    for path in paths:
        with read_study(path) as source:
            refuse_other(source, protocol)
            for environment in source.environments().values():
                for name, other in seen:
                    if not mixed and other.hash != environment.hash:
                        raise StudyError(f"{source.path.name} and {name} were measured in different environments "
                                         f"({environment_difference(environment, other)}); use --mixed to merge them "
                                         f"all the same.")
                seen.append((source.path.name, environment))


COLUMNS = ("key", "preset", "seed", "number", "granularity", "recipe", "bits", "bytes", "environment", "state",
           "attempts", "error", "started", "duration_s", "generating_s")


def _take_over(study: Study, source: Study) -> tuple[int, int]:
    """Copy trials with their metrics in one transaction. Returns how many were new, and how many known."""
    admitted = {number: study.admit(e, mixed=True) for number, e in source.environments().items()}
    source.trials(None)  # raises before anything is written where the source is damaged
    # By key and by draw: in another environment the same draw has another key.
    held: dict[object, tuple[int, str]] = {}
    for row in study.connection.execute("SELECT id, key, state, preset, seed, number FROM trial "
                                        "ORDER BY state = 'done'"):
        held |= dict.fromkeys(_names(row), (row["id"], row["state"]))
    added = known = 0
    with transaction(study.connection, study.path):
        for row in source.connection.execute("SELECT * FROM trial ORDER BY preset, seed, number, id"):
            mine = {held[name] for name in _names(row) if name in held}
            if mine and (row["state"] != State.DONE or any(state == State.DONE for _, state in mine)):
                known += 1
                continue
            for number, _ in mine:
                _delete(study, number)
            held |= dict.fromkeys(_names(row), (_copy(study, source, row, admitted[row["environment"]]), row["state"]))
            added += 1
    return added, known


def _names(row: sqlite3.Row) -> tuple[object, ...]:
    """What a trial is known by: its key, and its draw."""
    return row["key"], (row["preset"], row["seed"], row["number"])


def _copy(study: Study, source: Study, row: sqlite3.Row, environment: int) -> int:
    """Copy one trial and its metrics; its id here."""
    source.metrics(row["id"])  # raises where they are damaged
    values = {column: row[column] for column in COLUMNS} | {"environment": environment}
    if values["state"] == State.RUNNING:
        values["state"] = State.WAITING.value
    cursor = study.connection.execute(
        f"INSERT INTO trial ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", list(values.values()))
    new = int(cursor.lastrowid or 0)
    metrics = source.connection.execute("SELECT name, value, n, unit, higher_is_better, per_image FROM metric "
                                        "WHERE trial = ?", [row["id"]]).fetchall()
    study.connection.executemany(
        "INSERT INTO metric (trial, name, value, n, unit, higher_is_better, per_image) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(new, *metric) for metric in metrics])
    return new


def _delete(study: Study, trial: int) -> None:
    study.connection.execute("DELETE FROM metric WHERE trial = ?", [trial])
    study.connection.execute("DELETE FROM trial WHERE id = ?", [trial])
