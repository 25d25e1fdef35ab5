"""Study files of a model, read for people to look at: where they lie, what they measured, how far they are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.places import assets_dir, cache_dir, model_stem

SUFFIX = ".sqlite"
FOLDER = "studies"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured recipe: `values` are its metrics by name, `study` the file's name without suffix."""

    study: str
    number: int
    preset: str
    options: Mapping[str, Option]
    bits: float
    values: Mapping[str, float]


def own_folder() -> Path:
    """Where studies begun in the page are kept."""
    return cache_dir() / FOLDER


def own_file(structure: Structure) -> Path:
    """The file a study of this model begun in the page is written to."""
    return own_folder() / f"{model_stem(structure.model, structure.identity)}{SUFFIX}"


def find_studies(structure: Structure) -> list[Path]:
    """Readable study files of this model: the user's own first, then those shipped."""
    found = []
    for folder in (own_folder(), assets_dir() / FOLDER):
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            if structure.identity and identity_of(path) == structure.identity:
                found.append(path)
    return found


def identity_of(path: Path) -> str:
    """Identity of the model a study measured; "" where the file is no readable study."""
    return _identity(str(path), _stamp(path))


@functools.lru_cache(maxsize=64)
def _identity(path: str, _stamp: tuple[int, int]) -> str:
    from engine.study.storage import read_study

    try:
        with read_study(path) as study:
            return str(study.protocol.identity)
    except EngineError:
        return ""


def measured_of(structure: Structure) -> list[Measured]:
    """Every finished trial of every study of this model; files that cannot be read now are passed over."""
    found: list[Measured] = []
    for path in find_studies(structure):
        try:
            found += read_trials(path)
        except EngineError:
            continue
    return found


def read_trials(path: Path) -> tuple[Measured, ...]:
    """The finished trials of one study, read again only when the file has changed.

    Raises:
        StudyError: see `engine.study.storage.read_study`.
    """
    return _trials(str(path), _stamp(path))


@functools.lru_cache(maxsize=8)
def _trials(path: str, _stamp: tuple[int, int]) -> tuple[Measured, ...]:
    from engine.study.storage import read_study

    with read_study(path) as study:
        columns = {name: study.values(name) for name in study.metric_names()}
        return tuple(Measured(Path(path).stem, t.id, t.preset, t.options, t.bits,
                              {name: column[t.id] for name, column in columns.items() if t.id in column})
                     for t in study.trials())


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change, the log beside the file included; zeros where there is none."""
    size = stamp = 0
    for part in (path, path.with_name(path.name + "-wal")):
        try:
            found = part.stat()
        except OSError:
            continue
        size, stamp = size + found.st_size, max(stamp, found.st_mtime_ns)
    return size, stamp
