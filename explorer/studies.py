"""Study files of a model, read for people to look at: where they lie, what they measured, how far they are."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.errors import EngineError, StudyError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.places import assets_dir, cache_dir, model_stem

SUFFIX = ".sqlite"
FOLDER = "studies"
_OPENED: dict[str, dict[Path, None]] = {}  # identity -> files opened by their path, in order


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
    return [*found, *(p for p in _OPENED.get(structure.identity, {}) if p not in found and p.is_file())]


def remember(identity: str, path: Path) -> None:
    """A study that was opened by its path is offered, and its trials are drawn, as long as the server runs."""
    _OPENED.setdefault(identity, {})[path] = None


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


@dataclass(frozen=True, slots=True)
class StudyView:
    """What the Study tab says about one file.

    Attributes:
        path: the file.
        images, steps: per trial.
        trials, waiting, failed: how many.
        presets: preset -> finished trials.
        planned: how many trials of a preset there shall be, finished or not.
        metrics: what was measured -> whether higher is better.
        reliability: label -> how reliable it is, or why that cannot be told, in words.
        errors: sentences of failed trials, each once.
        rows: the finished trials.
    """

    path: Path
    images: int
    steps: int
    trials: int
    waiting: int
    failed: int
    presets: Mapping[str, int]
    planned: int
    metrics: Mapping[str, bool]
    reliability: Mapping[str, str]
    errors: tuple[str, ...]
    rows: tuple[Measured, ...]


def study_view(path: Path, structure: Structure, labels: tuple[str, ...] = ()) -> StudyView:
    """Read one study for people.

    Args:
        path: the file.
        structure: the model it must be of.
        labels: metrics whose reliability is wanted.

    Raises:
        StudyError: no study, damaged, of another version or of another model; one sentence.
    """
    view, identity, name = _view(str(path), labels, _stamp(path))
    if structure.identity and identity != structure.identity:
        raise StudyError(f"{path.name} is a study of another model ({name}, identity {identity[:12]}); this is "
                         f"{structure.model}, identity {structure.identity[:12]}. Open that model, or another file.")
    return view


@functools.lru_cache(maxsize=8)
def _view(path: str, labels: tuple[str, ...], _stamp: tuple[int, int]) -> tuple[StudyView, str, str]:
    from engine.study.storage import read_study
    from engine.study.trial import State

    with read_study(path) as study:
        every, counts = study.trials(None), study.counts()
        said = {label: _reliability(study, label) for label in labels}
        protocol = study.protocol
        presets: dict[str, int] = {}
        for trial in every:
            presets[trial.preset] = presets.get(trial.preset, 0) + (trial.state == State.DONE)
        first = next((t for t in every if t.state == State.DONE), None)
        directions = {n: m.higher_is_better for n, m in study.metrics(first.id).items()} if first else {}
        errors = tuple(dict.fromkeys(t.error for t in every if t.error))
        view = StudyView(Path(path), protocol.images, protocol.steps, counts[State.DONE],
                         counts[State.WAITING] + counts[State.RUNNING], counts[State.FAILED], presets,
                         max(Counter(t.preset for t in every).values(), default=0),
                         directions, said, errors[:5], _trials(path, _stamp))
    return view, protocol.identity, protocol.model


def _reliability(study: Any, label: str) -> str:
    """Of one label, in words."""
    from engine.study.summary import reliability_of

    try:
        found = reliability_of(study, label)
    except EngineError as error:
        return f"unknown ({str(error).rstrip('.')})"
    within = "" if found.median_in_bins is None else f"; {found.median_in_bins:.3f} within quarter-bit bins"
    return f"{found.median:.3f} over {found.splits} splits of the prompts, uncorrected{within}"


def best_trials(rows: tuple[Measured, ...], metric: str, higher: bool, most: int = 12) -> list[Measured]:
    """Trials that no other beats in both size and metric, smallest first, thinned evenly to `most`."""
    sign = 1 if higher else -1
    front: list[Measured] = []
    for row in sorted((r for r in rows if metric in r.values), key=lambda r: (r.bits, -sign * r.values[metric])):
        if not front or sign * row.values[metric] > sign * front[-1].values[metric]:
            front.append(row)
    if len(front) <= most:
        return front
    return [front[round(i * (len(front) - 1) / (most - 1))] for i in range(most)]
