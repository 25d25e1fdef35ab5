"""The additive damage table: what each choice at each option is predicted to cost in image error, summed by recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.core.graph import Structure
from engine.core.option import FP16
from engine.core.recipe import Recipe
from engine.core.record import Scores

MEASURED, WEIGHT_ERROR = "measured", "weight-error"
IMAGE_MSE = "image MSE"
# Nothing is predicted above this: differences below half a step of 8 bits cannot be seen or saved.
CAP_DB = 60.0


@dataclass(frozen=True)
class DamageTable:
    """Predicted mean squared image error of each choice alone, in [0, 1] RGB; a recipe's is their sum.

    Attributes:
        values: choice -> option text -> damage; empty where nothing was measured.
        scaled: choice -> options that were not measured but scaled by weight error.
        base: error to start from (where damages are counted from a uniform recipe), 0 otherwise.
        provider: whose measurements they are.
    """

    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scaled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    base: float = 0.0
    provider: str = ""

    def predict_mse(self, recipe: Recipe) -> float | None:
        """Predicted mean squared image error of a recipe, None where an option has no value."""
        total = self.base
        for name, options in self.values.items():
            damage = options.get(str(recipe.option(name)))
            if damage is None:
                return None
            total += damage
        return max(total, 0.0) if self.values else None

    def predict_psnr(self, recipe: Recipe) -> float | None:
        """Predicted PSNR to full precision in dB (of the mean error), at most `CAP_DB`; None where unknown."""
        mse = self.predict_mse(recipe)
        if mse is None:
            return None
        return CAP_DB if mse <= 10 ** (-CAP_DB / 10) else -10 * math.log10(mse)


def completed(structure: Structure, scores: Mapping[str, Scores], provider: str) -> Scores:
    """A provider's scores with an entry for every option: measured damages cover few, the others are scaled."""
    table = damage_table(structure, scores, provider)
    rows = {choice: dict(row) for choice, row in table.values.items()}
    return replace(scores[provider], layers=rows) if rows else scores[provider]


def damage_table(structure: Structure, scores: Mapping[str, Scores], provider: str = MEASURED) -> DamageTable:
    """The table of a model from its scores.

    Options that were measured stand as they are. Any other is scaled from the measured option of the same layer whose
    weight error is nearest: d(o) = d(m) (e(o) - e(r)) / (e(m) - e(r)), r being the reference the damages are counted
    from (full precision with e = 0, or a uniform option), and listed in `scaled`.

    Args:
        structure: the model.
        scores: provider -> scores; `weight-error` supplies the errors.
        provider: whose damages to use; they must be image errors.
    """
    measured = scores.get(provider)
    if measured is None or measured.unit != IMAGE_MSE:
        return DamageTable()
    reference = measured.about.get("around", str(FP16))
    errors = scores[WEIGHT_ERROR].layers if WEIGHT_ERROR in scores else {}
    values, scaled = {}, {}
    for layer in structure.choices:
        own = {o: float(d) for o, d in measured.layers.get(layer.name, {}).items()}
        own[reference] = 0.0
        error = {**errors.get(layer.name, {}), str(FP16): 0.0}
        added = {o: _scaled(o, own, error, reference) for o in error if o not in own}
        known = {o: d for o, d in added.items() if d is not None}
        values[layer.name], scaled[layer.name] = {**own, **known}, tuple(sorted(known))
    return DamageTable(values, scaled, float(measured.about.get("base_mse", 0.0)), provider)


def _scaled(option: str, own: Mapping[str, float], error: Mapping[str, float], reference: str) -> float | None:
    """The damage of an option that was not measured, None where there is nothing to scale from."""
    zero = error.get(reference)
    if zero is None:
        return None
    anchors = [m for m in own if m != reference and m in error and error[m] != zero]
    if not anchors:
        return None
    nearest = min(anchors, key=lambda m: abs(_log(error[m]) - _log(error[option])))
    return own[nearest] * (error[option] - zero) / (error[nearest] - zero)


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))
