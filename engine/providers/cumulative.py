"""Apple's mixed-bit signal (ml-stable-diffusion, mixed-bit palettization): layers quantized one after another.

As released: per width, every layer is palettized alone (one codebook per tensor), the latents after a single denoising
step are compared with full precision's (PSNR in dB with the peak of the changed latents, rounded to 0.1 dB, mean over
the prompts); then layers join in order of the damage each does alone, least first, and what is measured after a layer
joined is that layer's signal. Apple's rule for using it is `engine.allocate.baselines.threshold`. Where palettes save
nothing a layer stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.core.option import BITS, FP16, Option
from engine.core.recipe import Recipe, model_ref
from engine.core.record import Scores, Trust
from engine.core.sizes import sensible_options
from engine.live.apply import apply_all
from engine.live.cancel import Cancel, check_cancel
from engine.live.generate import pictures
from engine.live.model import Model
from engine.live.request import checked
from engine.providers.partial import Partial
from engine.providers.progress import Progress
from engine.providers.prompts import request_for, split_of

PROVIDER = "cumulative"
UNIT = "latent error over squared peak"
PALETTES = tuple(Option("kmeans_a", bits) for bits in BITS)
IMAGES = 8
STEPS = 1
DECIBELS = 1  # digits kept
ALONE, JOINED = "alone", "joined"


@dataclass(frozen=True, slots=True)
class Pass:
    """What the two passes measure.

    Attributes:
        options: one width each.
        images: prompts of the calibration part.
        steps: of the sampler.
    """

    options: tuple[Option, ...] = PALETTES
    images: int = IMAGES
    steps: int = STEPS


def cumulative(model: Model, plan: Pass | None = None, *, partial: Path | None = None, cancel: Cancel | None = None,
               command: str = "") -> Iterator[Progress | Scores]:
    """Progress, then the scores: damage = 10^(-dB / 10) of a layer's cumulative signal.

    Raises:
        StudyError: `partial` belongs to another run.
        Cancelled: the caller asked for it; what was measured is in `partial`.
    """
    plan = plan or Pass()
    request = request_for(split_of(model), "calibration", plan.images, steps=plan.steps)
    request = checked(request, model.limits)
    about = {"images": str(plan.images), "steps": str(plan.steps), "prompts": split_of(model).hash,
             "part": "calibration", "guidance": str(request.guidance)}
    kept = Partial(partial, {"version": 1, "model": model.structure.identity, **about})
    known = {(r["pass"], r["option"], r["layer"]): float(r["db"]) for r in kept.records}
    layers = {option: _layers(model, option) for option in plan.options}
    total, begin, measured = 2 * sum(map(len, layers.values())), time.perf_counter(), 0
    full: Tensor | None = None
    for option, names in layers.items():
        alone = {name: {name: option} for name in names}
        for kind in (ALONE, JOINED):
            wanted = alone if kind == ALONE else _joined(
                names, {n: known[ALONE, str(option), n] for n in names}, option)
            for name, options in wanted.items():
                key = kind, str(option), name
                if key in known:
                    continue
                check_cancel(cancel)
                full = _latents(model, {}, request, cancel) if full is None else full
                known[key] = decibels(full, _latents(model, options, request, cancel))
                kept.add({"pass": kind, "option": str(option), "layer": name, "db": known[key]})
                measured += 1
                left = (time.perf_counter() - begin) / measured * (total - len(known))
                yield Progress(f"{kind} {name} at {option}", len(known), total, left)
    damage: dict[str, dict[str, float]] = {layer.name: {} for layer in model.structure.choices}
    for (kind, option_text, name), value in known.items():
        if kind == JOINED:
            damage[name][option_text] = 10 ** (-value / 10)
    for row in damage.values():
        if not row:
            row[str(FP16)] = 0.0
    trust = Trust(images=plan.images, note="Layers join one after another; a layer's damage holds those before it.")
    yield Scores(PROVIDER, model.structure.identity, UNIT, damage, {}, trust, command,
                 {**about, "evaluations": str(total)})


def decibels(full: Tensor, changed: Tensor) -> float:
    """20 log10(max |changed| / RMSE) of latents [M, ...], rounded to 0.1 dB, mean over M; 0 error is 200 dB."""
    a, b = full.double().flatten(1), changed.double().flatten(1)
    error, peak = (a - b).square().mean(1).sqrt(), b.abs().amax(1)
    each = 20 * torch.log10(peak.clamp(min=1e-30) / error.clamp(min=1e-10 * peak.clamp(min=1e-30)))
    return float(sum(round(float(v), DECIBELS) for v in each) / len(each))


def _layers(model: Model, option: Option) -> list[str]:
    bits = model.structure.precision_bits
    return [layer.name for layer in model.structure.choices if option in sensible_options(layer, bits)]


def _joined(names: Sequence[str], alone: dict[str, float], option: Option) -> dict[str, dict[str, Option]]:
    """Layer -> the recipe right after it joined; those that hurt least join first."""
    order = sorted(names, key=lambda n: -alone[n])
    return {name: dict.fromkeys(order[:i + 1], option) for i, name in enumerate(order)}


def _latents(model: Model, options: dict[str, Option], request: Any, cancel: Cancel | None) -> Tensor:
    apply_all(model, Recipe(model_ref(model.structure), options), cancel=cancel)
    made = pictures(model, request, cancel=cancel, record_latents=True)
    return torch.stack([p.latents[-1] for p in made if p.latents is not None])
