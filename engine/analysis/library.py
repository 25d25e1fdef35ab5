"""Where predictors lie: found by the model's identity, the user's cache before what was shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.analysis.predictor import Predictor
from engine.analysis.predictor_files import load_predictor
from engine.core.errors import StudyError
from engine.core.graph import Structure
from engine.core.places import IDENTITY_DIGITS, assets_dir, cache_dir, model_stem

FOLDER = "predictors"


def predictor_stem(structure: Structure, directory: Path | None = None) -> Path:
    """Where the predictor of a model belongs, without suffix; `directory` is the cache, or `assets`."""
    return (directory or cache_dir()) / FOLDER / model_stem(structure.model, structure.identity)


def find_predictor(structure: Structure) -> Predictor | None:
    """The predictor of a model, None where there is none that fits; files of other versions are passed over."""
    for path in _candidates(structure):
        try:
            return load_predictor(path.with_suffix(""), structure)
        except StudyError:
            continue
    return None


def _candidates(structure: Structure) -> Iterator[Path]:
    digits = structure.identity[:IDENTITY_DIGITS]
    for directory in (cache_dir() / FOLDER, assets_dir() / FOLDER):
        if digits and directory.is_dir():
            yield from sorted(directory.glob(f"*-{digits}.json"))
