"""The direct provider: quantize one block or one layer alone and measure what that does to latents and images.

Around full precision: damage is the error against the full-precision images. Around a uniform recipe: damage is how
much the error grows when this layer alone leaves it; negative where the layer is improved.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.core.errors import InputError, StudyError
from engine.core.option import FP16, Option, options_for, parse_option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.core.record import Scores, Trust
from engine.core.sizes import sensible_options
from engine.live.apply import applied, apply_all
from engine.live.cancel import Cancel, check_cancel
from engine.live.generate import pictures
from engine.live.model import Model
from engine.live.picture import Picture
from engine.live.request import Request, checked
from engine.metrics.paired import mse, psnr, stack
from engine.providers.partial import Partial
from engine.providers.progress import Progress
from engine.providers.prompts import request_for, split_of

PROVIDER = "measured"
UNIT, LATENT_UNIT = "image MSE", "relative squared latent error"
IMAGES = 16
STEPS_LOOKED_AT = 4
DEFAULT_OPTIONS = (Option("uaq", 3), Option("uaq", 4))
UNIFORM_4 = Option("uaq", 4)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        options: each layer and block is measured at each of these.
        levels: "layer" and block levels ("block", "stage", "unit").
        around: full precision (None) or uniform recipes of an option.
        images: how many images, on the calibration prompts.
        steps, guidance: None is the model's default.
        only: names of layers and blocks to measure; empty is all.
        batch: images made at once.
    """

    options: tuple[Option, ...] = DEFAULT_OPTIONS
    levels: tuple[str, ...] = ("block", "layer")
    around: tuple[Option | None, ...] = (None, UNIFORM_4)
    images: int = IMAGES
    steps: int | None = None
    guidance: float | None = None
    only: tuple[str, ...] = ()
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement.

    Attributes:
        around: "fp16" or the option of the uniform recipe around it.
        level: "base" (the uniform recipe itself), "layer", or the block's level.
        name: layer or block; "" for a base.
        option: what it was put to.
        image_mse: mean squared error of the images on [0, 1] RGB.
        psnr: mean PSNR of the images in dB.
        latent_error: sum (x - y)^2 / sum x^2 of the latents, mean over images, after the steps looked at.
    """

    around: str
    level: str
    name: str
    option: str
    image_mse: float
    psnr: float
    latent_error: tuple[float, ...]


@dataclass(frozen=True)
class _Task:
    around: Option | None
    level: str
    name: str
    option: Option
    layers: tuple[str, ...] = field(default=())

    @property
    def key(self) -> tuple[str, str, str, str]:
        return str(self.around or FP16), self.level, self.name, str(self.option)


def measure(model: Model, plan: Plan | None = None, *, partial: Path | None = None, cancel: Cancel | None = None,
            command: str = "") -> Iterator[Progress | Measured | Scores]:
    """Measure layers and blocks one at a time; ends with `Scores`, two per reference (images, latents).

    Progress and Measured alternate. Whatever was measured is in `partial` at once; the same call goes on from there.
    The recipe that was applied before is applied again at the end.

    Raises:
        StudyError: `partial` belongs to another run, or cannot be written.
        Cancelled: the caller asked for it.
    """
    plan = plan or Plan()
    tasks = _tasks(model, plan)
    request = _request(model, plan)
    about = _about(model, plan, request)
    kept = Partial(partial, {"version": 1, "model": model.structure.identity, **about})
    done = {(m.around, m.level, m.name, m.option): m for m in map(_from_record, kept.records)}
    todo = [task for task in tasks if task.key not in done]
    with applied(model, Recipe(model_ref(model.structure), {})):
        if todo:
            looker = _Looker(model, request, plan.batch, cancel)
            start = time.perf_counter()
        for index, task in enumerate(todo):
            check_cancel(cancel)
            found = looker.look(task)
            kept.add(asdict(found))
            done[task.key] = found
            left = (time.perf_counter() - start) / (index + 1) * (len(todo) - index - 1)
            yield found
            what = f"{task.name or 'uniform'} at {task.option}"
            yield Progress(what, len(tasks) - len(todo) + index + 1, len(tasks), left)
    for around in plan.around:
        records = [done[task.key] for task in tasks if task.around == around]
        yield from scores_of(records, model.structure.identity, about, command)


def scores_of(records: Iterable[Measured], identity: str, about: dict[str, str], command: str = "") -> Iterator[Scores]:
    """Two records from measurements around one reference: by image error, and by latent error over the steps."""
    records = list(records)
    if not records:
        return
    around = records[0].around
    base = next((r for r in records if r.level == "base"), None)
    suffix = "" if around == str(FP16) else "-" + around.replace("-", "")
    note = "One at a time: what layers do to each other is not in it."
    images = int(about["images"])
    for provider, unit, zero, value in (
        (PROVIDER + suffix, UNIT, base.image_mse if base else 0.0, lambda r: r.image_mse),
        (PROVIDER + suffix + "-latent", LATENT_UNIT, _mean(base.latent_error) if base else 0.0,
         lambda r: _mean(r.latent_error)),
    ):
        layers: dict[str, dict[str, float]] = {}
        blocks: dict[str, dict[str, float]] = {}
        for r in records:
            if r.level != "base":
                (layers if r.level == "layer" else blocks).setdefault(r.name, {})[r.option] = value(r) - zero
        extra = {"around": around, ("base_mse" if unit == UNIT else "base_latent"): repr(zero)}
        trust = Trust(images=images, note=note)
        yield Scores(provider, identity, unit, layers, blocks, trust, command, {**about, **extra})


class _Looker:
    """Generates under a task's recipe and compares with full precision."""

    def __init__(self, model: Model, request: Request, batch: int | None, cancel: Cancel | None) -> None:
        self._model, self._request, self._batch, self._cancel = model, request, batch, cancel
        self._bases: dict[Option | None, Recipe] = {None: Recipe(model_ref(model.structure), {})}
        full = self._pictures(self._bases[None])
        self._images = stack(full)
        steps = 0 if full[0].latents is None else len(full[0].latents)
        self._looked = sorted({round((k + 1) * steps / STEPS_LOOKED_AT) - 1 for k in range(STEPS_LOOKED_AT)} - {-1})
        self._latents = self._chosen(full)

    def look(self, task: _Task) -> Measured:
        if task.around not in self._bases:
            self._bases[task.around] = uniform(self._model.structure, task.around or FP16)
        recipe = self._bases[task.around].with_options(dict.fromkeys(task.layers, task.option))
        made = self._pictures(recipe)
        images, latents = stack(made), self._chosen(made)
        noise = (latents - self._latents).square().sum(-1) / self._latents.square().sum(-1)  # [M, steps looked at]
        return Measured(
            str(task.around or FP16), task.level, task.name, str(task.option),
            float(mse(self._images, images).mean()), float(psnr(self._images, images).mean()),
            tuple(float(x) for x in noise.mean(0)),
        )

    def _pictures(self, recipe: Recipe) -> list[Picture]:
        apply_all(self._model, recipe, cancel=self._cancel)
        return pictures(self._model, self._request, cancel=self._cancel, record_latents=True, exact=True,
                        batch=self._batch)

    def _chosen(self, made: Sequence[Picture]) -> torch.Tensor:
        return torch.stack([p.latents[self._looked].double().flatten(1) for p in made if p.latents is not None])


