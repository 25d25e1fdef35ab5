"""What a fitted ensemble says of a recipe, with its uncertainty; nothing where no predictor of the model was found."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.core.errors import EngineError
from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref
from engine.core.sizes import recipe_bytes
from explorer.context import OpenModel
from explorer.gauge import LEARNED, Gauge, gauge_of

if TYPE_CHECKING:
    from engine.advisor import Advisor, Forecast

KEPT = 256
ADVISORS = 3


@dataclass
class Forecaster:
    """Loads a model's predictor once, when it is first asked, and keeps its answers."""

    _advisors: OrderedDict[tuple[str, int], Advisor | None] = field(default_factory=OrderedDict)
    _known: OrderedDict[tuple[str, int, str], dict[str, Any]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forecast(self, model: OpenModel, options: Mapping[str, Option]) -> dict[str, Any] | None:
        """The forecast of a recipe as the page shows it; None where there is no predictor of this model.

        A `fit` writes the predictor and its table together, so that torch is loaded only where it is needed.
        """
        scores = model.backend.scores
        if LEARNED not in scores:
            return None
        recipe = Recipe(model_ref(model.structure), dict(options))
        learned = scores[LEARNED]
        fitted = hash((frozenset(learned.about.items()), learned.trust))  # another fit is another predictor
        key = (model.structure.identity, fitted, recipe.hash)
        with self._lock:
            if key not in self._known:
                try:
                    advisor = self._advisor(model, key[:2])
                    found = advisor.forecast([recipe])[0] if advisor else None
                except EngineError:  # it was fitted to options this recipe does not use, or to another version
                    found = None
                if found is None:
                    return None
                self._known[key] = shown(found, gauge_of(learned), recipe_bytes(model.structure, options),
                                         learned.trust.trials)
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            return self._known[key]

    def _advisor(self, model: OpenModel, key: tuple[str, int]) -> Advisor | None:
        if key not in self._advisors:
            from engine.advisor import find_advisor

            self._advisors[key] = find_advisor(model.structure)
            while len(self._advisors) > ADVISORS:
                self._advisors.popitem(last=False)
        return self._advisors[key]


def shown(found: Forecast, gauge: Gauge, size: int, trials: int) -> dict[str, Any]:
    """A forecast as the page's figures take it: text, words, and the bytes of the recipe it is of."""
    half = (found.high - found.low) / 2
    digits = 1 if half >= 0.1 else 3
    unit = f" {gauge.unit}" if gauge.unit else ""
    beyond = len(found.unsupported)
    of = f"{gauge.title}, predicted by the ensemble fitted to {trials} trials: {found.mean:.{digits}f}{unit}"
    if found.beyond:
        text = f"≈ {found.mean:.{digits}f}{unit}"
        words = (f"{of}. No trial of this size came near that: it is extrapolated, and as a rule too high; trials near "
                 f"the best recipes (`evidence --near`) make it sure.")
    else:
        text = f"{found.mean:.{digits}f} ± {half:.{digits}f}{unit}"
        words = f"{of}, 95 % between {found.low:.{digits}f} and {found.high:.{digits}f}."
    if beyond:
        words += f" Extrapolated: {beyond} layers hold an option that hardly any trial held."
    return {"bytes": size, "text": text, "title": words, "extrapolated": bool(beyond or found.beyond)}
