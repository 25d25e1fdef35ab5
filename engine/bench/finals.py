"""Pictures of recipes on the final prompts and seeds, against full precision, which is generated once."""

from __future__ import annotations

from engine.core.errors import InputError
from engine.core.recipe import Recipe, model_ref
from engine.live.apply import applied
from engine.live.cancel import Cancel
from engine.live.generate import Picture, generate
from engine.live.model import Model
from engine.metrics.bootstrap import difference_interval
from engine.metrics.compare import Reference, compare, per_image
from engine.metrics.features import find_extractor
from engine.providers.prompts import request_for, split_of

PART = "final"
SHOWN = ("psnr", "ssim", "feature_distance", "kernel_distance")  # columns of a table of recipes
PAIRED = ("psnr", "feature_distance")  # metrics with a value per image, so that rows are compared image by image

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


def enough(images: int) -> None:
    """Refuse a table without intervals.

    Raises:
        InputError: fewer than two pictures a row.
    """
    if images < 2:
        raise InputError(f"A comparison needs at least two pictures per row, got {images}.")


def cells(metrics: Metrics) -> dict[str, str]:
    """The shown metrics of a row, each with its interval."""
    return {name: f"{value:.4g} [{low:.4g}, {high:.4g}]" for name, (value, low, high) in metrics.items()
            if name.partition("[")[0] in SHOWN}


def difference(images: Images, others: Images | None, metric: str) -> str:
    """Mean difference image by image with its 95 % interval; "" where there is nothing to compare with.

    Args:
        images, others: of two rows, see `Finals.of`.
        metric: without its feature extractor, one of `PAIRED`.
    """
    name = next((n for n in images if n.partition("[")[0] == metric), "")
    if others is None or name not in others:
        return ""
    mean, low, high = difference_interval(images[name], others[name])
    return f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"
