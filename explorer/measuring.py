"""Measurements that the page starts and the device worker runs: providers, errors per step, pictures at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.core.errors import ModelError
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, model_ref
from explorer.backend import LiveBackend, Made
from explorer.context import OpenModel
from explorer.state import Settings

T = TypeVar("T")
Work = Callable[[Any], Iterator[Any]]
ORTHOGONALITY, OUTLIERS, INPUT_ERRORS = "orthogonality", "outliers", "activation-error"
CUMULATIVE = "cumulative"


@dataclass(frozen=True, slots=True)
class Done:
    """The last record of a measurement that was written to the cache."""

    provider: str


@dataclass(frozen=True, eq=False)
class Steps:
    """Both precisions at every step: uint8 [T, H, W, 3] each, of one picture."""

    full: Any
    now: Any
    label: str


def live(model: OpenModel) -> LiveBackend:
    """The backend, if it has weights.

    Raises:
        ModelError: it has none; the reason.
    """
    if not isinstance(model.backend, LiveBackend):
        raise ModelError(model.backend.why_no_pictures)
    return model.backend


def measuring(model: OpenModel, provider: str) -> Work:
    """A job that computes a provider's scores and writes them where the command line does; ends with `Done`."""
    works = {ORTHOGONALITY: _orthogonality, OUTLIERS: _outliers, INPUT_ERRORS: _input_errors,
             CUMULATIVE: _cumulative}

    def run(cancel: Any) -> Iterator[Any]:
        yield from live(model).working(works[provider], cancel)
        yield Done(provider)

    return run


def _orthogonality(model: Any, cancel: Any) -> Iterator[Any]:
    from engine.calibrate.orthogonality import (
        Orthogonality,
        linear_scores,
        orthogonality_path,
        save_orthogonality,
        score,
        useful_scores,
    )
    from engine.core.record import Scores
    from engine.live.apply import applied
    from engine.providers.files import find_scores, save_scores, scores_path
    from engine.providers.weight_error import PROVIDER, weight_error

    with applied(model, Recipe(model_ref(model.structure), {}), cancel=cancel):
        found = yield from _last(score(model, cancel=cancel), Orthogonality)
    errors = find_scores(model.structure).get(PROVIDER)
    if errors is None:
        errors = yield from _last(weight_error(model, cancel=cancel), Scores)
        save_scores(scores_path(model.structure, PROVIDER), errors)
    save_orthogonality(orthogonality_path(model.structure), found)
    for scores in (useful_scores(model.structure, found, errors), linear_scores(model.structure, found)):
        save_scores(scores_path(model.structure, scores.provider), scores)


def _outliers(model: Any, cancel: Any) -> Iterator[Any]:
    from engine.calibrate.outliers import outliers
    from engine.core.record import Scores
    from engine.providers.files import save_scores, scores_path

    found = yield from _last(outliers(model, cancel=cancel), Scores)
    save_scores(scores_path(model.structure, found.provider), found)


def _cumulative(model: Any, cancel: Any) -> Iterator[Any]:
    """Kept as it goes, so that a cancelled one is gone on with."""
    from engine.core.record import Scores
    from engine.live.apply import applied
    from engine.providers.cumulative import cumulative
    from engine.providers.files import save_scores, scores_path

    path = scores_path(model.structure, CUMULATIVE)
    partial = path.with_suffix(".partial.jsonl")
    with applied(model, Recipe(model_ref(model.structure), {}), cancel=cancel):
        found = yield from _last(cumulative(model, partial=partial, cancel=cancel), Scores)
    save_scores(path, found)
    partial.unlink(missing_ok=True)


def _input_errors(model: Any, cancel: Any) -> Iterator[Any]:
    from engine.calibrate.activation_errors import activation_errors
    from engine.calibrate.activation_files import ActivationErrors, errors_path, save_activation_errors
    from engine.calibrate.capture import Captured, CapturePlan, capture
    from engine.live.apply import applied

    with applied(model, Recipe(model_ref(model.structure), {}), cancel=cancel):
        captured = yield from _last(capture(model, CapturePlan(images=16), cancel=cancel), Captured)
        found = yield from _last(activation_errors(model, captured, cancel=cancel), ActivationErrors)
    save_activation_errors(errors_path(model.structure, found.scheme), found)


def stepping(model: OpenModel, options: Mapping[str, Option], settings: Settings) -> Work:
    """A job: errors per layer and step of a recipe (`StepErrors`), then the first picture at every step (`Steps`)."""

    def run(cancel: Any) -> Iterator[Any]:
        backend = live(model)
        recipe = backend.recipe(options)
        yield from backend.working(lambda m, c: _step_errors(m, recipe, settings, c), cancel)
        made: list[Any] = []
        for side in (dict.fromkeys(options, FP16), options):
            for event in backend.make(side, settings, cancel):
                if isinstance(event, Made):
                    made.append(event.pictures[0])
                else:
                    yield event
        yield from backend.working(lambda m, _: _decoded(m, made), cancel)

    return run


def _step_errors(model: Any, recipe: Recipe, settings: Settings, cancel: Any) -> Iterator[Any]:
    """On the sampler settings of the pictures, so that steps mean the same."""
    from engine.calibrate.capture import Captured, CapturePlan, capture
    from engine.calibrate.step_errors import IMAGES, step_errors
    from engine.live.apply import applied

    plan = CapturePlan(IMAGES, steps=settings.steps, guidance=settings.guidance, scheduler=settings.scheduler)
    with applied(model, Recipe(model_ref(model.structure), {}), cancel=cancel):
        captured = yield from _last(capture(model, plan, cancel=cancel), Captured)
    yield from step_errors(model, recipe, captured=captured, cancel=cancel)


def _decoded(model: Any, made: list[Any]) -> Iterator[Any]:
    from engine.live.decode import step_pictures

    full, now = (step_pictures(model, picture) for picture in made)
    yield Steps(full, now, f"{made[0].prompt or 'no prompt'} · seed {made[0].seed}")


def _last(events: Iterator[Any], kind: type[T]) -> Iterator[Any]:
    """Pass everything on but the record of this kind, which is returned."""
    found: T | None = None
    for event in events:
        if isinstance(event, kind):
            found = event
        else:
            yield event
    assert found is not None
    return found
