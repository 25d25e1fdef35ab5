"""Quantized layers on disk: safetensors shards and a manifest; resumable, checked, filled on demand.

Constraints: memory is bounded by one shard, whatever the model's size; a kill at any moment loses at most the
shard being built; what is damaged is noticed when it is read and built again; a store never serves another model;
a full disk ends a build with one sentence and keeps what is finished, and does not stop a preview.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.core.errors import EngineError, OptionError, StoreError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import Option, options_for, parse_option
from engine.core.places import cache_dir
from engine.core.sizes import sensible_options
from engine.live.cancel import Cancel, check_cancel
from engine.live.manifest import Entry, Manifest, read_manifest, shards_named, write_manifest
from engine.live.originals import Originals
from engine.quant.qweight import QuantizedWeight
from engine.quant.table import quantize_all, relative_error

SHARD_BYTES = 64_000_000
SHARD_SECONDS = 5.0
ORPHAN_SECONDS = 3600.0
ADVICE_FULL = "what was finished is kept: free space and run it again to go on"
ADVICE_PLACE = "what was finished is kept: make that place writable, or name another directory, and run it again"


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """One layer built.

    Attributes:
        layer: its name.
        options: how many options were quantized.
        weights: weights of the layer, times options.
        bytes: stored bytes of all these options.
        errors: option text -> relative squared weight error.
    """

    layer: str
    options: int
    weights: int
    bytes: int
    errors: Mapping[str, float]


class Store:
    """A directory of quantized layers of one model. One process writes at a time; several may read."""

    def __init__(self, directory: Path, structure: Structure, originals: Originals, manifest: Manifest) -> None:
        self.directory = directory
        self.structure = structure
        self.originals = originals
        self.problem = ""  # the sentence of the last failed write-back; what it concerns is still in memory
        self.repaired: list[tuple[str, str]] = []  # (layer, option) found damaged and built again
        self._manifest = manifest
        self._layers = {layer.name: layer for layer in structure.layers}
        self._pending: dict[tuple[str, str], tuple[QuantizedWeight, float]] = {}
        self._open: dict[str, Any] = {}
        self._sound: set[tuple[str, str]] = set()
        self._since = time.monotonic()

    @classmethod
    def open(cls, directory: str | os.PathLike[str] | None, structure: Structure, originals: Originals) -> Store:
        """Open or begin the store in a directory; None is the model's place in the user's cache.

        Raises:
            StoreError: it belongs to another model or version, or the directory holds other things.
        """
        place = Path(directory) if directory else default_place(structure)
        return cls(place, structure, originals, read_manifest(place, structure))

    def entry(self, layer: str, option: Option) -> Entry | None:
        """What is stored of a layer under an option, or None."""
        return self._manifest.entries.get((layer, str(option)))

    def has(self, layer: str, option: Option) -> bool:
        """Whether a layer is quantized under an option, on disk or about to be."""
        return option.is_untouched or (layer, str(option)) in self._pending or self.entry(layer, option) is not None

    def error(self, layer: str, option: Option) -> float:
        """Relative squared weight error; quantizes the layer if that has not been done yet."""
        if option.is_untouched:
            return 0.0
        entry = self.entry(layer, option)
        if entry is None and (layer, str(option)) not in self._pending:
            self.load(layer, option)
        entry = self.entry(layer, option)
        return entry.error if entry else self._pending[layer, str(option)][1]

    def load(self, layer: str, option: Option) -> QuantizedWeight:
        """A layer under an option, memory-mapped; quantized now and written back where it is missing or damaged.

        Raises:
            OptionError: the layer cannot take the option, or its weights are NaN or infinite.
        """
        key = (layer, str(option))
        if key in self._pending:
            return self._pending[key][0]
        entry = self._manifest.entries.get(key)
        if entry:
            found = self._read(key, option, entry)
            if found:
                return found
            self.repaired.append(key)
        self._add(self._layers[layer], (option,))
        found = self._pending[key][0]
        if self._pending_bytes() > SHARD_BYTES:
            self.flush()
        return found

    def flush(self) -> bool:
        """Write what was quantized on demand. False, with `problem` set, where that cannot be done."""
        try:
            self.write()
        except StoreError as failure:
            self.problem = str(failure)
            if self._pending_bytes() > SHARD_BYTES:
                self._pending.clear()
            return False
        return True

    def write(self) -> None:
        """Write what is pending as one shard, then the manifest that names it.

        Raises:
            StoreError: the disk is full or the place not writable; the store stays as it was.
        """
        self._since = time.monotonic()
        if not self._pending:
            return
        name = f"shard-{int(time.time()):x}-{secrets.token_hex(4)}.safetensors"
        tensors = {f"{layer}|{option}|{part}": tensor for (layer, option), (weight, _) in self._pending.items()
                   for part, tensor in weight.tensors.items()}
        size = self._write_shard(self.directory / name, tensors)
        entries = {key: Entry(name, weight.size_bytes, error, _checksum(weight.tensors))
                   for key, (weight, error) in self._pending.items()}
        try:
            self._manifest = write_manifest(self.directory, self.structure, self._manifest, name, size, entries)
        except EngineError as failure:
            (self.directory / name).unlink(missing_ok=True)
            sentence = str(failure).split(";")[0]
            raise StoreError(f"{sentence}; {_advice(sentence)}.") from None
        self._sound.update(entries)
        self._pending.clear()
        self.problem = ""

    def verify(self) -> list[tuple[str, str]]:
        """Read everything and drop what is damaged; returns the (layer, option) dropped, to be built again."""
        return [key for key, entry in list(self._manifest.entries.items())
                if self._read(key, parse_option(key[1]), entry) is None]

    def release(self) -> None:
        """Let go of the files; they are opened again when they are read. What was handed out stays good."""
        self._open.clear()

    def close(self) -> None:
        """Write what is pending and let go of the files."""
        self.flush()
        self._open.clear()

    def _add(self, layer: Layer, options: Iterable[Option]) -> dict[str, float]:
        weight = self.originals.tensor(layer)
        try:
            quantized = quantize_all(weight, options, self.structure.precision_bits)
        except OptionError as failure:
            raise OptionError(f"{layer.name}: {failure}") from None
        errors = {str(o): min(relative_error(weight, q), 1e30) for o, q in quantized.items()}
        self._pending.update({(layer.name, str(o)): (q, errors[str(o)]) for o, q in quantized.items()})
        return errors

    def _pending_bytes(self) -> int:
        return sum(weight.size_bytes for weight, _ in self._pending.values())

    def _due(self) -> bool:
        return self._pending_bytes() > SHARD_BYTES or time.monotonic() - self._since > SHARD_SECONDS

    def _read(self, key: tuple[str, str], option: Option, entry: Entry) -> QuantizedWeight | None:
        """The tensors of one entry, checked once per process; a damaged entry (or shard) is dropped."""
        prefix = f"{key[0]}|{key[1]}|"
        try:
            if entry.shard not in self._open:
                self._open[entry.shard] = _Shard(self.directory / entry.shard)
            tensors = self._open[entry.shard].tensors(prefix)
        except (OSError, SafetensorError):
            self._manifest = self._manifest.without_shard(entry.shard)
            return None
        if key not in self._sound and (not tensors or _checksum(tensors) != entry.checksum):
            self._manifest = self._manifest.without(key)
            return None
        self._sound.add(key)
        return QuantizedWeight(option, self._layers[key[0]].shape, tensors)

    def _write_shard(self, path: Path, tensors: dict[str, Tensor]) -> int:
        temporary = path.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            ordinary = temporary.stat().st_mode
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)
            temporary.chmod(ordinary)  # the library makes private files
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            return path.stat().st_size
        except (OSError, SafetensorError) as failure:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            reason = getattr(failure, "strerror", None) or str(failure)
            raise StoreError(f"Cannot write to {self.directory} ({reason[:200]}); {_advice(reason)}.") from None


class _Shard:
    """One memory-mapped shard with its tensor names by layer and option."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt", device="cpu")
        self._names: dict[str, list[str]] = {}
        for name in self._file.keys():
            self._names.setdefault(name.rpartition("|")[0] + "|", []).append(name)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `layer|option|`, by what follows."""
        return {name[len(prefix):]: self._file.get_tensor(name) for name in sorted(self._names.get(prefix, ()))}


def default_place(structure: Structure) -> Path:
    """Where a model's store lies unless another place is named: the user's cache, by the model's identity."""
    return cache_dir() / "stores" / f"{structure.identity[:24]}-{structure.precision_bits}"


