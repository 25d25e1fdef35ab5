"""Full-precision weights of layers, read lazily from the memory-mapped checkpoint; nothing is copied twice.

Constraints: restoring must be bit for bit, so what a file gives is compared with the live weights before it is
trusted; a model built in memory (or converted while loading) first has its quantizable weights saved to a scratch
directory; a float16 file serves a float32 model, since widening is exact.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.core.errors import ModelError
from engine.core.files import read_json
from engine.core.layer import Layer

SCRATCH_SHARD_BYTES = 256_000_000
SAMPLES = 256
MAX_INDEX_BYTES = 64_000_000


class Originals:
    """Where each layer's full-precision weight lies, and how to read it."""

    def __init__(self, files: Mapping[str, Path], scratch: Path | None = None,
                 names: Mapping[str, str] | None = None) -> None:
        """`files`: tensor name -> safetensors file that holds it. `scratch`: directory to remove on close. `names`:
        what tensors are called in their file, where that is something else."""
        self._files = dict(files)
        self._names = dict(names or {})
        self._open: dict[Path, Any] = {}
        self._scratch = scratch
        if scratch:  # nobody may come to close it: opening can fail afterwards
            weakref.finalize(self, shutil.rmtree, scratch, True)

    @property
    def is_checkpoint(self) -> bool:
        """Whether they are the model's own files, not a scratch copy."""
        return self._scratch is None

    def tensor(self, layer: Layer) -> Tensor:
        """The layer's weight [O, in, *kernel] in the file's dtype: a memory-mapped view, never to be written to."""
        key = _key(layer)
        path = self._files[key]
        if path not in self._open:
            self._open[path] = _opened(path)
        try:
            whole = self._open[path].get_tensor(self._names.get(key, key))
        except SafetensorError as failure:
            raise ModelError(f"{path.name} cannot be read ({failure}); download the model again.") from None
        return whole if layer.stop - layer.start == whole.shape[1] else whole[:, layer.start:layer.stop]

    def restore_into(self, layer: Layer, out: Tensor) -> None:
        """Overwrite `out` (the layer's part of the live weight, any float dtype and device)."""
        out.copy_(self.tensor(layer))

    def release(self) -> None:
        """Unmap the files; they are opened again when they are read. Tensors handed out stay good."""
        self._open.clear()

    def close(self) -> None:
        """Forget the open files; remove the scratch directory if there is one."""
        self._open.clear()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def find_originals(denoiser: nn.Module, layers: Iterable[Layer], directories: Iterable[Path],
                   file: Path | None = None, *, whole: bool = False) -> Originals:
    """The originals of a denoiser: from the first directory whose files agree with it, from the single file that it
    was converted from as far as its tensors are there whole, else from a scratch copy.

    Args:
        denoiser: the live module, not yet quantized.
        layers: its layers.
        directories: where its checkpoint may lie (component directories).
        file: a single-file checkpoint, whose tensors have other names and are told by their values.
        whole: compare every value, as a module needs that was in others' hands since it was loaded.

    Raises:
        ModelError: the scratch copy cannot be written.
    """
    layers = tuple(layers)
    for directory in directories:
        for files in _file_sets(directory):
            found = Originals(files)
            if _agree(found, files, denoiser, layers, whole):
                return found
    names = _told_by_values(file, denoiser, layers) if file else {}
    rest = tuple(layer for layer in layers if _key(layer) not in names)
    if not names:
        return Originals(*_saved_to_scratch(denoiser, layers))
    assert file is not None
    files = dict.fromkeys(names, file)
    if not rest:
        return Originals(files, names=names)
    copied, scratch = _saved_to_scratch(denoiser, rest)
    return Originals({**files, **copied}, scratch, names)


def _told_by_values(file: Path, denoiser: nn.Module, layers: tuple[Layer, ...]) -> dict[str, str]:
    """Tensor name of the denoiser -> name of the tensor of the same shape and values (on strided samples) in a file."""
    handle = _opened(file)
    shaped: dict[tuple[int, ...], list[str]] = {}
    for name in handle.keys():
        shaped.setdefault(tuple(handle.get_slice(name).get_shape()), []).append(name)
    samples: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for module in dict.fromkeys(layer.module for layer in layers):
        weight: Any = denoiser.get_submodule(module).weight
        live = _sample(weight.detach()).cpu()
        for name in shaped.get(tuple(weight.shape), ()):
            if name not in samples:
                samples[name] = _sample(handle.get_tensor(name))
            if samples[name].is_floating_point() and torch.equal(samples[name].to(live.dtype), live):
                found[f"{module}.weight"] = name
                break
    return found


