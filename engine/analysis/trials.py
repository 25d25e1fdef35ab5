"""Measured recipes as arrays: what every predictor and control is fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.analysis.features import FeatureTable, Space, feature_table, picks_of, space, stored_bits_of, summed_error
from engine.analysis.formula import BITS, BitsTerm, bits_term, parse_formula
from engine.analysis.topology import Topology, topology
from engine.core.errors import StudyError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.record import Scores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS = 5
LEAST_PER_FOLD = 4


@dataclass(frozen=True, slots=True)
class Labelled:
    """One measured recipe: choice -> option (silent layers untouched), metric -> value, and the preset that drew it."""

    options: Mapping[str, Option]
    labels: Mapping[str, float]
    preset: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is learned about: graph, options and features.

    Attributes:
        structure: the model.
        graph: its topology.
        space: its options.
        table: features of every node under every option.
        anchor: [C, K] damage measured one layer at a time, over its mean, NaN where not offered; None where nothing
            was measured.
    """

    structure: Structure
    graph: Topology
    space: Space
    table: FeatureTable
    anchor: Floats | None = None


class Member(Protocol):
    """Anything that gives recipes a target: a fitted predictor of any kind, or a control."""

    def predict(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C] of option columns."""
        ...


@dataclass(frozen=True, slots=True)
class TrialTable:
    """T recipes with one target.

    Attributes:
        subject: the model.
        picks: [T, C] option columns.
        target: [T], higher = better.
        bits: [T] stored bits per weight.
        error: [T] summed relative weight error.
        formula: the target's text.
        term: the formula's term in bits; None where bits and metrics are entangled.
        presets: [T], what drew each; () = all one.
    """

    subject: Subject
    picks: Ints
    target: Floats
    bits: Floats
    error: Floats
    formula: str
    term: BitsTerm | None
    presets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.picks)

    @property
    def quality(self) -> Floats | None:
        """[T], the target without its term in bits (equal where it has none); None where they are entangled."""
        return None if self.term is None else self.target - self.term.at(self.bits)


def subject_of(structure: Structure, weight_errors: Scores, trials: Sequence[Labelled] = (),
               alone: Mapping[str, Mapping[str, float]] | None = None) -> Subject:
    """Graph, options and features of a model; options that occur in trials are covered whatever their size.

    Args:
        structure: the model.
        weight_errors: of all its layers.
        trials: measured recipes.
        alone: choice -> option -> damage of quantizing that layer alone, where that was measured (options that were
            not, scaled from those that were).

    Raises:
        StudyError: the structure has no graph, or weight errors are missing.
    """
    graph = topology(structure)
    used = dict.fromkeys(o for trial in trials for o in trial.options.values())
    options = space(structure, weight_errors, tuple(o for o in used if not o.is_untouched))
    anchor = None if alone is None else anchor_of(graph, options, alone)
    return Subject(structure, graph, options, feature_table(graph, options), anchor)


def anchor_of(graph: Topology, options: Space, alone: Mapping[str, Mapping[str, float]]) -> Floats | None:
    """Damages as an array, see `Subject.anchor`; None where they leave an option out or are all zero."""
    found = np.full(options.offered.shape, np.nan)
    for c, k in zip(*np.nonzero(options.offered), strict=True):
        option = options.options[k]
        found[c, k] = 0.0 if option.is_untouched else alone.get(graph.choices[c], {}).get(str(option), np.nan)
    seen = found[options.offered]
    if not np.isfinite(seen).all() or seen.max() <= 0:
        return None
    anchor: Floats = np.maximum(found, 0.0) / seen[seen > 0].mean()
    return anchor


def trial_table(subject: Subject, trials: Sequence[Labelled], formula: str) -> TrialTable:
    """The trials with the target of a formula over their labels and `bits`.

    Raises:
        InputError: the formula is malformed or names what was not measured.
        StudyError: too few trials for the folds, NaN or constant targets, or recipes of another model.
    """
    parsed = parse_formula(formula)
    if len(trials) < FOLDS * LEAST_PER_FOLD:
        raise StudyError(f"{len(trials)} trials are too few for {FOLDS} folds of at least {LEAST_PER_FOLD}; measure "
                         f"{FOLDS * LEAST_PER_FOLD - len(trials)} more.")
    picks = picks_of(subject.space, subject.graph, [t.options for t in trials])
    bits = stored_bits_of(subject.space, picks)
    columns = label_columns(trials, bits)
    target = parsed.evaluate(columns)
    broken = int((~np.isfinite(target)).sum())
    if broken:
        raise StudyError(f"{formula!r} is no number in {broken} of {len(trials)} trials (NaN, missing or infinite "
                         f"metrics); measure them again or choose another label.")
    if np.ptp(target) <= 1e-12 * max(1.0, float(np.abs(target).max())):
        raise StudyError(f"{formula!r} is the same in all {len(trials)} trials, so it ranks nothing; choose another "
                         f"label.")
    return TrialTable(subject, picks, target, bits, summed_error(subject.space, picks), formula,
                      bits_term(parsed, columns), tuple(t.preset for t in trials))


def label_columns(trials: Sequence[Labelled], bits: Floats) -> dict[str, Floats]:
    """Metric -> [T], NaN where a trial lacks it, and the stored `bits`."""
    names = dict.fromkeys(name for trial in trials for name in trial.labels)
    columns = {name: np.array([float(t.labels.get(name, np.nan)) for t in trials]) for name in names}
    return {**columns, BITS: bits}


def subset(table: TrialTable, index: Ints) -> TrialTable:
    """Some of the trials."""
    return replace(table, picks=table.picks[index], target=table.target[index], bits=table.bits[index],
                   error=table.error[index],
                   presets=tuple(table.presets[i] for i in index) if table.presets else ())


def folds(trials: int, seed: int = 12345, count: int = FOLDS) -> list[tuple[Ints, Ints]]:
    """(train, test) indices of a shuffled split into near-equal parts; each trial is tested once."""
    order = np.random.default_rng(seed).permutation(trials)
    parts = np.array_split(order, count)
    return [(np.sort(np.concatenate([p for j, p in enumerate(parts) if j != i])), np.sort(part))
            for i, part in enumerate(parts)]


def hold_back(train: Ints, seed: int, share: float = 0.125) -> tuple[Ints, Ints]:
    """(fit, validation): a part of a training fold set aside for stopping early."""
    order = np.random.default_rng([seed, len(train)]).permutation(train)
    held = max(2, round(share * len(train)))
    return np.sort(order[held:]), np.sort(order[:held])
