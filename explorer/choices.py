"""What a recipe decides, as the page carries it: options of every layer with the inputs and weight sets beside them.

Everything that handles "the options" of a view (history, pins, grid, address, pictures) may be given a plain mapping,
which says nothing of inputs, or `Choices`, which is a mapping of options and holds the rest as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.core.activation import STATIC, TOKEN, Activation
from engine.core.errors import OptionError
from engine.core.fromset import FromSet
from engine.core.graph import Structure
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, model_ref
from engine.core.sizes import bits_per_weight

# `token-8`, or static tables with their groups and whether they have scales and shifts: `1f0c...9a.20.11-6`.
_STATIC = re.compile(r"([0-9a-f]{12})\.(\d{1,4})\.([01])([01])")


@dataclass(frozen=True, eq=False)
class Choices(Mapping[str, Option]):
    """Options by choice name; equal only to what has the same inputs and weight sets too.

    Attributes:
        options: every choice of the model.
        activations: choice -> how its inputs are quantized; silent = not.
        weights: choice -> the weight set its quantized weight comes from; silent = made from the option alone.
    """

    options: Mapping[str, Option]
    activations: Mapping[str, Activation] = field(default_factory=dict)
    weights: Mapping[str, FromSet] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Option:
        return self.options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.options)

    def __len__(self) -> int:
        return len(self.options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        same = choices_of(other)
        return (dict(self.options), dict(self.activations), dict(self.weights)) == (
            dict(same.options), dict(same.activations), dict(same.weights))

    __hash__ = None  # type: ignore[assignment]

    def untouched(self, names: Iterable[str]) -> Choices:
        """The same with some choices in full precision, weights and inputs."""
        gone = set(names)
        return Choices({n: FP16 if n in gone else o for n, o in self.options.items()},
                       {n: a for n, a in self.activations.items() if n not in gone},
                       {n: w for n, w in self.weights.items() if n not in gone})


def choices_of(options: Mapping[str, Option]) -> Choices:
    """A plain mapping has full-precision inputs."""
    return options if isinstance(options, Choices) else Choices(dict(options))


def replaced(now: Mapping[str, Option], wanted: Mapping[str, Option]) -> Choices:
    """What an edit makes of a recipe: a plain mapping changes weights alone, and a layer whose option changes no longer
    takes calibrated weights; `Choices` replace everything."""
    if isinstance(wanted, Choices):
        return wanted
    now = choices_of(now)
    kept = {n: w for n, w in now.weights.items() if wanted.get(n, FP16) == now.options.get(n)}
    return Choices(dict(wanted), now.activations, kept)


def of_recipe(order: Sequence[str], recipe: Recipe) -> Choices:
    """A recipe of a model with these choices."""
    return Choices({n: recipe.option(n) for n in order}, dict(recipe.activations), dict(recipe.weights))


def recipe_of(structure: Structure, options: Mapping[str, Option],
              provenance: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that the page's choices are."""
    now = choices_of(options)
    return Recipe(model_ref(structure), dict(now.options), dict(now.activations), dict(provenance or {}),
                  weights=dict(now.weights))


def stored_bits_of(structure: Structure, options: Mapping[str, Option]) -> float:
    """Stored bits per weight, with activation tables and scales."""
    now = choices_of(options)
    return bits_per_weight(structure, now.options, now.activations, now.weights)


# --- as text: what the page holds, the address carries and people read ------------------------------------------------


def activation_text(activation: Activation | None) -> str:
    """`token-8`, `<tables>.<groups>.<scaled><shifted>-6`, or nothing for full-precision inputs."""
    if activation is None:
        return ""
    source = TOKEN
    if activation.scheme == STATIC:
        source = f"{activation.tables}.{activation.groups}.{activation.scaled:d}{activation.shifted:d}"
    return f"{source}-{activation.bits}"


