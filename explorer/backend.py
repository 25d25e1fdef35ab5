"""What a page asks of a model: a live one makes pictures, a structure alone shows graph, sizes and budgets.

All torch work is a generator that the device worker drains; nothing here runs at import, and a backend's
structure and scores are read without torch, so that the graph is on screen while the weights load behind it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from engine.core.errors import Cancelled, ModelError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import FP16, Option
from engine.core.placement import PLAIN, Placement
from engine.core.recipe import Recipe
from engine.core.record import Metric, Scores
from engine.providers.progress import Progress as Measured
from explorer.choices import choices_of, recipe_of
from explorer.state import Settings

CACHED_PICTURES = 96


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page must know to offer the right controls."""

    conditioning: str = "text"
    labels: int = 0
    schedulers: tuple[str, ...] = ()
    steps: int = 20
    guidance: float = 3.0
    height: int = 0
    width: int = 0
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands: what it does, and how far it is."""

    doing: str
    step: int
    of: int
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """Pictures of one recipe for the current settings; `latents` per picture as recorded, for latent SQNR. `warning`:
    one sentence, or ""."""

    recipe: str
    pictures: tuple[Any, ...]
    cached: bool
    seconds: float
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two sides and what was measured between them."""

    a: Made
    b: Made
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """How much of the difference in a region goes away when one block alone is restored (1 = all of it)."""

    block: str
    repair: float


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of one picture, in pixels."""

    index: int
    x: int
    y: int
    w: int
    h: int

    def cut(self, pixels: Any) -> Any:
        """That part of uint8 [H, W, 3]; at least one pixel."""
        return pixels[self.y : self.y + max(1, self.h), self.x : self.x + max(1, self.w)]


class Backend(Protocol):
    """What panels may ask for."""

    structure: Structure
    scores: Mapping[str, Scores]
    why_no_pictures: str

    def load(self, cancel: threading.Event) -> Iterator[Any]:
        """Load weights; ends with `Facts`."""

    def compare(
        self, a: Mapping[str, Option], b: Mapping[str, Option], settings: Settings, cancel: threading.Event
    ) -> Iterator[Any]:
        """Pictures of two recipes; yields Progress and ends with `Compared`."""

    def make(self, options: Mapping[str, Option], settings: Settings, cancel: threading.Event) -> Iterator[Any]:
        """Pictures of one recipe; yields Progress and ends with `Made`."""


class StructureBackend:
    """A model without weights: everything but pictures."""

    def __init__(self, structure: Structure, scores: Mapping[str, Scores], why: str) -> None:
        self.structure = structure
        self.scores = scores
        self.why_no_pictures = why

    def load(self, cancel: threading.Event) -> Iterator[Any]:
        """There is nothing to load."""
        yield Facts()

    def make(self, options: Mapping[str, Option], settings: Settings, cancel: threading.Event) -> Iterator[Any]:
        """Refused with the reason."""
        raise ModelError(self.why_no_pictures)
        yield

    def compare(
        self, a: Mapping[str, Option], b: Mapping[str, Option], settings: Settings, cancel: threading.Event
    ) -> Iterator[Any]:
        """Refused with the reason."""
        raise ModelError(self.why_no_pictures)
        yield


@dataclass
class LiveBackend:
    """A model with weights on one device. Its methods run on the device worker only."""

    source: str
    structure: Structure
    scores: Mapping[str, Scores]
    placement: Placement = PLAIN
    why_no_pictures: str = ""
    _model: Any = None
    _extractor: Any = None
    _made: OrderedDict[tuple[str, Settings], Made] = field(default_factory=OrderedDict)

    def load(self, cancel: threading.Event) -> Iterator[Any]:
        """Open the model once; yields Progress and ends with `Facts`."""
        if self._model is None:
            yield Progress("Loading the weights", 0, 1)
            from engine.live.model import open_model

            self._model = open_model(self.source, device=self.placement.device, dtype=self.placement.dtype,
                                     offload=self.placement.offload)
        limits = self._model.limits
        yield Facts(limits.conditioning, limits.labels, limits.schedulers, limits.steps, limits.guidance,
                    limits.height, limits.width, suggestions(self._model))

    def make(self, options: Mapping[str, Option], settings: Settings, cancel: threading.Event) -> Iterator[Any]:
        """Pictures of one recipe, from the cache where they were made before."""
        for event in self.load(cancel):
            if isinstance(event, Progress):
                yield event
        recipe = self.recipe(options)
        key = (recipe.hash, settings)
        if key in self._made:
            self._made.move_to_end(key)
            made = self._made[key]
            yield Made(made.recipe, made.pictures, True, made.seconds, made.warning)
            return
        from engine.live.schedules import other_scheduler

        start = time.perf_counter()
        yield from self._applying(recipe, cancel)
        pictures = yield from self._generating(settings, cancel, options)
        warning = other_scheduler(self._model, recipe, request_of(settings))
        made = Made(recipe.hash, tuple(pictures), False, time.perf_counter() - start, warning)
        self._made[key] = made
        while len(self._made) > CACHED_PICTURES:
            self._made.popitem(last=False)
        yield made

    def compare(
        self, a: Mapping[str, Option], b: Mapping[str, Option], settings: Settings, cancel: threading.Event
    ) -> Iterator[Any]:
        """Both sides, then what lies between them."""
        sides = []
        for options in (a, b):
            for event in self.make(options, settings, cancel):
                if isinstance(event, Made):
                    sides.append(event)
                yield event
        yield Compared(sides[0], sides[1], tuple(self._measured(sides[0], sides[1])))

    def restore(self, options: Mapping[str, Option], settings: Settings, region: Region,
                cancel: threading.Event) -> Iterator[Any]:
        """Restore each block alone to full precision and see how much of the difference in a region goes away.

        Yields Progress, then one `Restored` per block, the most helpful first.
        """
        one = single(settings, region.index)
        pixels = {}
        for name, side in (("full", dict.fromkeys(options, FP16)), ("now", options)):
            for event in self.make(side, one, cancel):
                if isinstance(event, Made):
                    pixels[name] = region.cut(event.pictures[0].pixels)
        before = squared_error(pixels["full"], pixels["now"])
        layers = {layer.name: layer.choice for layer in self.structure.layers}
        now = choices_of(options)
        touched = {n for n, o in now.items() if o != FP16} | set(now.activations)
        blocks = [b for b in self.structure.level("block") if any(layers[n] in touched for n in b.layers)]
        found, start = [], time.perf_counter()
        for done, block in enumerate(blocks):
            left = (time.perf_counter() - start) / done * (len(blocks) - done) if done else None
            yield Progress(f"Restoring {block.label}", done, len(blocks), left)
            restored = now.untouched(layers[n] for n in block.layers)
            for event in self.make(restored, one, cancel):
                if isinstance(event, Made):
                    after = squared_error(pixels["full"], region.cut(event.pictures[0].pixels))
                    found.append(Restored(block.label, 1 - after / before if before else 0.0))
        yield from sorted(found, key=lambda r: -r.repair)

    def recipe(self, options: Mapping[str, Option]) -> Recipe:
        """The options as a recipe of this model."""
        return recipe_of(self.structure, options)

    def _applying(self, recipe: Recipe, cancel: threading.Event) -> Iterator[Progress]:
        from engine.live.apply import apply

        for record in apply(self._model, recipe, cancel=cancel):
            yield Progress("Quantizing", record.index, record.of)

    def _generating(self, settings: Settings, cancel: threading.Event, options: Mapping[str, Option]) -> Any:
        from engine.live.generate import Picture, generate

        full = all(option == FP16 for option in options.values()) and not choices_of(options).activations
        doing = "Full precision" if full else "Quantized"
        pictures = []
        for event in generate(self._model, request_of(settings), cancel=cancel, record_latents=True):
            if isinstance(event, Picture):
                pictures.append(event)
            else:
                yield Progress(doing, event.index, event.of, event.seconds_left)
        if cancel.is_set():
            raise Cancelled("Cancelled.")
        return pictures

    def _measured(self, a: Made, b: Made) -> list[Metric]:
        from engine.metrics.compare import compare
        from engine.metrics.features import find_extractor

        if self._extractor is None:
            self._extractor = find_extractor(self._model.directory, self.placement.device)
        return compare(list(a.pictures), list(b.pictures), self._extractor)

    def export(self, recipe: Recipe, name: str, directory: Path, cancel: threading.Event) -> Iterator[Any]:
        """Write, reload and compare; see `engine.export.exporting.export`."""
        from engine.export.exporting import export

        yield from export(self._model, recipe, name, directory, cancel=cancel)

    def working(self, job: Callable[[Any, threading.Event], Iterator[Any]], cancel: threading.Event) -> Iterator[Any]:
        """A measurement on the open model; its progress in the page's words, everything else as it comes."""
        yield from (event for event in self.load(cancel) if isinstance(event, Progress))
        for event in job(self._model, cancel):
            known = isinstance(event, Measured)
            yield Progress(event.doing, event.index, event.of, event.seconds_left) if known else event

    def weights(self, layer: Layer) -> Any:
        """Full-precision weights of one layer, from the checkpoint."""
        return self._model.originals.tensor(layer)


