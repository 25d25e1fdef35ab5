"""Calibrated activation tables of a model: one safetensors file with its JSON inside, found by id, refused elsewhere.

Constraints: a table serves any number of sampling steps, because groups are intervals of the denoiser's own timestep
argument (group 0 holds the largest), cut half-way between the timesteps that were calibrated.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.core.activation import STATIC, Activation
from engine.core.errors import InputError, OptionError, RecipeError, StoreError
from engine.core.files import parse_json, write_atomic
from engine.core.graph import Structure
from engine.core.places import assets_dir, cache_dir, model_stem
from engine.live.tableheads import FOLDER, KIND, SUFFIX, VERSION
from engine.quant.activation import StaticTable

SPAN = 1000.0  # training steps of the schedules at hand, unless timesteps are shares of them
EDGE = 1 / 20
WIDEST = 0.4  # what five steps can leave out before their first and after their last, shifted flow schedules included


@dataclass(frozen=True, eq=False)
class ActivationTables:
    """Static ranges of a model's layers.

    Attributes:
        model: identity of the model they were calibrated on.
        timesteps: what the denoiser was called with, largest first.
        groups: group of each of these, 0 first and without gaps.
        layers: layer name (halves and tied copies each their own) -> table with as many groups.
        about: everything else that identifies the run (prompts hash, images, percentile, ...).
    """

    model: str
    timesteps: tuple[float, ...]
    groups: tuple[int, ...]
    layers: Mapping[str, StaticTable]
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.timesteps, self.timesteps[1:], strict=False))
        counted = len(self.groups) == len(self.timesteps)
        counted = counted and list(dict.fromkeys(self.groups)) == list(range(self.count))
        fits = all(table.groups == self.count for table in self.layers.values())
        if not (self.timesteps and falling and counted and sorted(self.groups) == list(self.groups) and fits
                and all(map(math.isfinite, self.timesteps))):
            raise StoreError("Activation tables need falling timesteps, their groups in order from 0, and as many "
                             "ranges per layer as groups; calibrate again.")

    @property
    def count(self) -> int:
        """G, the number of groups."""
        return self.groups[-1] + 1 if self.groups else 0

    @functools.cached_property
    def edges(self) -> tuple[float, ...]:
        """G - 1 timesteps between groups, largest first."""
        pairs = zip(self.timesteps, self.timesteps[1:], self.groups, self.groups[1:], strict=False)
        return tuple((a + b) / 2 for a, b, g, h in pairs if g != h)

    def group(self, timestep: float) -> int:
        """The group of one timestep.

        Raises:
            InputError: it lies outside of what was calibrated by more than `slack`, or outside of any schedule.
        """
        high, low = self.timesteps[0], self.timesteps[-1]
        below, above = self.slack
        if not low - below <= timestep <= high + above:
            raise InputError(f"The activation tables were calibrated for timesteps {high:g} to {low:g}, and this "
                             f"schedule asks for {timestep:g}; choose the scheduler they were made with, or calibrate "
                             f"again with more steps.")
        return sum(timestep < edge for edge in self.edges)

    @functools.cached_property
    def slack(self) -> tuple[float, float]:
        """How far below and above the calibrated timesteps the tables still serve.

        As far as their widest gap, because the same scheduler with more steps begins earlier and ends later by less
        than one of its former steps; the way from the last timestep to zero is such a step as well. But never further
        than `WIDEST` of the training schedule, nor out of it by more than `EDGE`; `EDGE` where a single timestep shows
        no gap.
        """
        high, low = self.timesteps[0], self.timesteps[-1]
        span = span_of(high)
        edge = EDGE * span
        gaps = [a - b for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)]
        if not gaps:
            return edge, edge
        below, above = (min(gap, WIDEST * span) for gap in (max(*gaps, low), max(gaps)))
        return max(edge, min(below, low + edge)), max(edge, min(above, span - high + edge))

    @functools.cached_property
    def id(self) -> str:
        """12 hex digits over everything in it."""
        tensors, head = _flat(self)
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def setting(self, layer: str, bits: int) -> Activation:
        """What a recipe says of a layer (or tied group) that uses this table.

        Raises:
            RecipeError: there is no table for it, or the table is for another width.
        """
        table = self.table(layer, bits)
        return Activation(bits, STATIC, self.id, self.count, table.tau is not None, table.shifts is not None)

    def table(self, layer: str, bits: int) -> StaticTable:
        """The table of a layer at a width; errors as `setting`."""
        if layer not in self.layers:
            raise RecipeError(f"The activation tables hold no range for {layer} (it was not executed, or was left out, "
                              f"when they were calibrated); use the online scheme there, or leave it in full "
                              f"precision.")
        table = self.layers[layer]
        if table.bits not in (0, bits):
            raise RecipeError(f"The activation table of {layer} was made for {table.bits} bits, not {bits}; use that "
                              f"width, or calibrate for this one.")
        return table


def save_tables(path: str | Path, tables: ActivationTables) -> None:
    """Write tables, whole or not at all."""
    tensors, head = _flat(tables)
    write_atomic(path, save(tensors, {"head": json.dumps(head)}))


def load_tables(path: str | Path) -> ActivationTables:
    """Read tables.

    Raises:
        StoreError: missing, damaged, of another kind or version; one sentence.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            head = parse_json((file.metadata() or {}).get("head", "null"), path.name, StoreError)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as failure:
        raise StoreError(f"{path} cannot be read as activation tables ({str(failure)[:100]}); calibrate "
                         f"again.") from None
    if not isinstance(head, dict) or head.get("kind") != KIND or head.get("version") != VERSION:
        raise StoreError(f"{path.name} holds no {KIND} of version {VERSION}; calibrate again.")
    try:
        layers = {}
        for index, (name, bits) in enumerate(head["layers"]):
            low, high = tensors[f"{index}.low"], tensors[f"{index}.high"]
            tau, shifts = tensors.get(f"{index}.tau"), tensors.get(f"{index}.shifts")
            layers[str(name)] = StaticTable(low, high, tau, shifts, int(bits))
        about = {str(k): str(v) for k, v in head["about"].items()}
        return ActivationTables(str(head["model"]), tuple(map(float, head["timesteps"])),
                                tuple(map(int, head["groups"])), layers, about)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OptionError) as failure:
        raise StoreError(f"{path.name} holds broken activation tables ({str(failure)[:100]}); calibrate "
                         f"again.") from None


