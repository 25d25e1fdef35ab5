"""Safetensors checkpoints as headers: which tensors a component directory holds, checked without reading weights.

Standard library only. Everything here may come from a stranger or from an interrupted download, so lengths, offsets
and shapes are checked before they are believed.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.errors import ModelError
from engine.core.files import parse_json, read_json

PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 64_000_000
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return self.weights * BITS.get(self.dtype, 32) // 8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of one component.

    `variant`: "" or what stands before the file suffix (`fp16` in `model.fp16.safetensors`).
    """

    tensors: dict[str, TensorInfo]
    variant: str = ""

    @property
    def weights(self) -> int:
        """Number of values."""
        return sum(t.weights for t in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(t.bytes for t in self.tensors.values())

    @property
    def precision_bits(self) -> int:
        """Bits of the float type that most values have."""
        counts: dict[int, int] = {}
        for tensor in self.tensors.values():
            if "F" in tensor.dtype:
                bits = BITS.get(tensor.dtype, 32)
                counts[bits] = counts.get(bits, 0) + tensor.weights
        return max(counts, key=lambda bits: counts[bits], default=32)


def read_component(directory: Path) -> Checkpoint:
    """The tensors in a component directory: the plain checkpoint, else its first variant.

    Raises:
        ModelError: no safetensors, a shard is missing, or a file is truncated or corrupt.
    """
    indexes = sorted(directory.glob("*.safetensors.index*.json"), key=lambda p: len(p.name))
    plain = sorted((p for p in directory.glob("*.safetensors") if "-of-" not in p.name), key=lambda p: len(p.name))
    if indexes and (not plain or _variant(indexes[0]) <= _variant(plain[0])):
        return Checkpoint(_sharded(indexes[0]), _variant(indexes[0]))
    if plain:
        return Checkpoint(read_header(plain[0]), _variant(plain[0]))
    if any(directory.glob("*-of-*.safetensors")):
        raise ModelError(f"{_short(directory)} has shards of a checkpoint but not their index; download it again.")
    pickled = sorted(p.name for p in directory.glob("*") if p.suffix in PICKLES)
    if pickled:
        raise ModelError(f"{_short(directory)} holds its weights as a pickle ({pickled[0]}), which can run code when "
                         f"it is read; convert the model to safetensors.")
    raise ModelError(f"{_short(directory)} has no weights: expected a .safetensors file; finish the download.")


def _variant(path: Path) -> str:
    """`diffusion_pytorch_model.fp16.safetensors` or `...safetensors.index.fp16.json` -> "fp16"; "" without."""
    known = {"safetensors", "index", "json"}
    words = [w.partition("-0")[0] for w in path.name.split(".")[1:]]
    return next((w for w in words if w not in known), "")


def _sharded(index: Path) -> dict[str, TensorInfo]:
    data = read_json(index, ModelError, MAX_INDEX_BYTES)
    table = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise ModelError(f"{_short(index)} has no weight_map from tensors to files; download the model again.")
    headers = {}
    for name in sorted(set(table.values())):
        path = index.parent / Path(name).name
        if not path.is_file():
            raise ModelError(f"{_short(path)} is missing: {_short(index)} names it as a part of the checkpoint; "
                             f"finish the download.")
        headers[name] = read_header(path)
    for tensor, name in table.items():
        if tensor not in headers[name]:
            raise ModelError(f"{_short(index)} says that {name} holds {tensor!r}, but it does not; "
                             f"index and shards belong to different models, download it again.")
    return {tensor: headers[name][tensor] for tensor, name in table.items()}


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name -> tensor of a safetensors file, after checking that the file is whole.

    Raises:
        ModelError: missing, empty, truncated, oversized or inconsistent; one sentence.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{_short(path)} is no whole safetensors file ({size} bytes, its header should have "
                                 f"{length}); download it again.")
            text = file.read(length)
    except OSError as failure:
        raise ModelError(f"Cannot read {path}: {failure.strerror or failure}.") from None
    data = parse_json(text, f"The header of {_short(path)}", ModelError)
    if not isinstance(data, dict):
        raise ModelError(f"The header of {_short(path)} is no JSON object; download it again.")
    data.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in data.items():
        tensors[name], stop = _entry(path, name, entry)
        end = max(end, stop)
    if end != size - 8 - length:
        raise ModelError(f"{_short(path)} is truncated or corrupt: its header asks for {end} bytes of tensors, it has "
                         f"{size - 8 - length}; download it again.")
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int]:
    try:
        shape = tuple(int(n) for n in entry["shape"])
        start, stop = (int(n) for n in entry["data_offsets"])
        tensor = TensorInfo(path, str(entry["dtype"]), shape)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ModelError(f"The header of {_short(path)} does not describe {name[:80]!r}; download it again.") from None
    whole = tensor.dtype not in BITS or stop - start == tensor.bytes
    if min(shape, default=0) < 0 or not 0 <= start <= stop or not whole:
        raise ModelError(f"The header of {_short(path)} contradicts itself at {name[:80]!r}; download it again.")
    return tensor, stop


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
