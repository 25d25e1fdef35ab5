"""How much is measured for the evidence, and where it is kept."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.analysis.fitting import KINDS
from engine.analysis.predictor import Kind
from engine.analysis.training import Training
from engine.core.places import model_stem
from engine.evidence.learning import SIZES
from engine.evidence.studied import Studied
from engine.providers.cumulative import Pass
from engine.providers.progress import Progress

Found = dict[str, Any]
Stage = Generator[Progress, None, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured; the defaults are those of the shipped evidence.

    Attributes:
        images: of the final comparisons.
        first: index of the first of them, so that every round is judged on images of its own.
        judged: calibration images on which the best of our candidates and of the random draws are judged.
        sifted: calibration images on which all of them are judged before.
        switched: calibration images of the deletion and insertion curves; 0 leaves them out.
        steps: of the sampler; None is the model's own number.
        sizes: of the learning curve; () leaves it out.
        kinds: of predictors.
        training: of networks.
        timed: trials that one and two workers are timed on; 0 leaves it out.
        cumulative: what Apple's rule measures; None leaves it out.
    """

    images: int = 256
    judged: int = 64
    switched: int = 16
    steps: int | None = None
    sizes: tuple[int, ...] = SIZES
    kinds: tuple[Kind, ...] = KINDS
    training: Training = field(default_factory=Training)
    timed: int = 6
    cumulative: Pass | None = field(default_factory=Pass)
    first: int = 0
    sifted: int = 16


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go: `assets` gets predictors and scores, `kept` what was measured (one file per stage)."""

    assets: Path
    kept: Path

    def file(self, studied: Studied, what: str) -> Path:
        """A file about this study's model."""
        stem = model_stem(studied.structure.model, studied.structure.identity)
        return self.kept / f"{stem}.{what}"
