"""What a study taught about a model, ready for an interface: predictions of recipes, and recipes for budgets.

Fast by design: `quick` takes microseconds, a point of a `path` about a millisecond, `forecast` of one recipe tens of
milliseconds. Nothing here touches weights or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.allocate.allocation import Allocation
from engine.allocate.allocators import Settings, allocate
from engine.allocate.path import Path, lagrangian_path
from engine.allocate.problem import Limits, Problem, layer_problem
from engine.analysis.additive import table_scores
from engine.analysis.library import find_predictor
from engine.analysis.predictor import LEAST_SUPPORT, Kind, Predictor
from engine.analysis.ranking import Quality
from engine.analysis.reach import Z_95
from engine.core.errors import StudyError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.recipe import Recipe
from engine.core.record import Scores, Trust
from engine.core.sizes import full_bytes


@dataclass(frozen=True, slots=True)
class Forecast:
    """The predicted target of one recipe.

    Attributes:
        mean: in the unit of the formula, higher = better.
        low, high: 95 % interval: disagreement of the members and error on held-out trials together.
        unsupported: layers at an option that hardly any trial held there; the prediction is extrapolated for them.
        beyond: whether no trial of that size came near it: the prediction is extrapolated and the interval too narrow.
    """

    mean: float
    low: float
    high: float
    unsupported: tuple[str, ...]
    beyond: bool = False


class Advisor:
    """A fitted predictor and the additive table boiled down from it."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.structure: Structure = predictor.subject.structure
        self.scores: Scores = table_scores(predictor)

    @property
    def formula(self) -> str:
        """The target, as it was asked for."""
        return self.predictor.formula

    @property
    def trust(self) -> Trust:
        """Study, trials, images, and the held-out rank correlation."""
        return self.scores.trust

    @property
    def figures(self) -> dict[str, Quality]:
        """Held-out figures by kind and control, for the quality part where the formula prices bits."""
        return self.predictor.report.quality or self.predictor.report.target

    def forecast(self, recipes: Sequence[Recipe], kind: Kind | None = None) -> list[Forecast]:
        """Predictions with uncertainty, in one batch; by default of the kind that was best on held-out trials.

        Raises:
            StudyError: a recipe names a layer or option the predictor does not know, or an option not there.
        """
        picks = self.predictor.picks([r.options for r in recipes])
        found = self.predictor.predict(picks, kind)
        seen = self.predictor.support[np.arange(picks.shape[1]), picks] >= LEAST_SUPPORT
        names = self.predictor.subject.graph.choices
        if not np.isfinite(found.mean).all():
            offered = self.predictor.subject.space.offered[np.arange(picks.shape[1]), picks]
            layer, option = next((n, r.option(n)) for r, row in zip(recipes, offered, strict=True)
                                 for n, known in zip(names, row, strict=True) if not known)
            raise StudyError(f"The predictor knows nothing of {layer} at {option}; fit it to trials that hold it "
                             f"there, or choose another option.")
        return [Forecast(float(m), float(m - Z_95 * s), float(m + Z_95 * s),
                         tuple(n for n, known in zip(names, row, strict=True) if not known), bool(far))
                for m, s, row, far in zip(found.mean, found.spread, seen, found.beyond, strict=True)]

    def quick(self, recipe: Recipe) -> float:
        """The predicted target by the additive table alone, for a slider that is being dragged.

        Raises:
            StudyError: as `forecast`.
        """
        return float(self.predictor.quick(self.predictor.picks([recipe.options]))[0])

    def supported(self, layer: str, option: Option) -> bool:
        """Whether enough trials held this option of this layer (by choice name)."""
        subject = self.predictor.subject
        if option not in subject.space.options or layer not in subject.graph.choices:
            return False
        count = self.predictor.support[subject.graph.choices.index(layer), subject.space.index(option)]
        return bool(count >= LEAST_SUPPORT)

    def options(self) -> tuple[Option, ...]:
        """The options that trials held often enough in at least one layer, untouched aside."""
        columns = np.flatnonzero((self.predictor.support >= LEAST_SUPPORT).any(axis=0))
        found = [self.predictor.subject.space.options[k] for k in columns]
        return tuple(o for o in found if not o.is_untouched)

    def problem(self, budget_bytes: int | None = None, limits: Limits | None = None) -> Problem:
        """The allocation problem of a budget (default: everything); by default over the options trials held.

        Raises:
            InputError: the budget or the limits are impossible.
        """
        budget = full_bytes(self.structure) if budget_bytes is None else budget_bytes
        return layer_problem(self.structure, self.scores, budget, limits or Limits(options=self.options()))

    def path(self, limits: Limits | None = None) -> Path:
        """Every budget's recipe: make it once, then ask `.at(bytes)` while a slider moves."""
        return lagrangian_path(self.problem(limits=limits))

    def solve(self, budget_bytes: int, allocator: str = "knapsack", limits: Limits | None = None,
              settings: Settings | None = None) -> Allocation:
        """The recipe of an allocator within a budget, by this predictor's table.

        Raises:
            InputError: the budget or the limits are impossible, or there is no such allocator.
        """
        return allocate(self.problem(budget_bytes, limits), allocator, settings)


def find_advisor(structure: Structure) -> Advisor | None:
    """The advisor of a model from the user's cache, else from what was shipped; None where there is none."""
    predictor = find_predictor(structure)
    return None if predictor is None else Advisor(predictor)
