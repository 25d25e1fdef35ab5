"""Gram matrices of every layer at uniformly chosen sampling steps, streamed over captured trajectories, resumable.

The samples of one Gram matrix are the pictures at one step (steps are never mixed), the prompts' half of guidance only.
A batch that holds all pictures is reduced at once; where pictures come in several batches, features wait for the rest,
folded by a seeded sketch where they are too many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine.calibrate.capture import Call, Captured, CapturePlan, capture, check_captured, run_call
from engine.calibrate.correlation import MIN_SAMPLES, SKETCH_FEATURES, features, gram, sketch
from engine.calibrate.files import Folder
from engine.calibrate.importance import uniform_steps
from engine.calibrate.looking import looking
from engine.core.errors import InputError
from engine.core.layer import Layer
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model
from engine.providers.progress import Progress

PROFILED = 10
OUTPUT, INPUT = "output", "input"
WAITING_BYTES = 1 << 30  # of features that wait for other batches, over all layers


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What to profile.

    Attributes:
        capture: the trajectories.
        profiled: K, how many steps; 0 = 10, or as many as there are.
        features: what of a layer is compared, "output" or "input".

    Raises:
        InputError: unknown features, or fewer than 0 steps.
    """

    capture: CapturePlan = field(default_factory=CapturePlan)
    profiled: int = 0
    features: str = OUTPUT

    def __post_init__(self) -> None:
        if self.features not in (OUTPUT, INPUT) or self.profiled < 0:
            raise InputError(f"Layers are compared by {OUTPUT} or {INPUT} at 1 or more steps, got "
                             f"{str(self.features)[:40]!r} at {self.profiled}.")


@dataclass(frozen=True, eq=False)
class Profile:
    """Gram matrices.

    Attributes:
        model: identity of the model.
        rows: what is compared, in forward order: modules by path, or layers where inputs are compared.
        steps, timesteps: profiled, per T.
        grams: float64 [T, R, n, n]; zero for a row that did not run.
        missing: rows that never ran.
        prompts: distinct prompts; 0 where the model takes none.
        about: what determines the numbers.
    """

    model: str
    rows: tuple[str, ...]
    steps: tuple[int, ...]
    timesteps: tuple[float, ...]
    grams: Tensor
    missing: tuple[str, ...]
    prompts: int
    about: dict[str, str]


def row_of(layer: Layer, compared: str) -> str:
    """The row a layer belongs to: halves of a split layer have one output, but inputs of their own."""
    return layer.module if compared == OUTPUT else layer.name


def profile(model: Model, plan: ProfilePlan | None = None, *, directory: Path | None = None,
            cancel: Cancel | None = None) -> Iterator[Progress | Profile]:
    """Capture trajectories and take Gram matrices at K steps; ends with `Profile`.

    Args:
        model: usually in full precision.
        plan: see `ProfilePlan`.
        directory: keeps trajectories and finished steps, so that the same call goes on after an interruption.
        cancel: asked at every call of the denoiser.

    Raises:
        InputError: too few pictures, prompts or steps; the plan is out of range.
        StoreError: the directory was begun with another model or plan.
        Cancelled: the caller asked for it.
    """
    plan = plan or ProfilePlan()
    least = MIN_SAMPLES[True]
    if plan.capture.images < least:
        raise InputError(f"Cross-layer correlation needs at least {least} pictures (64 are usual), got "
                         f"{plan.capture.images}.")
    captured: Captured | None = None
    for event in capture(model, plan.capture, directory=directory and directory / "trajectories", cancel=cancel):
        if isinstance(event, Captured):
            captured = event
        else:
            yield event
    assert captured is not None
    yield from profile_captured(model, captured, plan, directory=directory and directory / "grams", cancel=cancel)


