"""Error per layer and sampling step under a recipe: relative output error of every layer, along full-precision
trajectories.

At each step both models are given the same denoiser input, so the numbers say what the recipe does within one call;
errors of earlier layers reach later ones. What adds up over steps is in the row of the latents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.calibrate.capture import (
    Call,
    Captured,
    CapturePlan,
    calibration_request,
    capture,
    check_captured,
    run_call,
)
from engine.calibrate.looking import first_tensor, looking
from engine.core.layer import Layer
from engine.core.recipe import Recipe, check, model_ref
from engine.live.apply import applied, apply_all
from engine.live.cancel import Cancel, check_cancel
from engine.live.generate import pictures
from engine.live.model import Model
from engine.providers.progress import Progress

IMAGES = 4
HELD_BYTES = 1_000_000_000  # full-precision outputs held at once


@dataclass(frozen=True)
class StepErrors:
    """Relative squared errors sum (y - y')^2 / sum y^2 over pictures.

    Attributes:
        model: identity of the model.
        recipe: hash of the recipe.
        timesteps: per step, T.
        layers: names in forward order, L; halves of a split layer share their common output.
        values: [L][T], output error; 0 where a layer's output is zero.
        output: [T], of the denoiser's own output, same inputs.
        latents: [T], of the latents after each step when both models sample on their own from the same noise.
        images: pictures.
        about: what determines the numbers.
    """

    model: str
    recipe: str
    timesteps: tuple[float, ...]
    layers: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    output: tuple[float, ...]
    latents: tuple[float, ...]
    images: int
    about: dict[str, str] = field(default_factory=dict)


def step_errors(model: Model, recipe: Recipe, *, captured: Captured | None = None, images: int = IMAGES,
                steps: int | None = None, cancel: Cancel | None = None) -> Iterator[Progress | StepErrors]:
    """Measure a recipe; ends with `StepErrors`. The recipe that was applied before is applied again at the end.

    Args:
        model: any recipe may be applied.
        recipe: to measure, weights and activations.
        captured: full-precision trajectories; None = captured now, on calibration prompts.
        images, steps: of the trajectories to capture; without effect on `captured`.
        cancel: asked at every call.

    Raises:
        RecipeError: the recipe does not fit the model.
        StoreError: the trajectories are of another model.
        Cancelled: the caller asked for it.
    """
    check(model.structure, recipe)
    with applied(model, Recipe(model_ref(model.structure), {}), cancel=cancel):
        if captured is None:
            for event in capture(model, CapturePlan(images=images, steps=steps), cancel=cancel):
                if isinstance(event, Captured):
                    captured = event
                else:
                    yield event
        assert captured is not None
        check_captured(captured, model)
        sums = _Sums(len(captured.timesteps))
        begun, total = time.perf_counter(), len(captured.timesteps)
        for group in _groups(model, captured):
            yield from _compare(model, recipe, captured, group, sums, cancel)
            done = group[-1] + 1
            yield Progress(f"{recipe.hash} at step {group[-1]}", done, total,
                           (time.perf_counter() - begun) / done * (total - done))
        latents = _latents(model, recipe, captured, cancel)
    names = tuple(layer.name for layer in model.structure.layers if layer.name in sums.power)
    values = tuple(tuple(sums.relative(name)) for name in names)
    yield StepErrors(model.structure.identity, recipe.hash, captured.timesteps, names, values,
                     tuple(sums.relative("")), latents, captured.images, dict(captured.about))


class _Sums:
    """Sums of squared errors and of squares per layer and step; "" is the denoiser's own output."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.error: dict[str, Tensor] = {}
        self.power: dict[str, Tensor] = {}

    def add(self, name: str, step: int, full: Tensor, other: Tensor) -> None:
        for table in (self.error, self.power):
            table.setdefault(name, torch.zeros(self._steps, dtype=torch.float64))
        self.error[name][step] += float((other.float() - full.float()).square().sum())
        self.power[name][step] += float(full.float().square().sum())

    def relative(self, name: str) -> list[float]:
        power = self.power[name]
        ratio = torch.where(power > 0, self.error[name] / power, torch.zeros_like(power))
        return [float(x) for x in ratio]


class _Looked:
    """Outputs of one call by layer and run, in order of execution."""

    def __init__(self) -> None:
        self.outputs: dict[tuple[str, int], Tensor] = {}

    def take(self, layer: Layer, x: Tensor) -> None:
        run = 0
        while (layer.name, run) in self.outputs:
            run += 1
        self.outputs[layer.name, run] = x.detach().clone()

    def of(self, model: Model, call: Call) -> dict[tuple[str, int], Tensor]:
        """All outputs of a call; the denoiser's own under the empty name."""
        self.outputs = {}
        result = run_call(model, call)
        own = result[0] if isinstance(result, (tuple, list)) else next(iter(result.values()))
        return {**self.outputs, ("", 0): first_tensor(own).detach().clone()}


def _compare(model: Model, recipe: Recipe, captured: Captured, steps: list[int], sums: _Sums,
             cancel: Cancel | None) -> Iterator[Progress]:
    """Full precision on all calls of these steps, then the recipe on the same."""
    looked = _Looked()
    apply_all(model, Recipe(model_ref(model.structure), {}), cancel=cancel)
    with looking(model, model.structure.layers, outputs=looked.take):
        full = []
        for call in captured.calls(steps, model.device):
            check_cancel(cancel)
            full.append(looked.of(model, call))
        apply_all(model, recipe, cancel=cancel)
        for call, expected in zip(captured.calls(steps, model.device), full, strict=True):
            check_cancel(cancel)
            for key, other in looked.of(model, call).items():
                sums.add(key[0], call.step, expected[key], other)
            yield Progress(f"{recipe.hash} at step {call.step}", call.step, len(captured.timesteps))
    apply_all(model, Recipe(model_ref(model.structure), {}), cancel=cancel)


def _groups(model: Model, captured: Captured) -> list[list[int]]:
    """Steps that are compared together, as many as the held outputs of full precision allow."""
    looked = _Looked()
    first = next(captured.calls([0], model.device))
    with looking(model, model.structure.layers, outputs=looked.take):
        held = sum(x.nbytes for x in looked.of(model, first).values())
    calls = sum(1 for _ in captured.calls([0]))
    at_once = max(1, HELD_BYTES // max(held * calls, 1))
    steps = list(range(len(captured.timesteps)))
    return [steps[i:i + at_once] for i in range(0, len(steps), at_once)]


def _latents(model: Model, recipe: Recipe, captured: Captured, cancel: Cancel | None) -> tuple[float, ...]:
    """Relative error of the latents after each step, both models on their own."""
    about = captured.about
    plan = CapturePlan(captured.images, int(about["first"]), int(about["steps"]), float(about["guidance"]),
                       batch=int(about["batch"]))
    request = calibration_request(model, plan)
    wanted = replace(request, scheduler=about["scheduler"] if about["scheduler"] in model.limits.schedulers else "")
    runs = []
    for one in (Recipe(model_ref(model.structure), {}), recipe):
        apply_all(model, one, cancel=cancel)
        made = pictures(model, wanted, cancel=cancel, record_latents=True, batch=plan.batch)
        runs.append(torch.stack([p.latents for p in made if p.latents is not None]).double())
    full, other = runs
    error, power = ((x.square().transpose(0, 1).flatten(1).sum(1)) for x in (other - full, full))
    return tuple(float(x) for x in error / power.clamp(min=torch.finfo(torch.float64).tiny))
