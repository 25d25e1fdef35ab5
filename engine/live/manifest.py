"""The manifest of a store: which shard holds which layer under which option, with bytes, error and checksum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.core.errors import EngineError, OptionError, StoreError
from engine.core.files import read_json, write_json
from engine.core.graph import Structure
from engine.core.option import parse_option

VERSION = 1
NAME = "manifest.json"
MAX_BYTES = 256_000_000

Key = tuple[str, str]  # layer name, option text


@dataclass(frozen=True, slots=True)
class Entry:
    """One layer under one option, as stored.

    Attributes:
        shard: file name.
        bytes: stored bytes.
        error: relative squared weight error.
        checksum: CRC-32 of the tensors' bytes, 8 hex digits.
    """

    shard: str
    bytes: int
    error: float
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """`shards`: file name -> size in bytes. `entries`: what they hold. `dropped`: shards found damaged."""

    shards: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[Key, Entry] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    def without_shard(self, shard: str) -> Manifest:
        """All but one shard and what it held."""
        return Manifest({k: v for k, v in self.shards.items() if k != shard},
                        {k: e for k, e in self.entries.items() if e.shard != shard}, self.dropped | {shard})

    def without(self, key: Key) -> Manifest:
        """All but one entry."""
        return replace(self, entries={k: e for k, e in self.entries.items() if k != key})

    def merged(self, other: Manifest) -> Manifest:
        """With the shards another process added meanwhile; this manifest's own entries win."""
        new = {k: v for k, v in other.shards.items() if k not in self.shards and k not in self.dropped}
        entries = {k: e for k, e in other.entries.items() if e.shard in new}
        return replace(self, shards={**self.shards, **new}, entries={**entries, **self.entries})


def read_manifest(directory: Path, structure: Structure) -> Manifest:
    """The manifest in a directory, without shards that are missing or truncated; empty where none is yet.

    A manifest that is no JSON is treated as empty: everything is built again.

    Raises:
        StoreError: the store is of another model, precision or version; or the directory holds other things.
    """
    path = directory / NAME
    if not path.exists():
        _check_directory(directory)
        return Manifest()
    try:
        data = read_json(path, StoreError, MAX_BYTES)
    except StoreError:
        return Manifest()
    if not isinstance(data, dict):
        return Manifest()
    _check_owner(data, directory, structure)
    try:
        manifest = _parse(data)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OptionError):
        return Manifest()
    for name, size in manifest.shards.items():
        shard = directory / name
        if not shard.is_file() or shard.stat().st_size != size:
            manifest = manifest.without_shard(name)
    known = {layer.name for layer in structure.layers}
    return replace(manifest, entries={k: e for k, e in manifest.entries.items() if k[0] in known})


def shards_named(directory: Path) -> frozenset[str] | None:
    """The shards that the manifest on disk names, by whomever; None where it cannot be read."""
    if not (directory / NAME).exists():
        return frozenset()
    try:
        return frozenset(read_json(directory / NAME, StoreError, MAX_BYTES)["shards"])
    except (StoreError, TypeError, KeyError):
        return None


def write_manifest(directory: Path, structure: Structure, manifest: Manifest, shard: str, size: int,
                   entries: Mapping[Key, Entry]) -> Manifest:
    """Add a shard and write the manifest, whole or not at all, keeping what another process wrote meanwhile.

    Raises:
        EngineError: it cannot be written; the old one is untouched.
    """
    try:
        manifest = manifest.merged(read_manifest(directory, structure))
    except StoreError as failure:
        raise EngineError(str(failure)) from None
    grown = replace(manifest, shards={**manifest.shards, shard: size}, entries={**manifest.entries, **entries})
    layers: dict[str, dict[str, Any]] = {}
    for (layer, option), e in grown.entries.items():
        layers.setdefault(layer, {})[option] = {"shard": e.shard, "bytes": e.bytes, "error": e.error,
                                                "checksum": e.checksum}
    write_json(directory / NAME, {
        "version": VERSION, "model": {"id": structure.model, "identity": structure.identity},
        "precision_bits": structure.precision_bits, "shards": dict(grown.shards), "layers": layers,
    })
    return grown


def _parse(data: Any) -> Manifest:
    shards = {str(k): int(v) for k, v in data["shards"].items() if "/" not in k and "\\" not in k}
    entries = {}
    for layer, options in data["layers"].items():
        for option, e in options.items():
            parse_option(option)
            entry = Entry(str(e["shard"]), int(e["bytes"]), float(e["error"]), str(e["checksum"]))
            if entry.shard in shards:
                entries[layer, option] = entry
    return Manifest(shards, entries)


def _check_owner(data: dict[str, Any], directory: Path, structure: Structure) -> None:
    if data.get("version") != VERSION:
        raise StoreError(f"The store at {directory} has version {str(data.get('version'))[:20]}, this program writes "
                         f"{VERSION}; choose another directory, or delete this one.")
    owner = data.get("model")
    owner = owner if isinstance(owner, dict) else {}
    if owner.get("identity") != structure.identity or data.get("precision_bits") != structure.precision_bits:
        raise StoreError(f"The store at {directory} belongs to another model ({str(owner.get('id'))[:60]}, identity "
                         f"{str(owner.get('identity'))[:12]}, {data.get('precision_bits')} bits); this is "
                         f"{structure.model}, identity {structure.identity[:12]}, {structure.precision_bits} bits. "
                         f"Choose another directory.")


def _check_directory(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise StoreError(f"{directory} is a file, but a store is a directory; name an empty or new one.")
    strangers = [p.name for p in directory.iterdir() if not p.name.startswith(("shard-", f".{NAME}"))]
    if strangers:
        raise StoreError(f"{directory} holds no store but other files (first: {sorted(strangers)[0]!r}); name an empty "
                         f"or new directory.")
