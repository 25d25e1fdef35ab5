"""Recipes measured on fixed unseen images, one record each, kept as they come: a killed run loses one recipe.

Full precision's images are made only when some recipe is still missing, so a finished file is read in no time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import StudyError
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import FP16
from engine.core.recipe import Recipe, model_ref
from engine.core.record import Metric
from engine.core.sizes import recipe_bytes
from engine.live.apply import apply_all
from engine.live.arithmetic import exact_arithmetic
from engine.live.cancel import Cancel, check_cancel
from engine.live.generate import pictures
from engine.live.model import Model
from engine.live.request import Request, checked
from engine.metrics.bootstrap import mean_metric
from engine.metrics.compare import PAIRED, Compared, Reference, compared, floor
from engine.metrics.features import find_extractor
from engine.metrics.paired import mse, psnr, stack
from engine.providers.partial import Partial
from engine.providers.progress import Progress
from engine.providers.prompts import request_for, split_of

VERSION = 1
DIGITS = 5  # of the values kept per image
FULL = "full precision, same prompts, other seeds"  # the record of the floor


@dataclass(frozen=True, slots=True)
class Setting:
    """Which images.

    Attributes:
        part: of the prompts; "final" is seen by nothing else.
        images: how many.
        steps: of the sampler; None is the model's own number.
        batch: images made together; None as in `generate`.
        brief: only PSNR and squared error of the images, which choosing among recipes needs; else everything.
        with_floor: also measure full precision against itself on other seeds.
        first: index of the first image of the part.
    """

    part: str
    images: int
    steps: int | None = None
    batch: int | None = None
    brief: bool = False
    with_floor: bool = False
    first: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one recipe.

    Attributes:
        recipe: its hash; `FULL` for the floor.
        bytes: stored bytes of the quantizable layers.
        options: choice name -> option text.
        metrics: with n and 95 % interval.
        images: name of a paired metric -> its value of every image.
        seconds: what measuring took.
        left_out: name of a distance between sets -> its values with one group of images left out at a time, which
            differences between recipes are made of.
    """

    recipe: str
    bytes: int
    options: dict[str, str]
    metrics: tuple[Metric, ...]
    images: dict[str, tuple[float, ...]]
    seconds: float
    left_out: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def metric(self, name: str) -> Metric | None:
        """A metric by its name, with or without the extractor in brackets."""
        return next((m for m in self.metrics if m.name == name or m.name.partition("[")[0] == name), None)


class Gauge:
    """Measures recipes of one open model under one setting."""

    def __init__(self, model: Model, path: Path | None, setting: Setting) -> None:
        """Open or begin the file of results (None: in memory).

        Raises:
            StudyError: the file belongs to another model or setting.
        """
        self.setting = setting
        self._model = model
        self._split = split_of(model)
        self._request = self._asked(first=0)
        self._reference: Reference | None = None
        self._kept = Partial(path, self._head())
        self.results: dict[str, Result] = {r.recipe: r for r in map(_from_record, self._kept.records)}

    def measure(self, recipes: Sequence[Recipe], doing: str = "measuring",
                cancel: Cancel | None = None) -> Iterator[Progress]:
        """Measure what is missing; one record of progress per recipe, the last one's `index` equals its `of`.

        Raises:
            Cancelled: the caller asked for it; what was measured is kept.
            StudyError: the disk is full.
        """
        todo = list({r.hash: r for r in recipes if r.hash not in self.results}.values())
        wanted: list[Recipe | None] = [*todo]
        if self.setting.with_floor and FULL not in self.results:
            wanted.insert(0, None)
        known = len({r.hash for r in recipes}) - len(todo)
        begin = time.perf_counter()
        for number, recipe in enumerate(wanted):
            check_cancel(cancel)
            result = self._floor(cancel) if recipe is None else self._look(recipe, cancel)
            self._kept.add(to_json(result))
            self.results[result.recipe] = result
            left = (time.perf_counter() - begin) / (number + 1) * (len(wanted) - number - 1)
            yield Progress(doing, known + number + 1, known + len(wanted), left)

    @property
    def steps(self) -> int:
        """Of the sampler, per image."""
        steps = self._request.steps
        assert steps is not None, "a checked request says its steps"
        return steps

    def __getitem__(self, recipe: Recipe) -> Result:
        """The result of a measured recipe."""
        return self.results[recipe.hash]

    def _look(self, recipe: Recipe, cancel: Cancel | None) -> Result:
        start = time.perf_counter()
        full = self._full(cancel)
        apply_all(self._model, recipe, cancel=cancel)
        made = self._pictures(self._request, cancel)
        structure = self._model.structure
        found = _errors(full, made) if self.setting.brief else compared(full, made)
        return Result(recipe.hash, recipe_bytes(structure, recipe.options),
                      {layer.name: str(recipe.options.get(layer.name, FP16)) for layer in structure.choices},
                      tuple(found.metrics), _rounded(found.per_image), time.perf_counter() - start,
                      _rounded(found.left_out))

    def _floor(self, cancel: Cancel | None) -> Result:
        start = time.perf_counter()
        full = self._full(cancel)
        apply_all(self._model, Recipe(model_ref(self._model.structure), {}), cancel=cancel)
        # the same prompts: other ones differ by more than chance
        seeds = self._asked(first=self.setting.images).seeds
        other = self._pictures(replace(self._request, seeds=seeds), cancel)
        return Result(FULL, recipe_bytes(self._model.structure, {}), {}, tuple(floor(full, other)), {},
                      time.perf_counter() - start)

    def _full(self, cancel: Cancel | None) -> Reference:
        if self._reference is None:
            apply_all(self._model, Recipe(model_ref(self._model.structure), {}), cancel=cancel)
            brief = self.setting.brief
            extractor = None if brief else find_extractor(self._model.directory, self._model.device)
            self._reference = Reference(self._pictures(self._request, cancel), extractor)
        return self._reference

    def _pictures(self, request: Request, cancel: Cancel | None) -> list[Any]:
        with exact_arithmetic():
            return pictures(self._model, request, cancel=cancel, record_latents=not self.setting.brief, exact=True,
                            batch=self.setting.batch)

    def _asked(self, first: int) -> Request:
        wanted = request_for(self._split, self.setting.part, self.setting.images, first=self.setting.first + first,
                             steps=self.setting.steps)
        return checked(wanted, self._model.limits)

    def _head(self) -> dict[str, Any]:
        """What determines the numbers."""
        request = self._request
        brief = {"brief": True} if self.setting.brief else {}
        where = {"first": self.setting.first} if self.setting.first else {}  # files of the first images stay valid
        return {**brief, **where, "version": VERSION, "identity": self._model.structure.identity,
                "part": self.setting.part,
                "images": self.setting.images, "split": self._split.hash, "steps": request.steps,
                "guidance": request.guidance, "height": request.height, "width": request.width}


def _errors(full: Reference, made: Sequence[Any]) -> Compared:
    """The two metrics of a brief look, and their values per image."""
    images = stack(made)
    values = {"psnr": psnr(full.images, images), "image_mse": mse(full.images, images)}
    return Compared([mean_metric(name, column, PAIRED[name][0], higher_is_better=PAIRED[name][1])
                     for name, column in values.items()], values, {})


def _rounded(values: dict[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(f"{v:.{DIGITS}g}") for v in column) for name, column in values.items()}


def _from_record(record: dict[str, Any]) -> Result:
    try:
        return from_json(Result, record)
    except ValueError as failure:
        raise StudyError(f"The file of measured recipes holds a broken record ({failure}); delete it.") from None