def requests(store: Store, options: Iterable[Option] | None = None) -> list[tuple[Layer, tuple[Option, ...]]]:
    """What a build has to do: per layer the options that are not stored yet, in execution order.

    Args:
        store: where they belong.
        options: those wanted; None stands for every sensible option of each layer. Options a layer cannot take
            are left out for it.
    """
    wanted = None if options is None else tuple(options)
    todo = []
    for layer in store.structure.layers:
        offered = sensible_options(layer, store.structure.precision_bits) if wanted is None else wanted
        missing = tuple(o for o in offered if o in options_for(layer.kind) and not store.has(layer.name, o))
        if missing:
            todo.append((layer, missing))
    return todo


def build(store: Store, todo: Iterable[tuple[Layer, tuple[Option, ...]]], *,
          cancel: Cancel | None = None) -> Iterator[BuildRecord]:
    """Quantize and store, one record per layer; whatever ends it early, the next call goes on where it stopped.

    Raises:
        Cancelled: the caller asked for it; finished layers are stored.
        StoreError: the disk is full; finished shards are stored.
        OptionError: a layer's weights are NaN or infinite (the others are built by calling again without it).
    """
    _remove_orphans(store)
    try:
        for layer, options in todo:
            check_cancel(cancel)
            errors = store._add(layer, options)
            size = sum(store._pending[layer.name, str(o)][0].size_bytes for o in options)
            if store._due():
                store.write()
                store.originals.release()  # pages of the checkpoint that were read count as memory while it is mapped
            yield BuildRecord(layer.name, len(options), layer.weights * len(options), size, errors)
        store.write()
    finally:
        store.flush()


def _remove_orphans(store: Store) -> None:
    """Delete shards that no manifest names, left by a kill; young ones may be another process's at work."""
    if not store.directory.is_dir():
        return
    named = shards_named(store.directory)  # by whoever else writes here too
    if named is None:
        return
    for path in [*store.directory.glob("shard-*.safetensors"), *store.directory.glob("shard-*.tmp")]:
        with contextlib.suppress(OSError):
            if path.name not in named and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink()


def _advice(reason: str) -> str:
    """What helps against a failed write; safetensors passes on the system's words, but no error number."""
    full = any(word in reason.lower() for word in ("no space", "quota", "not enough space"))
    return ADVICE_FULL if full else ADVICE_PLACE


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over the tensors in order of their names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
