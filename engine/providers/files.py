"""Scores on disk: JSON files, checked when read, found again by the identity of the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine.core.errors import EngineError, OptionError, StudyError
from engine.core.files import read_json, write_json
from engine.core.graph import Structure
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import parse_option
from engine.core.places import IDENTITY_DIGITS, assets_dir, cache_dir, model_stem
from engine.core.record import FEATURES, Scores

VERSION = 1
MAX_BYTES = 64_000_000


def scores_path(structure: Structure, provider: str, directory: Path | None = None) -> Path:
    """Where the scores of a model by a provider belong: `<name>-<identity>.<provider>.json` in the user's cache."""
    stem = model_stem(structure.model, structure.identity)
    return (directory or cache_dir() / "scores") / f"{stem}.{provider}.json"


def save_scores(path: str | os.PathLike[str], scores: Scores) -> None:
    """Write scores, whole or not at all.

    Raises:
        StudyError: a damage is NaN or infinite.
    """
    _check(scores, Path(path).name)
    write_json(path, {"version": VERSION, **to_json(scores)})


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read scores.

    Raises:
        StudyError: no scores file, another version, unknown options or NaN; one sentence.
    """
    name = Path(path).name
    data = read_json(path, StudyError, MAX_BYTES)
    if not isinstance(data, dict) or "layers" not in data:
        raise StudyError(f"{name} is no scores file: expected an object with provider, model, unit and layers.")
    version = data.pop("version", None)
    if version != VERSION:
        raise StudyError(f"{name} has version {str(version)[:20]}; this program reads version {VERSION}.")
    try:
        scores = from_json(Scores, data)
    except (ValueError, KeyError) as failure:
        raise StudyError(f"{name} is no scores file ({failure}).") from None
    _check(scores, name)
    return scores


def check_scores(scores: Scores, structure: Structure) -> None:
    """Refuse scores of another model.

    Raises:
        StudyError: identity or layers differ.
    """
    if scores.model != structure.identity:
        raise StudyError(f"These scores are of another model (identity {scores.model[:12]}); {structure.model} "
                         f"is {structure.identity[:12]}. Compute them again.")
    known = {layer.name for layer in structure.choices}
    unknown = [name for name in scores.layers if name not in known]
    if unknown:
        raise StudyError(f"The scores name {len(unknown)} layers that {structure.model} does not have (first: "
                         f"{unknown[0][:80]!r}).")


def find_scores(structure: Structure, folders: Sequence[Path] | None = None) -> dict[str, Scores]:
    """provider -> scores of this model, from the first folder that has them.

    Files that are damaged, hold something else or are of another identity are passed over.

    Args:
        structure: the model.
        folders: where to look; None = the user's cache, then what is shipped.
    """
    found: dict[str, Scores] = {}
    for path in _candidates(structure, folders):
        try:
            scores = load_scores(path)
            check_scores(scores, structure)
        except EngineError:
            continue
        found.setdefault(scores.provider, scores)
    return found


def _candidates(structure: Structure, folders: Sequence[Path] | None) -> Iterator[Path]:
    digits = structure.identity[:IDENTITY_DIGITS]
    for directory in (cache_dir() / "scores", assets_dir() / "scores") if folders is None else folders:
        if digits and directory.is_dir():
            yield from sorted(directory.glob(f"*{digits}*.json"))


def _check(scores: Scores, name: str) -> None:
    try:
        parts = [v for by_choice in scores.features.values() for row in by_choice.values() for v in row.values()]
        whole = all(math.isfinite(v) for v in parts)
    except (ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StudyError(f"{name}: `{FEATURES}` in `about` is no table of numbers; compute the scores again.")
    for where, options in [*scores.layers.items(), *scores.blocks.items()]:
        for option, damage in options.items():
            try:
                parse_option(option)
            except OptionError as failure:
                raise StudyError(f"{name}, {where[:80]!r}: {failure}") from None
            if not math.isfinite(damage):
                raise StudyError(f"{name}: the damage of {where[:80]!r} at {option} is {damage}, not a number.")


def summary(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """One row per provider for tables: everything but the numbers."""
    plain = {f.name for f in fields(Scores)} - {"layers", "blocks"}
    return [{k: v for k, v in to_json(s).items() if k in plain} for s in scores.values()]
