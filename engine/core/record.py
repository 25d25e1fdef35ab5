"""Metrics (measured) and scores (predicted) as they cross module borders."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number.

    Attributes:
        name: e.g. `psnr`, `ssim`, `latent_sqnr`, `feature_distance[emoji-clip]`, `frechet[emoji-clip]`.
        value: the number, in `unit`.
        n: how many images it is a mean (or a statistic) of.
        unit: "dB", "" ...
        low, high: 95 % bootstrap interval, or equal to `value` where there is none.
        higher_is_better: direction.
    """

    name: str
    value: float
    n: int
    unit: str
    low: float
    high: float
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Trust:
    """How far scores can be believed: where they come from and how well they rank what was held out."""

    study: str = ""
    trials: int = 0
    images: int = 0
    rank_correlation: float | None = None
    note: str = ""


DIAGNOSIS = "diagnosis"
FEATURES = "by_feature"  # key of `about`


@dataclass(frozen=True, slots=True)
class Scores:
    """Sensitivity of layers per option: damage, larger = worse, 0 = harmless.

    Attributes:
        provider: `weight-error`, `measured`, ...
        model: identity of the model it was computed on.
        unit: unit of the damage, e.g. "relative squared weight error", "image MSE".
        layers: choice name -> option text -> damage.
        blocks: block id -> option text -> damage of quantizing the whole block alone; may be empty.
        trust: see `Trust`.
        command: the command line that made it.
        about: everything else that identifies the run (versions, threads, prompts hash, seeds, steps); "kind" is
            "diagnosis" where the numbers are no damage.
    """

    provider: str
    model: str
    unit: str
    layers: dict[str, dict[str, float]]
    blocks: dict[str, dict[str, float]] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)
    command: str = ""
    about: dict[str, str] = field(default_factory=dict)

    @property
    def is_damage(self) -> bool:
        """Whether the numbers say what an option costs; a diagnosis only colours the graph and allocates nothing."""
        return self.about.get("kind") != DIAGNOSIS

    @property
    def features(self) -> dict[str, dict[str, dict[str, float]]]:
        """Option text -> choice name -> feature group -> its part of the damage, for attributions that know it.

        Raises:
            ValueError: the file holds something else there.
        """
        return dict(json.loads(self.about.get(FEATURES, "{}")))
