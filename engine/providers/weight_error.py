"""The null provider: how much each option changes the weights themselves; needs no images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

import torch

from engine.core.layer import Layer
from engine.core.option import Option, options_for
from engine.core.record import Scores, Trust
from engine.core.sizes import sensible_options
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model
from engine.live.store import build, requests
from engine.providers.progress import Progress

PROVIDER = "weight-error"
UNIT = "relative squared weight error"


def weight_error(model: Model, options: Iterable[Option] | None = None, *, cancel: Cancel | None = None,
                 command: str = "") -> Iterator[Progress | Scores]:
    """Score every layer under every option by sum (w - w')^2 / sum w^2; ends with `Scores`.

    A block's number is the same ratio with both sums over all its layers; it is given for the options that all of
    them were scored under. Tied copies count with the layer whose choice they copy.

    Args:
        model: its store is filled on the way.
        options: None is every sensible option of each layer.
        cancel: asked between layers; what was quantized stays in the store.
        command: the command line, for the record.
    """
    wanted = None if options is None else tuple(options)
    start = time.perf_counter()
    todo = requests(model.store, wanted)
    for index, record in enumerate(build(model.store, todo, cancel=cancel)):
        left = (time.perf_counter() - start) / (index + 1) * (len(todo) - index - 1)
        yield Progress(record.layer, index + 1, len(todo), left)
    errors: dict[str, dict[str, float]] = {}
    energy: dict[str, float] = {}
    for layer in model.structure.layers:
        check_cancel(cancel)
        energy[layer.name] = _energy(model, layer)
        offered = sensible_options(layer, model.structure.precision_bits) if wanted is None else wanted
        errors[layer.name] = {str(o): model.store.error(layer.name, o) for o in offered if o in options_for(layer.kind)}
    yield Scores(
        PROVIDER, model.structure.identity, UNIT,
        layers={name: _joint([x.name for x in group], errors, energy) for name, group in model.groups.items()},
        blocks={b.id: joint for b in model.structure.blocks if (joint := _joint(b.layers, errors, energy))},
        trust=Trust(note="Says how much weights change, not what that does to images."), command=command,
        about={"precision_bits": str(model.structure.precision_bits)},
    )


def _joint(names: Iterable[str], errors: Mapping[str, Mapping[str, float]], energy: Mapping[str, float]
           ) -> dict[str, float]:
    """Error of several layers taken together, for the options they share."""
    names = list(names)
    shared = [o for o in errors[names[0]] if all(o in errors[n] for n in names)] if names else []
    total = sum(energy[n] for n in names)
    return {o: sum(errors[n][o] * energy[n] for n in names) / total if total else 0.0 for o in shared}


def _energy(model: Model, layer: Layer) -> float:
    weight = model.originals.tensor(layer)
    return float(torch.linalg.vector_norm(weight.float(), dtype=torch.float64)) ** 2
