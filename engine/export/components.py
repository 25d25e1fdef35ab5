"""Everything of a pipeline but its denoiser's weights: copied from its directory, or saved from memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.core.files import write_json
from engine.export.format import Written
from engine.live.model import Model

# Formats that can run code when they are read, or that diffusers would not read: never passed on.
UNSAFE = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".onnx", ".py"}
INDEX = "model_index.json"
OWN_KEYS = {"_class_name", "_diffusers_version"}


def component_bytes(model: Model) -> int:
    """About what `copy_components` writes."""
    return sum(component.bytes for component in model.structure.components)


def copy_components(model: Model, directory: Path) -> Iterator[Written]:
    """Write all other components into their folders, one record each.

    Raises:
        OSError: the disk is full or not writable.
    """
    names = [name for name, part in model.pipeline.components.items()
             if name != model.denoiser_name and hasattr(part, "save_pretrained")]
    for number, name in enumerate(names, 1):
        source = model.directory / name if model.directory and model.named else None
        if source and source.is_dir():
            _copy(source, directory / name)
        else:
            model.pipeline.components[name].save_pretrained(directory / name)
        yield Written(number, len(names), name)


def write_index(model: Model, directory: Path) -> None:
    """`model_index.json`: last of all, since it makes a directory look like a pipeline."""
    source = model.directory / INDEX if model.directory and model.named else None
    if source and source.is_file():
        shutil.copyfile(source, directory / INDEX)
        return
    model.pipeline.save_config(directory)
    path = directory / INDEX
    write_json(path, _without_origin(json.loads(path.read_bytes())))


def write_config(model: Model, directory: Path, quantization: Mapping[str, Any] | None = None) -> Path:
    """The denoiser's folder with its `config.json`; returns the folder.

    Args:
        model: the live model.
        directory: of the pipeline.
        quantization: the `quantization_config` that makes diffusers read the weights in another way.
    """
    folder = directory / model.denoiser_name
    folder.mkdir(exist_ok=True)
    model.denoiser.save_config(folder)
    path = folder / "config.json"
    config = _without_origin(json.loads(path.read_bytes()))
    config.pop("quantization_config", None)
    if quantization is not None:
        config["quantization_config"] = dict(quantization)
    write_json(path, config)
    return folder


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix not in UNSAFE and not path.name.startswith("."):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _without_origin(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the path it was loaded from."""
    return {key: value for key, value in config.items() if not key.startswith("_") or key in OWN_KEYS}
