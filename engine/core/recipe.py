"""A recipe: which option every layer takes, of which model, and where it came from; JSON in and out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.core.activation import Activation, activation_from_json, activation_to_json
from engine.core.errors import OptionError, OtherModelError, RecipeError
from engine.core.files import parse_json, read_json, write_json
from engine.core.fromset import FromSet, from_set_from_json, from_set_to_json
from engine.core.graph import Structure
from engine.core.option import FP16, Option, options_for, parse_option
from engine.core.sizes import bits_per_weight, default_option, file_bytes, full_bytes, recipe_bytes

VERSION = 1
SUFFIX = ".recipe.json"
_KEYS = {"version", "model", "options", "activations", "weights", "provenance", "sizes", "metrics"}


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model a recipe was made for."""

    id: str
    denoiser_class: str
    identity: str
    revision: str = ""


@dataclass(frozen=True)
class Recipe:
    """layer -> option, with its model and origin. Layers it does not name are untouched.

    Attributes:
        model: the model it was made for.
        options: choice name -> option.
        activations: choice name -> how its inputs are quantized; silent = they stay in full precision.
        provenance: allocator, provider, study, budget, as far as they apply.
        metrics: measured numbers that came with it.
        weights: choice name -> the weight set its quantized weight comes from; silent = made from the option alone.
    """

    model: ModelRef
    options: Mapping[str, Option]
    activations: Mapping[str, Activation] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, FromSet] = field(default_factory=dict)

    def option(self, choice: str) -> Option:
        """The option of a layer (by choice name); untouched where the recipe is silent."""
        return self.options.get(choice, FP16)

    @property
    def hash(self) -> str:
        """12 hex digits that depend on the options, activations and weight sets alone."""
        options = {k: str(v) for k, v in self.options.items() if not v.is_untouched}
        inputs = {k: activation_to_json(v) for k, v in self.activations.items()}
        sets = {k: from_set_to_json(v) for k, v in self.weights.items()}
        text = json.dumps([options, inputs, sets] if sets else [options, inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def with_options(self, changes: Mapping[str, Option]) -> Recipe:
        """The same recipe with some layers changed; its metrics and provenance no longer hold and are dropped.

        Changed layers no longer take calibrated weights, which were made for another option.
        """
        weights = {k: v for k, v in self.weights.items() if k not in changes or changes[k] == self.option(k)}
        return replace(self, options={**self.options, **changes}, weights=weights, provenance={}, metrics={})

    def with_activations(self, changes: Mapping[str, Activation | None]) -> Recipe:
        """The same recipe with the inputs of some layers changed (None = full precision); as `with_options`."""
        inputs = {k: v for k, v in {**self.activations, **changes}.items() if v is not None}
        return replace(self, activations=inputs, provenance={}, metrics={})

    def with_weights(self, weights: Mapping[str, FromSet]) -> Recipe:
        """The same recipe with its quantized weights from weight sets; as `with_options`."""
        return replace(self, weights=dict(weights), provenance={}, metrics={})


def model_ref(structure: Structure) -> ModelRef:
    """The reference a recipe for this model carries."""
    return ModelRef(structure.model, structure.denoiser_class, structure.identity)


def uniform(structure: Structure, option: Option | str) -> Recipe:
    """Every layer at one option."""
    chosen = parse_option(option) if isinstance(option, str) else option
    return Recipe(model_ref(structure), {layer.name: chosen for layer in structure.choices},
                  provenance={"allocator": "uniform", "option": str(chosen)})


def uniform_bits(structure: Structure, bits: int) -> Recipe:
    """Every layer at one bit-width of the default method."""
    return uniform(structure, default_option(bits))


def by_role(structure: Structure, bits: int, kept: int, roles: Iterable[str]) -> Recipe:
    """`bits` everywhere but on the layers of these roles, which take `kept` bits."""
    wanted = set(roles)
    options = {layer.name: default_option(kept if layer.role in wanted else bits) for layer in structure.choices}
    return Recipe(model_ref(structure), options,
                  provenance={"allocator": "by role", "bits": bits, "kept": kept, "roles": sorted(wanted)})


def difference(a: Recipe, b: Recipe) -> dict[str, tuple[Option, Option]]:
    """Layers whose option differs, with both options; silent layers count as untouched."""
    names = dict.fromkeys([*a.options, *b.options])
    return {n: (a.option(n), b.option(n)) for n in names if a.option(n) != b.option(n)}


def sizes(structure: Structure, recipe: Recipe) -> dict[str, float]:
    """The size figures written into recipe files and shown in the explorer."""
    return {
        "bits_per_weight": bits_per_weight(structure, recipe.options, recipe.activations, recipe.weights),
        "bytes": recipe_bytes(structure, recipe.options, recipe.activations, recipe.weights),
        "file_bytes": file_bytes(structure, recipe.options, recipe.activations, recipe.weights),
        "full_bytes": full_bytes(structure),
    }


def check(structure: Structure, recipe: Recipe, *, transfer: bool = False) -> None:
    """Refuse a recipe that does not fit this model.

    Raises:
        RecipeError: it names unknown layers, options a layer cannot take, activation bits on a layer that is never
            executed, or another model (identity alone may be overridden by `transfer`).
    """
    known = {layer.name: layer for layer in structure.choices}
    unknown = [name for name in [*recipe.options, *recipe.activations, *recipe.weights] if name not in known]
    if unknown:
        raise RecipeError(
            f"The recipe names {len(unknown)} layers that {structure.model} does not have (first: {unknown[0]!r}); "
            f"open the model it was made for ({recipe.model.id or 'not stated'})."
        )
    for name, option in recipe.options.items():
        if option not in options_for(known[name].kind):
            raise RecipeError(f"{option} cannot be applied to {name}, a {known[name].kind} layer; choose another.")
    unexecuted = structure.unexecuted if recipe.activations else frozenset()  # looked up at every edit
    unseen = next((name for name in recipe.activations if name in unexecuted), None)
    if unseen is not None:
        raise RecipeError(f"The recipe gives activation bits to {unseen}, which no call of the denoiser executes, so "
                          f"it has no inputs to quantize; take it out of the activations.")
    idle = next((name for name in recipe.weights if recipe.option(name).is_untouched), None)
    if idle is not None:
        raise RecipeError(f"The recipe takes the weight of {idle} from a weight set but leaves the layer untouched; "
                          f"give it the option it was calibrated for, or take it out of the weights.")
    identity = recipe.model.identity
    if not transfer and structure.identity and identity and identity != structure.identity:
        raise OtherModelError(
            f"The recipe was made for another model ({recipe.model.id}, identity {identity[:12]}); this is "
            f"{structure.model}, identity {structure.identity[:12]}. Use transfer to apply it by name and shape, "
            f"then measure again."
        )


def transferred(structure: Structure, recipe: Recipe) -> Recipe:
    """A recipe of another model (a fine-tune of the same architecture, say) as one of this model's, on purpose.

    Raises:
        RecipeError: it does not fit this model.
    """
    check(structure, recipe, transfer=True)
    return replace(recipe, model=model_ref(structure))


def recipe_to_json(recipe: Recipe, structure: Structure | None = None) -> dict[str, Any]:
    """The recipe file's content; with the structure, sizes are written too."""
    ref = recipe.model
    return {
        "version": VERSION,
        "model": {"id": ref.id, "revision": ref.revision, "denoiser_class": ref.denoiser_class,
                  "identity": ref.identity},
        "options": {name: str(option) for name, option in recipe.options.items()},
        "activations": {name: activation_to_json(value) for name, value in recipe.activations.items()},
        **({"weights": {k: from_set_to_json(v) for k, v in recipe.weights.items()}} if recipe.weights else {}),
        "provenance": dict(recipe.provenance),
        "sizes": sizes(structure, recipe) if structure else {},
        "metrics": dict(recipe.metrics),
    }


def recipe_from_json(data: Any, name: str = "The recipe") -> Recipe:
    """The recipe in a JSON value.

    Raises:
        RecipeError: wrong shape, version, keys or options; one sentence that names the first offence.
    """
    if not isinstance(data, dict) or "options" not in data:
        raise RecipeError(f"{name} is no recipe: expected a JSON object with version, model and options.")
    unknown = set(data) - _KEYS
    if unknown:
        raise RecipeError(f"{name} has an unknown key {sorted(unknown)[0]!r}; known: {', '.join(sorted(_KEYS))}.")
    if data.get("version") != VERSION:
        raise RecipeError(f"{name} has version {data.get('version')!r}; this program reads version {VERSION}.")
    if data.get("model") is None:
        raise RecipeError(f"{name} does not say which model it was made for: expected an object `model` with id, "
                          f"denoiser_class and identity; save the recipe again from the model it belongs to.")
    parts = {key: data.get(key) or {} for key in _KEYS - {"version", "sizes"}}
    for key, value in parts.items():
        if not isinstance(value, dict):
            raise RecipeError(f"{name}: {key} must be an object, got {type(value).__name__}.")
    ref = parts["model"]
    fields = ("id", "denoiser_class", "identity", "revision")
    if not all(isinstance(ref.get(k, ""), str) for k in fields):
        raise RecipeError(f"{name}: the model's id, denoiser_class, identity and revision must be text.")
    return Recipe(ModelRef(*(ref.get(k, "") for k in fields)), _options(parts["options"], name),
                  _activations(parts["activations"], name), parts["provenance"], parts["metrics"],
                  _weights(parts["weights"], name))


def _weights(raw: dict[str, Any], name: str) -> dict[str, FromSet]:
    found = {}
    for layer, value in raw.items():
        try:
            found[layer] = from_set_from_json(value)
        except RecipeError as error:
            raise RecipeError(f"{name}, weights of layer {layer[:80]!r}: {error}") from None
    return found


def _activations(raw: dict[str, Any], name: str) -> dict[str, Activation]:
    settings = {}
    for layer, value in raw.items():
        try:
            settings[layer] = activation_from_json(value)
        except OptionError as error:
            raise RecipeError(f"{name}, activations of layer {layer[:80]!r}: {error}") from None
    return settings


def _options(raw: dict[str, Any], name: str) -> dict[str, Option]:
    options = {}
    for layer, text in raw.items():
        try:
            options[layer] = parse_option(text if isinstance(text, str) else repr(text))
        except OptionError as error:
            raise RecipeError(f"{name}, layer {layer[:80]!r}: {error}") from None
    return options


def parse_recipe(data: bytes | str, name: str = "The recipe") -> Recipe:
    """The recipe in a file's content."""
    return recipe_from_json(parse_json(data, name, RecipeError), name)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a `*.recipe.json`.

    Raises:
        RecipeError: the file is missing, too large or no recipe.
    """
    return recipe_from_json(read_json(path, RecipeError), os.path.basename(path))


def save_recipe(path: str | os.PathLike[str], recipe: Recipe, structure: Structure | None = None) -> None:
    """Write a `*.recipe.json`, whole or not at all."""
    write_json(path, recipe_to_json(recipe, structure))
