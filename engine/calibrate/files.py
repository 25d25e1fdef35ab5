"""Calibration on disk: a folder of safetensors parts that an interrupted run continues, refused for anything else.

`head.json` holds what determines the numbers (model, prompts, steps, ...). Each part is written whole or not at all,
so a part that is there is done, and says what making it took. Nested arguments are stored as a JSON skeleton with
numbered tensors; tensors that are the same object are stored once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.core.errors import StoreError
from engine.core.files import parse_json, read_json, write_atomic, write_json
from engine.core.resident import peak_memory

VERSION = 1
HEAD = "head.json"
TENSOR = "tensor"

Cost = tuple[float | None, float | None]  # seconds, and peak resident megabytes; None = nobody noted it
UNKNOWN: Cost = (None, None)


def together(costs: Iterable[Cost]) -> Cost:
    """Of work done in several runs: the sum of the seconds, the largest of the peaks; unknown where one is."""
    seconds, peaks = zip(*costs, strict=True)
    return None if None in seconds else sum(seconds), None if None in peaks else max(peaks)


class Folder:
    """Parts of one calibration run by name; in memory where there is no directory.

    A part's cost is the time since the one before it was kept (or the folder was opened), with all that was done for
    it, and the process's peak of memory so far.

    Attributes:
        taken: cost of the parts that were read and not made by this object, by name.
    """

    def __init__(self, directory: Path | None, head: Mapping[str, Any]) -> None:
        """Begin a folder, or continue one that was begun with the same head.

        Raises:
            StoreError: it was begun with another model or other settings, or its head is damaged.
        """
        self._directory = directory
        self._memory: dict[str, tuple[dict[str, Tensor], Any]] = {}
        self._made: set[str] = set()
        self._since = time.perf_counter()
        self.taken: dict[str, Cost] = {}
        if directory is None:
            return
        wanted = {"version": VERSION, **head}
        place = directory / HEAD
        if not place.is_file():
            if directory.is_dir() and any(directory.iterdir()):
                raise StoreError(f"{directory} holds other files and no {HEAD}; name an empty folder.")
            write_json(place, wanted)
            return
        found = read_json(place, StoreError)
        if found != json.loads(json.dumps(wanted)):
            known = found if isinstance(found, dict) else {}
            different = sorted(k for k in {**known, **wanted} if known.get(k) != json.loads(json.dumps(wanted.get(k))))
            raise StoreError(f"{directory.name} was begun with other settings ({', '.join(different)[:200]}); continue "
                             f"with those, or name another folder.")

    def has(self, name: str) -> bool:
        """Whether a part is done."""
        return name in self._memory if self._directory is None else self._path(name).is_file()

    def save(self, name: str, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Keep a part; with a directory it is on disk when this returns."""
        if self._directory is None:
            self._memory[name] = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}, about
        else:
            seconds = time.perf_counter() - self._since
            save_part(self._path(name), tensors, about, (seconds, peak_memory() / 1e6))
        self._made.add(name)
        self._since = time.perf_counter()

    def load(self, name: str) -> tuple[dict[str, Tensor], Any]:
        """Tensors and the rest of a part.

        Raises:
            StoreError: it is missing or damaged.
        """
        if self._directory is None:
            return self._memory[name]
        tensors, rest = _read(self._path(name))
        if name not in self._made:
            self.taken.setdefault(name, tuple(rest.get("cost", UNKNOWN)))
        return tensors, rest.get("about")

    def _path(self, name: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{name}.safetensors"


def save_part(path: Path, tensors: Mapping[str, Tensor], about: Any = None, cost: Cost | None = None) -> None:
    """Write tensors, a JSON value and what making them took into one safetensors file, whole or not at all."""
    plain = {key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}
    said = {"about": json.dumps(about)} | ({"cost": json.dumps(cost)} if cost else {})
    write_atomic(path, save(plain, said))


def load_part(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors and JSON value of `save_part`.

    Raises:
        StoreError: the file is missing or damaged.
    """
    tensors, rest = _read(path)
    return tensors, rest.get("about")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            rest = {key: parse_json(text, path.name, StoreError) for key, text in (file.metadata() or {}).items()}
            return {key: file.get_tensor(key) for key in file.keys()}, rest
    except (OSError, SafetensorError) as failure:
        raise StoreError(f"{path} cannot be read ({str(failure)[:100]}); remove it, and run the calibration "
                         f"again.") from None


class Packer:
    """Takes nested arguments apart into a skeleton and tensors; equal objects share one tensor."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[tuple[Any, ...], tuple[str, Tensor]] = {}

    def pack(self, value: Any) -> Any:
        """The skeleton of a value made of tensors, plain values, lists, tuples and dictionaries.

        Raises:
            StoreError: anything else is in it.
        """
        if isinstance(value, Tensor):
            return {TENSOR: self._name(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"value": value}
        if isinstance(value, Mapping):
            return {"map": {str(k): self.pack(v) for k, v in value.items()}}
        if isinstance(value, (list, tuple)):
            return {"tuple" if isinstance(value, tuple) else "list": [self.pack(v) for v in value]}
        raise StoreError(f"The denoiser is called with a {type(value).__name__}, which cannot be captured.")

    def _name(self, tensor: Tensor) -> str:
        # the version counter grows with every in-place change: the same memory with other values is another tensor
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor._version)
        if key not in self._known:
            name = str(len(self._known))
            # the original is kept alive, or its address would be reused
            self._known[key] = name, tensor
            self.tensors[name] = tensor.detach().to("cpu", copy=True)
        return self._known[key][0]


def unpack(skeleton: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The value that `Packer.pack` took apart, its tensors on a device.

    Raises:
        StoreError: the skeleton is damaged.
    """
    try:
        (kind, content), = skeleton.items()
        if kind == TENSOR:
            return tensors[content].to(device)
        if kind == "value":
            return content
        if kind == "map":
            return {k: unpack(v, tensors, device) for k, v in content.items()}
        return {"tuple": tuple, "list": list}[kind](unpack(v, tensors, device) for v in content)
    except (KeyError, ValueError, AttributeError, TypeError):
        raise StoreError("A captured call is damaged; remove the folder and capture again.") from None