def _tasks(model: Model, plan: Plan) -> list[_Task]:
    """Bases first, then blocks, then layers; an option a layer cannot take, or that is none, is left out."""
    structure = model.structure
    known = {x.name for x in structure.choices} | {b.id for b in structure.blocks}
    unknown = [name for name in plan.only if name not in known]
    if unknown:
        raise InputError(f"{structure.model} has no layer or block called {unknown[0][:80]!r}.")
    units: list[tuple[str, str, tuple[str, ...]]] = []
    for level in plan.levels:
        if level == "layer":
            units += [("layer", x.name, (x.name,)) for x in structure.choices]
        else:
            units += [(level, b.id, tuple(dict.fromkeys(_choice(model, n) for n in b.layers)))
                      for b in structure.level(level)]
    wanted = [u for u in units if not plan.only or u[1] in plan.only]
    tasks = []
    for around in plan.around:
        if around:
            tasks.append(_Task(around, "base", "", around))
        tasks += [_Task(around, level, name, option, layers) for level, name, layers in wanted
                  for option in plan.options if option != (around or FP16) and layers and _takes(model, layers, option)]
    return tasks


def _choice(model: Model, layer: str) -> str:
    return model.structure.layer(layer).choice


def _takes(model: Model, layers: Iterable[str], option: Option) -> bool:
    precision = model.structure.precision_bits
    found = [model.structure.layer(name) for name in layers]
    return all(option.is_untouched or (option in options_for(x.kind) and option in sensible_options(x, precision))
               for x in found)


def _request(model: Model, plan: Plan) -> Request:
    request = request_for(split_of(model), "calibration", plan.images, steps=plan.steps, guidance=plan.guidance)
    return checked(request, model.limits)


def _about(model: Model, plan: Plan, request: Request) -> dict[str, str]:
    """Everything that determines the numbers."""
    split = split_of(model)
    return {
        "images": str(plan.images), "prompts": split.hash, "part": "calibration", "steps": str(request.steps),
        "guidance": str(request.guidance), "height": str(request.height), "width": str(request.width),
        "device": model.device.split(":")[0], "dtype": model.dtype, "threads": str(torch.get_num_threads()),
        "torch": torch.__version__, "machine": platform.machine(),
    }


def _from_record(record: dict[str, Any]) -> Measured:
    try:
        parse_option(record["option"])
        return Measured(**{**record, "latent_error": tuple(record["latent_error"])})
    except (KeyError, TypeError) as failure:
        raise StudyError(f"The file of measurements holds a broken record ({failure}); name another file.") from None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