def request_of(settings: Settings) -> Any:
    """The engine's request for these settings: `count` seeds from `seed` on for one prompt, or one per prompt line."""
    from engine.live.request import Request, crossed

    lines = prompt_lines(settings.prompt)
    prompts, seeds = crossed(lines, tuple(settings.seed + k for k in range(settings.count)))
    return Request(prompts=prompts, labels=(settings.label,), negative=settings.negative, seeds=seeds,
                   steps=settings.steps, guidance=settings.guidance, scheduler=settings.scheduler)


def single(settings: Settings, index: int) -> Settings:
    """The settings of one picture of several: prompt lines times seeds, prompt by prompt."""
    lines = prompt_lines(settings.prompt)
    line, offset = divmod(min(index, len(lines) * settings.count - 1), settings.count)
    return replace(settings, prompt=lines[line], seed=settings.seed + offset, count=1)


def squared_error(a: Any, b: Any) -> float:
    """Sum of squared differences of two uint8 pictures."""
    return float(((a.astype("float32") - b.astype("float32")) ** 2).sum())


def prompt_lines(text: str) -> tuple[str, ...]:
    """Each line of the prompt box is a prompt of its own; an empty box is the unconditional prompt."""
    return tuple(line.strip() for line in text.splitlines() if line.strip()) or ("",)


def suggestions(model: Any) -> tuple[str, ...]:
    """Prompts the model is known to answer well, or general ones."""
    from engine.providers.prompts import suggested

    return tuple(suggested(model))