def tables_path(structure: Structure, id: str, directory: Path | None = None) -> Path:
    """Where the tables of a model belong: `<name>-<identity>.<id>.activations.safetensors` in the user's cache."""
    stem = model_stem(structure.model, structure.identity)
    return (directory or cache_dir() / FOLDER) / f"{stem}.{id}{SUFFIX}"


def find_tables(structure: Structure, id: str) -> ActivationTables:
    """Tables of this model by id, from the user's cache or from those shipped.

    Raises:
        RecipeError: there are none.
        StoreError: the file is damaged or of another model.
    """
    for directory in (cache_dir() / FOLDER, assets_dir() / FOLDER):
        for path in sorted(directory.glob(f"*.{id}{SUFFIX}")) if directory.is_dir() else ():
            tables = load_tables(path)
            check_tables(tables, structure)
            if tables.id == id:
                return tables
            raise StoreError(f"{path.name} was changed after it was written; calibrate again.")
    raise RecipeError(f"The recipe uses the activation tables {id}, which are not on this machine; put the file "
                      f"*.{id}{SUFFIX} into {cache_dir() / FOLDER}, or calibrate again.")


def check_tables(tables: ActivationTables, structure: Structure) -> None:
    """Refuse tables of another model.

    Raises:
        StoreError: the identity or the layers differ.
    """
    if tables.model != structure.identity:
        raise StoreError(f"These activation tables are of another model (identity {tables.model[:12]}); "
                         f"{structure.model} is {structure.identity[:12]}. Calibrate this one.")
    known = {layer.name for layer in structure.layers}
    unknown = [name for name in tables.layers if name not in known]
    if unknown:
        raise StoreError(f"The activation tables name layers that {structure.model} does not have (first: "
                         f"{unknown[0][:80]!r}); calibrate again.")


def span_of(highest: float) -> float:
    """How far a training schedule counts, by its highest timestep: flow models may count in shares of it."""
    return 1.0 if highest <= 1 else max(SPAN, highest)


def merged_groups(timesteps: Sequence[float], count: int) -> tuple[int, ...]:
    """`count` groups of consecutive timesteps, as equal in number as can be; fewer where there are fewer timesteps.

    Raises:
        InputError: count below 1.
    """
    if count < 1:
        raise InputError(f"{count} timestep groups are none; ask for at least 1.")
    count = min(count, len(timesteps))
    return tuple(i * count // len(timesteps) for i in range(len(timesteps)))


def _flat(tables: ActivationTables) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    for index, table in enumerate(tables.layers.values()):
        parts = {"low": table.low, "high": table.high, "tau": table.tau, "shifts": table.shifts}
        for part, tensor in parts.items():
            if tensor is not None:
                dtype = torch.uint8 if part == "shifts" else torch.float32
                tensors[f"{index}.{part}"] = tensor.detach().cpu().to(dtype).contiguous().clone()
    head = {
        "kind": KIND, "version": VERSION, "model": tables.model, "timesteps": list(tables.timesteps),
        "groups": list(tables.groups), "layers": [[name, t.bits] for name, t in tables.layers.items()],
        "about": dict(tables.about),
    }
    return tensors, head
