"""How much quantizing a layer's inputs changes them, per width: what allocating activation bits needs to know."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.calibrate.capture import Call, Captured, check_captured, run_call
from engine.calibrate.importance import uniform_steps
from engine.calibrate.looking import looking
from engine.core.activation import ACTIVATION_BITS, STATIC, TOKEN, Activation
from engine.core.errors import EngineError, InputError, RecipeError, StoreError
from engine.core.files import read_json, write_json
from engine.core.graph import Structure
from engine.core.jsonrecord import from_json, to_json
from engine.core.layer import Layer
from engine.core.places import assets_dir, cache_dir, model_stem
from engine.live.cancel import Cancel, check_cancel
from engine.live.macs import layer_macs
from engine.live.model import Model
from engine.live.tables import ActivationTables
from engine.providers.progress import Progress
from engine.quant.activation import quantize_online, simulate, static_parameters

STEPS = 5
SUFFIX = ".activation-error.json"
VERSION = 1


@dataclass(frozen=True)
class ActivationErrors:
    """Relative squared error of layer inputs.

    Attributes:
        model: identity of the model.
        scheme: of the quantization, "token" or "static".
        layers: choice name -> bits as text -> sum (x - x')^2 / sum x^2; tied copies counted together. A choice that
            never ran is not in it.
        macs: layer name -> multiply-adds per picture and denoiser call.
        settings: choice name -> the activation setting at any width, but for its bits.
        about: what determines the numbers.
    """

    model: str
    scheme: str
    layers: dict[str, dict[str, float]]
    macs: dict[str, int]
    settings: dict[str, Activation]
    about: dict[str, str]

    def setting(self, choice: str, bits: int) -> Activation:
        """What a recipe says of a layer at a width; KeyError for a layer that never ran."""
        template = self.settings[choice]
        return Activation(bits, template.scheme, template.tables, template.groups, template.scaled, template.shifted)


def activation_errors(model: Model, captured: Captured, *, bits: Sequence[int] = ACTIVATION_BITS,
                      tables: ActivationTables | None = None, steps: int | None = None,
                      cancel: Cancel | None = None) -> Iterator[Progress | ActivationErrors]:
    """Replay trajectories and compare every layer's input with its quantized self; ends with `ActivationErrors`.

    Args:
        model: with activations in full precision.
        captured: its trajectories.
        bits: widths.
        tables: None = the online scheme, else the static scheme with these.
        steps: how many, evenly spaced; None = 5, or as many as there are.
        cancel: asked before every call.

    Raises:
        InputError: a width or a number of steps out of range.
        RecipeError: the applied recipe quantizes activations.
        StoreError: trajectories or tables are of another model.
        Cancelled: the caller asked for it.
    """
    check_captured(captured, model)
    wrong = [b for b in bits if b not in ACTIVATION_BITS]
    if wrong or not bits:
        raise InputError(f"Activations take {ACTIVATION_BITS[0]} to {ACTIVATION_BITS[-1]} bits, got "
                         f"{', '.join(map(str, wrong)) or 'none'}.")
    if model.inputs.settings:
        raise RecipeError("Activation errors are taken of full-precision inputs; apply the recipe without activations "
                          "first.")
    if tables is not None:
        model.add_tables(tables)
    total = len(captured.timesteps)
    chosen = uniform_steps(total, min(STEPS, total) if steps is None else steps)
    collector = _Errors(tuple(bits), tables)
    layers = [x for x in model.structure.layers if tables is None or x.name in tables.layers]
    macs = layer_macs(model)
    begun, of = time.perf_counter(), len(captured.parts) * len(chosen)
    with looking(model, layers, inputs=collector.take):
        seen: set[tuple[int, tuple[int, ...]]] = set()
        for call in captured.calls(chosen, model.device):
            check_cancel(cancel)
            collector.call = call
            run_call(model, call)
            seen.add((call.step, call.images))
            yield Progress("activation errors", len(seen), of,
                           (time.perf_counter() - begun) / len(seen) * (of - len(seen)))
    found = collector.joint(model.structure)
    template = Activation(max(bits))
    settings = {n: template if tables is None else tables.setting(n, max(bits)) for n in found}
    about = {**captured.about, "profiled": str(len(chosen)), "tables": tables.id if tables else ""}
    yield ActivationErrors(model.structure.identity, STATIC if tables else TOKEN, found, macs, settings, about)


class _Errors:
    """Sums of squared errors and of squares, per layer and width."""

    def __init__(self, bits: tuple[int, ...], tables: ActivationTables | None) -> None:
        self.call: Call | None = None
        self._bits, self._tables = bits, tables
        self._sums: dict[str, list[float]] = {}
        self._power: dict[str, float] = {}

    def take(self, layer: Layer, x: Tensor) -> None:
        wide = x.float()
        self._power[layer.name] = self._power.get(layer.name, 0.0) + float(wide.square().sum())
        sums = self._sums.setdefault(layer.name, [0.0] * len(self._bits))
        for index, bits in enumerate(self._bits):
            sums[index] += float((self._quantized(layer, wide, bits) - wide).square().sum())

    def _quantized(self, layer: Layer, x: Tensor, bits: int) -> Tensor:
        if self._tables is None:
            return quantize_online(x, bits, layer.kind)
        assert self.call is not None
        step, zero = (t.to(x.device) for t in self._tables.table(layer.name, bits).parameters(bits))
        group = self._tables.group(self.call.timestep)
        return simulate(x, *static_parameters(step, zero, group, x, layer.kind), bits)

    def joint(self, structure: Structure) -> dict[str, dict[str, float]]:
        """Per choice, tied copies summed; an input that is always zero has no error."""
        found: dict[str, dict[str, float]] = {}
        for choice in structure.choices:
            group = [x.name for x in structure.layers if x.choice == choice.name and x.name in self._power]
            if group:
                power = sum(self._power[n] for n in group)
                found[choice.name] = {
                    str(b): sum(self._sums[n][i] for n in group) / power if power else 0.0
                    for i, b in enumerate(self._bits)
                }
        return found


def errors_path(structure: Structure, scheme: str, directory: Path | None = None) -> Path:
    """Where the activation errors of a model belong in the user's cache."""
    stem = model_stem(structure.model, structure.identity)
    return (directory or cache_dir() / "scores") / f"{stem}.{scheme}{SUFFIX}"


def save_activation_errors(path: Path, found: ActivationErrors) -> None:
    """Write them, whole or not at all."""
    write_json(path, {"version": VERSION, **to_json(found)})


def load_activation_errors(path: Path) -> ActivationErrors:
    """Read them.

    Raises:
        StoreError: missing, damaged, or something else.
    """
    data: Any = read_json(path, StoreError)
    if not isinstance(data, dict) or data.pop("version", 0) != VERSION:
        raise StoreError(f"{path.name} holds no activation errors of version {VERSION}; run sensitivity again.")
    try:
        found = from_json(ActivationErrors, data)
    except (ValueError, TypeError, KeyError, EngineError) as failure:
        raise StoreError(f"{path.name} holds no activation errors ({str(failure)[:100]}).") from None
    if not all(math.isfinite(v) and v >= 0 for row in found.layers.values() for v in row.values()):
        raise StoreError(f"{path.name} holds errors that are no numbers; run sensitivity again.")
    return found


def find_activation_errors(structure: Structure, scheme: str = TOKEN) -> ActivationErrors | None:
    """Those of this model from the user's cache, else the shipped ones; None if there are none that fit."""
    for directory in (None, assets_dir() / "scores"):
        path = errors_path(structure, scheme, directory)
        if path.is_file():
            try:
                found = load_activation_errors(path)
            except StoreError:
                continue
            if found.model == structure.identity:
                return found
    return None


def with_activation_damage(errors: ActivationErrors, weight: Mapping[str, Mapping[str, float]],
                           damage: Mapping[str, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    """Damage of activation widths in the unit of any provider: choice -> bits -> damage.

    To first order a layer's relative output error is the sum of its weight's and its input's, so a layer that suffers
    kappa = damage / weight error per unit of one suffers the same of the other. kappa is the mean over the options
    both know; a layer without any takes the mean of all others.

    Args:
        errors: of the inputs.
        weight: choice -> option -> relative squared weight error.
        damage: choice -> option -> the provider's damage.
    """
    kappa: dict[str, float] = {}
    for name, row in damage.items():
        known = [(d, weight[name][o]) for o, d in row.items() if weight.get(name, {}).get(o, 0) > 0]
        if known:
            kappa[name] = max(0.0, sum(d for d, _ in known) / sum(e for _, e in known))
    usual = sum(kappa.values()) / len(kappa) if kappa else 1.0
    return {name: {int(b): kappa.get(name, usual) * e for b, e in row.items()} for name, row in errors.layers.items()}
