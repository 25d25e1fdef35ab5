"""How the summed damage of a provider reads as quality: decibels, a predictor's target, or nothing but damage."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.allocate.support import extrapolated
from engine.core.graph import Structure
from engine.core.record import Scores
from engine.providers.table import CAP_DB, IMAGE_MSE, MEASURED, DamageTable, damage_table

FLOOR = 1e-12  # of the logarithm, as the additive model has it
STEEPEST = 30.0
_NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"
_CURVE = re.compile(rf"target = {_NUMBER} - {_NUMBER} \* boxcox\(damage, {_NUMBER}\)")
LEARNED = "predictor"


@dataclass(frozen=True, slots=True)
class Gauge:
    """Summed damage -> quality.

    Attributes:
        title: what the quality is called, "" where damage is all there is.
        unit: of the quality.
        base: damage that every recipe has (counted from a uniform recipe), added to the sum.
        curve: (offset, slope, exponent) of a predictor's target = offset - slope * boxcox(damage, exponent); None =
            decibels of the summed image error.
        metric: the study's metric that is the same quantity as the damage or the target, "" where there is none.
        learned: whether a predictor was fitted for it, so that options without support are extrapolated.
    """

    title: str = ""
    unit: str = ""
    base: float = 0.0
    curve: tuple[float, float, float] | None = None
    metric: str = ""
    learned: bool = False

    def quality(self, damage: float) -> float | None:
        """The quality of a summed damage, higher = better; None where it means nothing by itself."""
        total = self.base + damage
        if not self.title:
            return None
        if self.curve is None:
            return CAP_DB if total <= 10 ** (-CAP_DB / 10) else -10 * math.log10(total)
        offset, slope, exponent = self.curve
        log = math.log(max(total, 0.0) + FLOOR)
        z = max(-STEEPEST, min(STEEPEST, exponent * log))
        return offset - slope * log * (math.expm1(z) / z if abs(z) > 1e-4 else 1 + z / 2 + z * z / 6)

    def text(self, damage: float) -> str:
        """`≈ 29.7 dB`, or nothing."""
        value = self.quality(damage)
        return "" if value is None else f"≈ {value:.4g} {self.unit}".rstrip()

    def as_data(self) -> dict[str, Any]:
        """For the page, which computes the same while one drags."""
        return {"title": self.title, "unit": self.unit, "base": self.base, "curve": self.curve,
                "learned": self.learned}


def gauge_of(scores: Scores) -> Gauge:
    """The gauge of a provider's scores; scores whose unit says nothing of pictures have an empty one."""
    found = _CURVE.fullmatch(scores.about.get("curve", ""))
    if found:
        formula = scores.about.get("formula", "")
        plain = bool(re.fullmatch(r"[a-z_]+", formula))
        offset, slope, exponent = (float(x) for x in found.groups())
        decibels = formula == "psnr"
        return Gauge("PSNR" if decibels else formula or "target", "dB" if decibels else "", 0.0,
                     (offset, slope, exponent), formula if plain else "", True)
    if scores.unit == IMAGE_MSE:
        return Gauge("PSNR", "dB", float(scores.about.get("base_mse", 0.0)), None, "image_mse")
    return Gauge()


def page_table(structure: Structure, scores: Mapping[str, Scores]) -> tuple[DamageTable, Gauge]:
    """The additive table that predicts while one drags: a predictor's where one was fitted, else measured damages."""
    learned = scores.get(LEARNED)
    if learned is not None and gauge_of(learned).learned:
        return DamageTable(learned.layers, extrapolated(learned), 0.0, LEARNED), gauge_of(learned)
    measured = scores.get(MEASURED)
    return damage_table(structure, scores), gauge_of(measured) if measured else Gauge()
