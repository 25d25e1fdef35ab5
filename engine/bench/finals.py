"""Pictures of recipes on the final prompts and seeds, against full precision, which is generated once."""

from __future__ import annotations

from engine.core.recipe import Recipe, model_ref
from engine.live.apply import applied
from engine.live.cancel import Cancel
from engine.live.generate import Picture, generate
from engine.live.model import Model
from engine.metrics.compare import Reference, compare, per_image
from engine.metrics.features import find_extractor
from engine.providers.prompts import request_for, split_of

PART = "final"

Metrics = dict[str, tuple[float, float, float]]  # name -> value and its 95 % interval
Images = dict[str, tuple[float, ...]]  # name -> values image by image, for paired differences


class Finals:
    """`count` final pictures of any recipe of one model, which has its own recipe back afterwards."""

    def __init__(self, model: Model, count: int, steps: int | None = None, cancel: Cancel | None = None) -> None:
        self._model, self._cancel = model, cancel
        self._request = request_for(split_of(model), PART, count, steps=steps)
        self._reference: Reference | None = None

    def of(self, recipe: Recipe) -> tuple[Metrics, Images]:
        """Metrics of a recipe, together and image by image.

        Raises:
            Cancelled: the caller asked for it.
        """
        if self._reference is None:
            with applied(self._model, Recipe(model_ref(self._model.structure), {})):
                self._reference = Reference(self._pictures(), find_extractor(self._model.directory))
        with applied(self._model, recipe):
            made = self._pictures()
        return ({m.name: (m.value, m.low, m.high) for m in compare(self._reference, made)},
                {k: tuple(map(float, v)) for k, v in per_image(self._reference, made).items()})

    def _pictures(self) -> list[Picture]:
        events = generate(self._model, self._request, cancel=self._cancel, exact=True)
        return [e for e in events if isinstance(e, Picture)]