def activation_of(text: str) -> Activation | None:
    """What `activation_text` wrote.

    Raises:
        OptionError: anything else.
    """
    if not text:
        return None
    source, _, bits = text.rpartition("-")
    if not re.fullmatch(r"[1-9]", bits):
        raise OptionError(f"{text[:40]!r} does not say how inputs are quantized; expected something like token-8.")
    if source == TOKEN:
        return Activation(int(bits))
    found = _STATIC.fullmatch(source)
    if not found:
        raise OptionError(f"{text[:40]!r} names no activation scheme; expected something like token-8.")
    tables, groups, scaled, shifted = found.groups()
    return Activation(int(bits), STATIC, tables, int(groups), scaled == "1", shifted == "1")


def set_text(origin: FromSet | None) -> str:
    """`1f0c...9a`, with `.s` where it is scaled; nothing for weights made from the option."""
    return "" if origin is None else origin.set + (".s" if origin.scaled else "")


def set_of(text: str) -> FromSet | None:
    """What `set_text` wrote.

    Raises:
        RecipeError: anything else.
    """
    return FromSet(text.removesuffix(".s"), text.endswith(".s")) if text else None


def inputs_from_browser(raw: object, known: Iterable[str]) -> dict[str, Activation]:
    """The activation settings a browser sent, checked.

    Raises:
        ValueError: no mapping of known layers.
        OptionError: a setting that does not exist.
    """
    names = set(known)
    if not isinstance(raw, dict) or not set(raw) <= names:
        raise ValueError("the page sent inputs of another model; reload it")
    settings = {name: activation_of(str(text)) for name, text in raw.items()}
    return {name: setting for name, setting in settings.items() if setting is not None}


def layer_text(options: Mapping[str, Option], name: str) -> str:
    """`uaq-4`, `uaq-4 A8`, `uaq-4 calibrated A6`: one layer for people."""
    now = choices_of(options)
    parts = [str(now.options.get(name, FP16))]
    if name in now.weights:
        parts.append("calibrated")
    if name in now.activations:
        parts.append(f"A{now.activations[name].bits}" + (" static" if now.activations[name].scheme == STATIC else ""))
    return " ".join(parts)


def changed_layers(before: Mapping[str, Option], after: Mapping[str, Option]) -> list[str]:
    """Choices that differ in anything, in order."""
    return [n for n in dict.fromkeys([*before, *after]) if _layer(before, n) != _layer(after, n)]


def describe_change(before: Mapping[str, Option], after: Mapping[str, Option]) -> str:
    """A short title: `12 layers to uaq-4`, `conv_in: uaq-4 to uaq-3`, `inputs of 9 layers to A8`."""
    changed = changed_layers(before, after)
    if len(changed) == 1:
        name = changed[0]
        return f"{name}: {layer_text(before, name)} to {layer_text(after, name)}"
    a, b = choices_of(before), choices_of(after)
    if all(a.options.get(n, FP16) == b.options.get(n, FP16) and a.weights.get(n) == b.weights.get(n) for n in changed):
        widths = {f"A{b.activations[n].bits}" if n in b.activations else "full precision" for n in changed}
        return f"inputs of {len(changed)} layers to {widths.pop() if len(widths) == 1 else 'other widths'}"
    targets = {layer_text(after, n) for n in changed}
    return f"{len(changed)} layers to {targets.pop() if len(targets) == 1 else 'other options'}"


def inputs_note(options: Mapping[str, Option]) -> str:
    """`A8`, `A4 to A8 on 30 of 59 layers`, or nothing: for captions."""
    now = choices_of(options)
    widths = Counter(a.bits for a in now.activations.values())
    if not widths:
        return ""
    span = f"A{min(widths)}" if len(widths) == 1 else f"A{min(widths)} to A{max(widths)}"
    on, every = sum(widths.values()), len(now.options)
    return span if on == every else f"{span} on {on} of {every} layers"


def _layer(options: Mapping[str, Option], name: str) -> tuple[Any, Any, Any]:
    now = choices_of(options)
    return now.options.get(name, FP16), now.activations.get(name), now.weights.get(name)