def live_weight(denoiser: nn.Module, layer: Layer) -> Tensor:
    """The part of the live weight that is this layer: a view [O, in, *kernel] without gradient."""
    weight: Any = denoiser.get_submodule(layer.module).weight
    weight = weight.detach()
    return weight if layer.stop - layer.start == weight.shape[1] else weight[:, layer.start:layer.stop]


def _key(layer: Layer) -> str:
    return f"{layer.module}.weight"


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as failure:
        raise ModelError(f"{path} cannot be read ({failure}); download or convert the model again.") from None


def _file_sets(directory: Path) -> Iterable[dict[str, Path]]:
    """Tensor name -> file, for every complete checkpoint in a directory (sharded ones by their index)."""
    if not directory.is_dir():
        return
    sharded: set[Path] = set()
    for index in sorted(directory.glob("*.safetensors.index*.json")):
        table = read_json(index, ModelError, MAX_INDEX_BYTES)
        names = table.get("weight_map", {}) if isinstance(table, dict) else {}
        files = {str(key): directory / Path(str(name)).name for key, name in names.items()}
        sharded.update(files.values())
        if all(path.is_file() for path in set(files.values())):
            yield files
    for path in sorted(directory.glob("*.safetensors")):
        if path not in sharded:
            try:
                yield dict.fromkeys(_opened(path).keys(), path)
            except ModelError:
                continue


def _agree(found: Originals, files: Mapping[str, Path], denoiser: nn.Module, layers: tuple[Layer, ...],
           whole: bool) -> bool:
    """Whether the files hold every layer with these very values (compared on strided samples, unless as a whole)."""
    for layer in layers:
        if _key(layer) not in files:
            return False
        live = live_weight(denoiser, layer)
        try:
            stored = found.tensor(layer)
        except ModelError:
            return False
        if stored.shape != live.shape or not stored.is_floating_point():
            return False
        a, b = (stored.to(live.dtype), live.cpu()) if whole else (_sample(stored).to(live.dtype), _sample(live).cpu())
        if not torch.equal(torch.nan_to_num(a, nan=0.5), torch.nan_to_num(b, nan=0.5)):
            return False
    return True


def _sample(weight: Tensor) -> Tensor:
    index = torch.arange(0, weight.numel(), max(1, weight.numel() // SAMPLES))
    at = torch.unravel_index(index, weight.shape)
    return weight[tuple(i.to(weight.device) for i in at)]


def _saved_to_scratch(denoiser: nn.Module, layers: tuple[Layer, ...]) -> tuple[dict[str, Path], Path]:
    """Tensor name -> file, and the directory of these files."""
    scratch = Path(tempfile.mkdtemp(prefix="quantscape-model-"))
    files: dict[str, Path] = {}
    try:
        for number, part in enumerate(_parts(denoiser, layers)):
            path = scratch / f"part-{number:04d}.safetensors"
            save_file(part, path)
            files.update(dict.fromkeys(part, path))
    except (OSError, SafetensorError) as failure:
        shutil.rmtree(scratch, ignore_errors=True)
        raise ModelError(f"Cannot keep a copy of the weights in {scratch.parent} ({failure}); free space there, or "
                         f"open the model from a diffusers directory.") from None
    return files, scratch


def _parts(denoiser: nn.Module, layers: tuple[Layer, ...]) -> Iterable[dict[str, Tensor]]:
    """The weights of all layers by tensor name, in parts of a few hundred megabytes; halves share their tensor."""
    part: dict[str, Tensor] = {}
    for module in dict.fromkeys(layer.module for layer in layers):
        weight: Any = denoiser.get_submodule(module).weight
        part[f"{module}.weight"] = weight.detach().cpu().contiguous()
        if sum(t.nbytes for t in part.values()) > SCRATCH_SHARD_BYTES:
            yield part
            part = {}
    if part:
        yield part
