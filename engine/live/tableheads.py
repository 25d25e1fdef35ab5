"""Which calibrated activation tables a model has, read from the heads of their files: no tensor, no torch.

What a head says is believed until the tables are used; then they are read whole and checked (`engine.live.tables`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.core.activation import STATIC, Activation
from engine.core.errors import OptionError
from engine.core.graph import Structure
from engine.core.places import IDENTITY_DIGITS, assets_dir, cache_dir

VERSION = 1
KIND = "activation tables"
SUFFIX = ".activations.safetensors"
FOLDER = "activations"
MAX_HEAD = 16_000_000


@dataclass(frozen=True, slots=True)
class TableHead:
    """What a file of tables holds.

    Attributes:
        id: of the tables.
        groups: of timesteps.
        layers: layer name -> the width it was made for (0 = any), whether it has scales, whether it has shifts.
        about: what identifies the run.
    """

    id: str
    groups: int
    layers: Mapping[str, tuple[int, bool, bool]]
    about: Mapping[str, str] = field(default_factory=dict)

    def setting(self, layer: str, bits: int) -> Activation | None:
        """What a recipe says of a layer that uses these tables; None where they have none for it at this width."""
        if layer not in self.layers or self.layers[layer][0] not in (0, bits):
            return None
        _, scaled, shifted = self.layers[layer]
        return Activation(bits, STATIC, self.id, self.groups, scaled, shifted)


def find_heads(structure: Structure) -> dict[str, TableHead]:
    """id -> head of every set of tables of this model, the newest of the user's cache first, then those shipped.

    Files that are damaged or of another model are passed over; using such tables says what is wrong with them.
    """
    digits, found = structure.identity[:IDENTITY_DIGITS], dict[str, TableHead]()
    for directory in (cache_dir() / FOLDER, assets_dir() / FOLDER):
        paths = directory.glob(f"*{digits}.*{SUFFIX}") if digits and directory.is_dir() else ()
        for path in sorted(paths, key=lambda p: (-p.stat().st_mtime, p.name)):
            head = _head(path, structure)
            if head is not None:
                found.setdefault(head.id, head)
    return found


def _head(path: Path, structure: Structure) -> TableHead | None:
    try:
        raw = _json(path)
        head = json.loads(raw["__metadata__"]["head"])
        if head["kind"] != KIND or head["version"] != VERSION or head["model"] != structure.identity:
            return None
        layers = {str(name): (int(bits), f"{i}.tau" in raw, f"{i}.shifts" in raw)
                  for i, (name, bits) in enumerate(head["layers"])}
        about = {str(k): str(v) for k, v in head["about"].items()}
        found = TableHead(path.name.removesuffix(SUFFIX).rpartition(".")[2], int(head["groups"][-1]) + 1, layers, about)
        Activation(8, STATIC, found.id, found.groups)
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OptionError):
        return None


def _json(path: Path) -> dict[str, Any]:
    """The head of a safetensors file: its length in 8 bytes, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEAD:
            raise ValueError("too long")
        parsed: dict[str, Any] = json.loads(file.read(length))
    return parsed
