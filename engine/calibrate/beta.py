"""Choosing a free constant by calibration loss: one recipe per value, the one whose pictures err least wins.

OMPQ's beta has no published rule (its scripts set 1e-9 to 100 by hand); values are compared on calibration prompts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.calibrate.capture import CapturePlan, calibration_request
from engine.core.errors import InputError
from engine.core.recipe import Recipe, model_ref
from engine.live.apply import applied, apply_all
from engine.live.cancel import Cancel, check_cancel
from engine.live.generate import pictures
from engine.live.model import Model
from engine.live.request import Request
from engine.metrics.paired import mse, stack
from engine.providers.progress import Progress

BETAS = (0.1, 1.0, 3.0, 10.0, 30.0)
IMAGES = 16


@dataclass(frozen=True)
class Choice:
    """The value that was chosen.

    Attributes:
        value: of least loss; of equals the first.
        losses: value -> mean squared image error on [0, 1] RGB against full precision.
        images: pictures each was judged on.
    """

    value: float
    losses: dict[float, float]
    images: int


def choose(model: Model, recipes: Mapping[float, Recipe], *, images: int = IMAGES, first: int = 0,
           cancel: Cancel | None = None) -> Iterator[Progress | Choice]:
    """Measure one recipe per value; ends with `Choice`. Equal recipes are measured once.

    Args:
        model: the recipe that was applied is applied again at the end.
        recipes: value -> recipe, all within the same budget.
        images: calibration pictures.
        first: index of the first, to judge by other pictures than the scores were made from.
        cancel: asked at every denoising step.

    Raises:
        InputError: no values.
        Cancelled: the caller asked for it.
    """
    if not recipes:
        raise InputError("There are no values to choose from; name at least one.")
    request = calibration_request(model, CapturePlan(images=images, first=first))
    begun = time.perf_counter()
    by_hash: dict[str, float] = {}
    losses: dict[float, float] = {}
    with applied(model, Recipe(model_ref(model.structure), {}), cancel=cancel):
        full = _images(model, request, cancel)
        for index, (value, recipe) in enumerate(recipes.items()):
            check_cancel(cancel)
            if recipe.hash not in by_hash:
                apply_all(model, recipe, cancel=cancel)
                by_hash[recipe.hash] = float(mse(full, _images(model, request, cancel)).mean())
            losses[value] = by_hash[recipe.hash]
            left = (time.perf_counter() - begun) / (index + 1) * (len(recipes) - index - 1)
            yield Progress(f"value {value:g}", index + 1, len(recipes), left)
    yield Choice(min(losses, key=losses.__getitem__), losses, request.count)


def _images(model: Model, request: Request, cancel: Cancel | None) -> Tensor:
    made: list[Any] = pictures(model, request, cancel=cancel, exact=True)
    return stack(made)
