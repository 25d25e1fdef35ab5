"""Errors of quantized layer inputs on disk, and what they mean in the unit of a provider; read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.activation import TOKEN, Activation
from engine.core.errors import EngineError, StoreError
from engine.core.files import read_json, write_json
from engine.core.graph import Structure
from engine.core.jsonrecord import from_json, to_json
from engine.core.places import assets_dir, cache_dir, model_stem

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