def profile_captured(model: Model, captured: Captured, plan: ProfilePlan, *, directory: Path | None = None,
                     cancel: Cancel | None = None) -> Iterator[Progress | Profile]:
    """As `profile`, on trajectories that are at hand."""
    check_captured(captured, model)
    if captured.prompts == 1:
        raise InputError(f"All {captured.images} calibration pictures have the same prompt, so layers that see only "
                         f"the prompt never vary; use several prompts.")
    steps = len(captured.timesteps)
    chosen = uniform_steps(steps, plan.profiled or min(PROFILED, steps))
    about = {**captured.about, "profiled": str(len(chosen)), "features": plan.features}
    folder = Folder(directory, {"model": model.structure.identity, **about})
    layers = list(model.structure.choices)
    rows = tuple(dict.fromkeys(row_of(layer, plan.features) for layer in layers))
    begun, made = time.perf_counter(), 0
    for index, step in enumerate(chosen):
        name = f"step-{step:04d}"
        if not folder.has(name):
            found = _grams(model, captured, step, layers, plan.features, cancel)
            nothing = torch.zeros(captured.images, captured.images, dtype=torch.float64)
            grams = torch.stack([found.get(row, nothing) for row in rows])
            folder.save(name, {"grams": grams}, {"rows": [row for row in rows if row in found]})
            made += 1
        left = (time.perf_counter() - begun) / max(made, 1) * (len(chosen) - index - 1)
        yield Progress(f"correlation at step {step}", index + 1, len(chosen), left)
    parts = [folder.load(f"step-{step:04d}") for step in chosen]
    ran = {row for _, rest in parts for row in rest["rows"]}
    yield Profile(
        captured.model, rows, chosen, tuple(captured.timesteps[s] for s in chosen),
        torch.stack([tensors["grams"] for tensors, _ in parts]), tuple(r for r in rows if r not in ran),
        captured.prompts, about)


def _grams(model: Model, captured: Captured, step: int, layers: list[Layer], compared: str,
           cancel: Cancel | None) -> dict[str, Tensor]:
    """Row -> Gram matrix float64 [n, n] at one step."""
    collector = _Collector(captured.images, compared, len(layers))
    watched = {row_of(layer, compared): layer for layer in reversed(layers)}.values()  # one of the halves of an output
    hooks = {"outputs" if compared == OUTPUT else "inputs": collector.take}
    with looking(model, watched, **hooks):
        for call in captured.calls([step], model.device):
            check_cancel(cancel)
            if len(call.conditional):
                collector.call, collector.runs = call, {}
                run_call(model, call)
    found = collector.finished()
    if not found:
        raise InputError(f"No quantizable layer ran at step {step}, so there is nothing to correlate; open the model "
                         f"again.")
    return found


class _Collector:
    """Sums Gram matrices of whole batches at once, and keeps features of partial ones."""

    def __init__(self, images: int, compared: str, layers: int) -> None:
        self.call: Call | None = None
        self.runs: dict[str, int] = {}
        self._images, self._compared = images, compared
        self._limit = max(SKETCH_FEATURES, WAITING_BYTES // layers // (4 * images))
        self._grams: dict[str, Tensor] = {}
        self._waiting: dict[tuple[str, int], list[Tensor]] = {}

    def take(self, layer: Layer, x: Tensor) -> None:
        call, row = self.call, row_of(layer, self._compared)
        assert call is not None
        run = self.runs[row] = self.runs.get(row, -1) + 1
        if len(x) % call.rows:
            # the same for all pictures (a position or time embedding computed once): it does not vary
            flat = torch.zeros(len(call.images), 1)
        else:
            rows = x.reshape(call.rows, -1)[call.conditional.start:call.conditional.stop]
            flat = rows.detach().float()
        if len(call.images) == self._images:
            self._add(row, flat)
        else:
            kept = flat if flat.shape[1] <= self._limit else sketch(flat, row)
            self._waiting.setdefault((row, run), []).append(kept.cpu())

    def finished(self) -> dict[str, Tensor]:
        for (row, _), parts in self._waiting.items():
            self._add(row, torch.cat(parts))
        self._waiting.clear()
        return self._grams

    def _add(self, row: str, flat: Tensor) -> None:
        found = gram(features(flat))
        self._grams[row] = self._grams[row] + found if row in self._grams else found
