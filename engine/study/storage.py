"""A study file as an object: plan, start, finish, read; every finished trial is one transaction, never rewritten."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.core.errors import OptionError, StudyError
from engine.core.files import parse_json
from engine.core.graph import Structure
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import FP16, parse_option
from engine.core.sizes import bits_per_weight, recipe_bytes
from engine.study.protocol import Environment, Protocol, environment_difference, protocol_difference, trial_key
from engine.study.sampling import Draw
from engine.study.schema import (
    create_tables,
    damaged,
    open_for_reading,
    open_for_writing,
    reported,
    transaction,
    writer_lock,
)
from engine.study.trial import Measured, Measurement, State, Trial

T = TypeVar("T")
# What a trial's columns hold: SQLite keeps whatever is put there, so a file from elsewhere is asked.
COLUMNS: dict[str, Any] = {
    "key": str, "preset": str, "seed": int, "number": int, "granularity": str, "recipe": str, "bits": int | float,
    "bytes": int, "environment": int, "attempts": int, "error": str, "duration_s": int | float | None,
    "generating_s": int | float | None,
}


class Study:
    """An open study file; use `read_study` or `open_study`. Every reading raises `StudyError` on damaged contents."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        rows = self._all("SELECT protocol FROM study")
        if not rows:
            raise damaged(path, "it does not say what it measured")
        self.protocol = self._record(Protocol, rows[0]["protocol"], "what it measured")
        for name in ("prompts", "labels"):
            if len(getattr(self.protocol, name)) not in (0, self.protocol.images):
                raise damaged(path, f"{len(getattr(self.protocol, name))} {name} for {self.protocol.images} images")

    # --- reading -------------------------------------------------------------------------------------------------

    def trials(self, state: State | None = State.DONE, preset: str = "") -> list[Trial]:
        """Trials in the order they were planned; `state=None` for all."""
        where, values = ["1"], []
        for column, value in (("state", state), ("preset", preset)):
            if value:
                where.append(f"{column} = ?")
                values.append(str(value))
        rows = self._all(f"SELECT * FROM trial WHERE {' AND '.join(where)} ORDER BY id", values)
        known = set(self.environments())
        for row in rows:
            if row["environment"] not in known:
                raise damaged(self.path, f"trial {row['id']} was measured in an environment that is not described")
        return [self._trial(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many trials are in each state."""
        found = {row[0]: row[1] for row in self._all("SELECT state, count(*) FROM trial GROUP BY state")}
        return {state: found.get(state.value, 0) for state in State}

    def metric_names(self) -> list[str]:
        """Names of all metrics that were measured."""
        return [row[0] for row in self._all("SELECT DISTINCT name FROM metric ORDER BY name")]

    def values(self, name: str) -> dict[int, float]:
        """Trial id -> value of one metric, done trials only."""
        rows = self._all("SELECT trial, value FROM metric WHERE name = ?", [name])
        return {row["trial"]: self._finite(row["value"], name, row["trial"]) for row in rows}

    def per_image(self, name: str) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Trial ids and the metric of every image of theirs, [T, M]; images in the order of the protocol's prompts.

        Raises:
            StudyError: the metric was not measured image by image.
        """
        rows = self._all("SELECT trial, per_image FROM metric JOIN trial ON trial.id = trial WHERE name = ? "
                         "AND per_image IS NOT NULL AND state = 'done' ORDER BY trial", [name])
        if not rows:
            raise StudyError(f"{self.path.name} holds no values of {name!r} per image; it has "
                             f"{', '.join(self.metric_names()) or 'no metrics yet'}.")
        table = np.stack([self._floats(row["per_image"], name, row["trial"]) for row in rows]).astype(np.float32)
        return [row["trial"] for row in rows], table

    def metrics(self, trial: int) -> dict[str, Measured]:
        """All metrics of one trial."""
        rows = self._all("SELECT * FROM metric WHERE trial = ? ORDER BY name", [trial])
        return {
            row["name"]: Measured(
                row["name"], self._finite(row["value"], row["name"], trial), row["n"], row["unit"],
                bool(row["higher_is_better"]),
                None if row["per_image"] is None else self._floats(row["per_image"], row["name"], trial))
            for row in rows
        }

    def environments(self) -> dict[int, Environment]:
        """All environments trials were measured in, by id."""
        return {row[0]: self._record(Environment, row[1], f"environment {row[0]}")
                for row in self._all("SELECT id, content FROM environment ORDER BY id")}

    # --- writing -------------------------------------------------------------------------------------------------

    def admit(self, environment: Environment, *, mixed: bool = False) -> int:
        """The id of an environment, entered if it is new.

        Raises:
            StudyError: trials of another environment are in the file and `mixed` was not asked for.
        """
        known = self.environments()
        for number, other in known.items():
            if other.hash == environment.hash:
                return number
        if known and not mixed:
            other = known[max(known)]
            raise StudyError(f"{self.path.name} was measured elsewhere ({environment_difference(environment, other)}), "
                             f"so numbers would differ in their last digits; use --mixed to continue it all the same.")
        with transaction(self.connection, self.path):
            cursor = self.connection.execute("INSERT INTO environment (hash, content) VALUES (?, ?)",
                                             [environment.hash, _text(to_json(environment))])
        return int(cursor.lastrowid or 0)

    def plan(self, draws: Sequence[Draw], structure: Structure, environment: int, *,
             retry_failed: bool = False) -> list[Trial]:
        """Enter the trials that are new, and return those of `draws` that are still to be measured, in order.

        A trial measured in any admitted environment is not measured again; failed ones are left unless asked for. A
        trial that is not done and was drawn otherwise is entered anew, so that recipe and key always agree.
        """
        measured_in = self.environments()[environment]
        todo = []
        with transaction(self.connection, self.path):
            self._release(draws)
            states = {(r["preset"], r["seed"], r["number"]): (r["id"], r["state"])
                      for r in self._all("SELECT id, preset, seed, number, state FROM trial ORDER BY state = 'done'")}
            by_key = {r["key"]: (r["id"], r["state"]) for r in self._all("SELECT id, key, state FROM trial")}
            for d in draws:
                key = trial_key(self.protocol, measured_in, d.options)
                known = states.get((d.preset, d.seed, d.number)) or by_key.get(key)
                if known is None:
                    known = by_key[key] = self._enter(d, structure, environment, key), State.WAITING
                elif known[1] != State.DONE:
                    known = by_key.setdefault(key, known)  # another draw of this very recipe may have taken the key
                    if known[1] != State.DONE:
                        self.connection.execute("UPDATE trial SET key = ?, environment = ? WHERE id = ?",
                                                [key, environment, known[0]])
                if known[1] in (State.WAITING, State.RUNNING) or (known[1] == State.FAILED and retry_failed):
                    todo.append(known[0])
        rows = {row["id"]: row for row in self._all("SELECT * FROM trial")}
        return [self._trial(rows[number]) for number in dict.fromkeys(todo)]

    def start(self, trial: int) -> None:
        """Note that a trial is being measured."""
        with transaction(self.connection, self.path):
            self.connection.execute("UPDATE trial SET state = 'running', attempts = attempts + 1, started = ?, "
                                    "error = '' WHERE id = ? AND state != 'done'", [time.time(), trial])

    def finish(self, trial: int, measurement: Measurement) -> None:
        """Keep what was measured.

        Raises:
            StudyError: a value is NaN or infinite (nothing is written), or the disk is full.
        """
        if measurement.flaw():
            raise StudyError(measurement.flaw())
        with transaction(self.connection, self.path):
            self.connection.execute("DELETE FROM metric WHERE trial = ?", [trial])
            self.connection.executemany(
                "INSERT INTO metric (trial, name, value, n, unit, higher_is_better, per_image) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(trial, m.name, float(m.value), m.n, m.unit, int(m.higher_is_better), _blob(m.per_image))
                 for m in measurement.metrics])
            self.connection.execute("UPDATE trial SET state = 'done', error = '', duration_s = ?, generating_s = ? "
                                    "WHERE id = ?", [measurement.duration_s, measurement.generating_s, trial])

    def fail(self, trial: int, error: str) -> None:
        """Keep why a trial could not be measured."""
        with transaction(self.connection, self.path):
            self.connection.execute("UPDATE trial SET state = 'failed', error = ? WHERE id = ?", [error[:1000], trial])

    def record_predictor(self, name: str, settings: Mapping[str, Any], figures: Mapping[str, Any],
                         weights: bytes | None = None) -> int:
        """Keep a predictor run (figures as JSON, weights as a safetensors blob) and return its id."""
        with transaction(self.connection, self.path):
            cursor = self.connection.execute(
                "INSERT INTO predictor (created, name, settings, figures, weights) VALUES (?, ?, ?, ?, ?)",
                [time.time(), name, _text(settings), _text(figures), weights])
        return int(cursor.lastrowid or 0)

    def predictors(self) -> list[dict[str, Any]]:
        """All predictor runs, oldest first: id, name, settings, figures (without weights)."""
        rows = self._all("SELECT id, name, settings, figures FROM predictor ORDER BY id")
        return [{"id": r["id"], "name": r["name"],
                 **{part: self._object(r[part], f"{part} of predictor {r['id']}") for part in ("settings", "figures")}}
                for r in rows]

    def predictor_weights(self, number: int) -> bytes | None:
        """The weights kept with a predictor run."""
        rows = self._all("SELECT weights FROM predictor WHERE id = ?", [number])
        return rows[0][0] if rows else None

    # --- rows ----------------------------------------------------------------------------------------------------

    def _enter(self, d: Draw, structure: Structure, environment: int, key: str) -> int:
        cursor = self.connection.execute(
            "INSERT INTO trial (key, preset, seed, number, granularity, recipe, bits, bytes, environment, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
            [key, d.preset, d.seed, d.number, d.granularity, self._recipe(d),
             bits_per_weight(structure, d.options), recipe_bytes(structure, d.options), environment])
        return int(cursor.lastrowid or 0)

    def _release(self, draws: Sequence[Draw]) -> None:
        """Remove trials that are not done and whose draw has become another recipe: they hold nothing."""
        wanted = {(d.preset, d.seed, d.number): self._recipe(d) for d in draws}
        for row in self._all("SELECT id, preset, seed, number, recipe FROM trial WHERE state != 'done'"):
            if wanted.get((row["preset"], row["seed"], row["number"]), row["recipe"]) != row["recipe"]:
                self.connection.execute("DELETE FROM trial WHERE id = ?", [row["id"]])

    def _recipe(self, d: Draw) -> str:
        return " ".join(str(d.options.get(name, FP16)) for name in self.protocol.choices)

    def _trial(self, row: sqlite3.Row) -> Trial:
        for column, kind in COLUMNS.items():
            if not isinstance(row[column], kind):
                raise damaged(self.path, f"trial {row['id']} holds {_short(row[column])} as {column}")
        texts = row["recipe"].split(" ")
        if len(texts) != len(self.protocol.choices):
            raise damaged(self.path, f"trial {row['id']} names {len(texts)} options for {len(self.protocol.choices)} "
                                     "layers")
        try:
            options = dict(zip(self.protocol.choices, map(parse_option, texts), strict=True))
            state = State(row["state"])
        except (OptionError, ValueError) as error:
            raise damaged(self.path, f"trial {row['id']}: {str(error).rstrip('.')}") from None
        return Trial(row["id"], row["key"], row["preset"], row["seed"], row["number"], row["granularity"], options,
                     row["bits"], row["bytes"], row["environment"], state, row["attempts"], row["error"],
                     row["duration_s"] or 0.0, row["generating_s"] or 0.0)

    def _finite(self, value: Any, name: str, trial: int) -> float:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise damaged(self.path, f"trial {trial} holds {_short(value)} as {name}")
        return float(value)

    def _floats(self, blob: Any, name: str, trial: int) -> npt.NDArray[np.float32]:
        """A metric of every image of one trial, [M]."""
        wanted = 4 * self.protocol.images
        if not isinstance(blob, bytes) or len(blob) != wanted:
            size = f"{len(blob)} bytes" if isinstance(blob, bytes) else _short(blob)
            raise damaged(self.path, f"trial {trial} holds {size} of {name} per image, not {wanted} bytes")
        return np.frombuffer(blob, "<f4")

    def _object(self, text: Any, what: str) -> dict[str, Any]:
        try:
            found = parse_json(text, what, StudyError)
        except StudyError as error:
            raise damaged(self.path, str(error).rstrip(".")) from None
        except TypeError as error:
            raise damaged(self.path, f"{what}: {error}") from None
        if not isinstance(found, dict):
            raise damaged(self.path, f"{what}: {_short(found)} instead of an object")
        return found

    def _record(self, kind: type[T], text: Any, what: str) -> T:
        try:
            return from_json(kind, self._object(text, what))
        except ValueError as error:
            raise damaged(self.path, f"{what}: {error}") from None

    def _all(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with reported(self.path):
            return self.connection.execute(query, list(values)).fetchall()


@contextlib.contextmanager
def read_study(path: str | Path) -> Any:
    """A study file for reading, also while another process writes it.

    Raises:
        StudyError: no such file, no study, another version, damaged.
    """
    file = Path(path)
    connection = open_for_reading(file)
    try:
        yield Study(file, connection)
    finally:
        connection.close()


@contextlib.contextmanager
def open_study(path: str | Path, protocol: Protocol) -> Any:
    """A study file for its one writer; made if there is none. Leaving folds the log back into the one file.

    Raises:
        StudyError: being written by another process; of another model, protocol or version; damaged; not writable.
    """
    file = Path(path)
    with writer_lock(file):
        connection, new = open_for_writing(file)
        try:
            if new:
                with transaction(connection, file):
                    create_tables(connection)
                    connection.execute("INSERT INTO study (protocol, hash, created) VALUES (?, ?, ?)",
                                       [_text(to_json(protocol)), protocol.hash, time.time()])
            study = Study(file, connection)
            refuse_other(study, protocol)
            yield study
        finally:
            # A reader may be looking on: then the log stays beside the file until the next close.
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode=DELETE")
            connection.close()


def refuse_other(study: Study, protocol: Protocol) -> None:
    """Raise unless a study measures what `protocol` says.

    Raises:
        StudyError: another model, or other images; it names the difference.
    """
    theirs = study.protocol
    if theirs.identity != protocol.identity:
        raise StudyError(f"{study.path.name} is a study of another model ({theirs.model}, identity "
                         f"{theirs.identity[:12]}); this is {protocol.model}, identity {protocol.identity[:12]}. "
                         f"Use another file.")
    difference = protocol_difference(protocol, theirs)
    if difference:
        raise StudyError(f"{study.path.name} measured something else ({difference}); ask for the same, or use another "
                         f"file.")


def _short(value: object) -> str:
    return repr(value)[:40]


def _blob(values: npt.NDArray[np.float32] | None) -> bytes | None:
    return None if values is None else np.ascontiguousarray(values, "<f4").tobytes()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
