"""A study file as the table of trials that predictors are fitted to, with the model it was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.analysis.trials import Labelled, TrialTable, subject_of, trial_table
from engine.core.errors import InputError, StudyError
from engine.core.graph import Structure
from engine.core.record import Scores
from engine.core.seeds import derive
from engine.models.structure import read_structure
from engine.providers.files import check_scores, find_scores, load_scores
from engine.providers.table import damage_table
from engine.study.protocol import Protocol
from engine.study.storage import read_study

# The mean over images of PSNR: one image that comes out quite different weighs less than in the mean of squares.
DEFAULT_FORMULA = "psnr"
REPORTED = 2  # version of what a fit reports; part of the digest, so that older predictors are fitted again
FIT_SECONDS = "fit_seconds"  # what a predictor says in `about` of how long fitting it took
NEAR = "near"  # preset of trials drawn around the best recipes so far; held-out figures leave them out


def near_round(preset: str) -> int:
    """The round that trials of a preset were drawn for; 0 = they were drawn at random."""
    name, _, number = preset.partition(":")
    return int(number) if name == NEAR and number.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Studied:
    """The measured recipes of one study.

    Attributes:
        file: name of the study file.
        structure: the model.
        protocol: what every trial shares.
        table: the trials that were asked for, with their target.
        ids: [T] of the trials in the study file.
        near: [T] which of them were drawn around the best recipes instead of at random.
        seconds: [T] what each trial took, and `generating` how much of it went into images.
        generating: [T].
        digest: 12 hex digits over the trials, the target, and what layers did alone; what was computed from others is
            stale.
    """

    file: str
    structure: Structure
    protocol: Protocol
    table: TrialTable
    ids: tuple[int, ...]
    near: npt.NDArray[np.bool_]
    seconds: npt.NDArray[np.float64]
    generating: npt.NDArray[np.float64]
    digest: str

    @property
    def about(self) -> dict[str, str]:
        """What scores and predictors say of where they come from."""
        return {"study": self.file, "images": str(self.protocol.images), "trials": str(len(self.table)),
                "prompts": self.protocol.split, "steps": str(self.protocol.steps), "digest": self.digest}


def read_studied(path: str | Path, formula: str = DEFAULT_FORMULA, *, model: str = "", presets: Sequence[str] = (),
                 trials: int | None = None, weight_errors: str = "") -> Studied:
    """Read a study and evaluate the target.

    Args:
        path: the study file.
        formula: the target, higher = better, over its metrics and `bits`.
        model: where its model lies; "" = the name it was measured under.
        presets: only trials of these; () = all.
        trials: only the first so many.
        weight_errors: scores file; "" = found by the model's identity.

    Raises:
        StudyError: no study, another model's, too few trials, or labels that rank nothing.
        InputError: a formula over what was not measured, or no weight errors.
    """
    with read_study(path) as study:
        protocol = study.protocol
        structure = read_structure(model or protocol.model)
        if structure.identity != protocol.identity:
            raise StudyError(f"{Path(path).name} was measured on {protocol.model} ({protocol.identity[:12]}), which "
                             f"is not {structure.model} ({structure.identity[:12] or 'no weights'}); name its model.")
        columns = {name: study.values(name) for name in study.metric_names()}
        kept = [t for t in study.trials() if not presets or t.preset in presets][:trials]
    labelled = [Labelled(t.options, {n: column[t.id] for n, column in columns.items() if t.id in column}, t.preset)
                for t in kept]
    alone = damage_table(structure, find_scores(structure)).values
    subject = subject_of(structure, weight_errors_of(structure, weight_errors), labelled, alone or None)
    anchor = "" if subject.anchor is None else np.round(subject.anchor, 9).tobytes().hex()
    return Studied(Path(path).name, structure, protocol, trial_table(subject, labelled, formula),
                   tuple(t.id for t in kept), np.array([t.preset.partition(":")[0] == NEAR for t in kept]),
                   np.array([t.duration_s for t in kept]), np.array([t.generating_s for t in kept]),
                   f"{derive('trials', REPORTED, formula, anchor, *(t.key for t in kept)):016x}"[:12])


def weight_errors_of(structure: Structure, file: str = "") -> Scores:
    """The weight errors of a model, from a file or by its identity.

    Raises:
        InputError: there are none; StudyError: they are another model's.
    """
    if file:
        scores = load_scores(file)
        check_scores(scores, structure)
        return scores
    found = find_scores(structure)
    if "weight-error" not in found:
        raise InputError(f"The weight errors of {structure.model} are not at hand; make them with sensitivity "
                         f"{structure.model} --provider weight-error.")
    return found["weight-error"]
