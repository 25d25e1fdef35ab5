"""Single-file `.safetensors` checkpoints: recognised by converting their header, opened offline through diffusers.

A checkpoint in the layout of its training code is matched with every catalogue row: its tensors, as empty ones, are
renamed by diffusers' own converter under that row's configuration, and must then have exactly the names and shapes
of that row's denoiser. Configurations and tokenizers come from a pipeline directory: beside the file (its name
without the suffix, or the folder it lies in), shipped, or in the hub's cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.core.errors import ModelError
from engine.core.graph import Structure
from engine.models.building import NeedsWeightsError, build_structure, meta_twin
from engine.models.catalog import MODELS, ModelRow, local_directory
from engine.models.checkpoint import Checkpoint, TensorInfo, read_header
from engine.models.identity import identity_of_files
from engine.models.loading import check_types, component_class, denoiser_entry, pipeline_class
from engine.models.quiet import quiet
from engine.models.sources import INDEX, component_config, read_index


def load_single_file(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline in a single-file checkpoint; it remembers the file as its `name_or_path`.

    Raises:
        ModelError: it is truncated, of no known architecture, or its configuration and tokenizers are not here.
    """
    directory, cls, _ = _described(path)
    with quiet():
        pipeline = cls.from_single_file(str(path), config=str(directory), torch_dtype=dtype, local_files_only=True)
    pipeline.register_to_config(_name_or_path=str(path))
    return pipeline


def read_denoiser(path: Path) -> tuple[Structure, dict[str, str]] | None:
    """Structure of a checkpoint's denoiser (no other components) and where each of its tensors lies, without loading
    any: diffusers' converter renames tensors that are mapped, not read.

    Returns:
        The structure, and tensor name of the denoiser -> name in the file; None where the converter changes a
        parameter (cuts up or joins tensors), or tracing needs weights: then only the loaded model tells.

    Raises:
        ModelError: as `load_single_file`.
    """
    _, _, twin = _described(path)
    called = _names_in_file(path, twin)
    if called is None:
        return None
    stored = Checkpoint(read_header(path))
    identity = identity_of_files(stored, called, called)
    try:
        return build_structure(twin, model=str(path), identity=identity, precision_bits=stored.precision_bits), called
    except NeedsWeightsError:
        return None


def _names_in_file(path: Path, twin: Any) -> dict[str, str] | None:
    """Parameter of the denoiser -> the tensor of the file that it is, told by where it lies; None if one is not."""
    with safe_open(path, framework="pt", device="cpu") as file:
        mapped = {name: file.get_tensor(name) for name in file.keys()}
    converted = _converted(dict(mapped), twin) or {}
    names = {(t.data_ptr(), t.shape, t.stride()): name for name, t in mapped.items()}
    places = {key: converted[key] for key, _ in twin.named_parameters()}
    found = {key: names.get((t.data_ptr(), t.shape, t.stride()), "") for key, t in places.items()}
    return found if all(found.values()) else None


def _described(path: Path) -> tuple[Path, Any, Any]:
    """The directory that describes a checkpoint, its pipeline class, and the denoiser on the meta device.

    Raises:
        ModelError: the checkpoint does not hold that denoiser, or holds it quantized.
    """
    header = read_header(path)
    directory, cls = _template(path, header)
    name, denoiser = denoiser_entry(directory)
    twin = meta_twin(denoiser, component_config(directory / name))
    if not _fits(header, twin):
        raise ModelError(f"{path.name} does not hold the {denoiser.__name__} that {directory} describes; put the "
                         f"configuration of its own model beside it.")
    check_types(Checkpoint(header), (key for key in header if key.endswith(".weight")), path.name)
    return directory, cls, twin


def _template(path: Path, header: dict[str, TensorInfo]) -> tuple[Path, Any]:
    """The pipeline directory whose configurations and tokenizers go with a checkpoint, and its pipeline class."""
    for place in (path.with_suffix(""), path.parent):
        if (place / INDEX).is_file():
            return place, pipeline_class(read_index(place)[0])
    row = recognised(path, header)
    directory = local_directory(row)
    if directory is None:
        raise ModelError(f"{path.name} is a {row.title} checkpoint, but the configuration and tokenizers of that model "
                         f"are not on this machine; put those of {row.source} into {path.with_suffix('').name}/ "
                         f"beside it.")
    return directory, pipeline_class(row.pipeline_class)


def recognised(path: Path, header: dict[str, TensorInfo]) -> ModelRow:
    """The catalogue row whose denoiser the checkpoint holds.

    Raises:
        ModelError: none.
    """
    for row in MODELS.values():
        if _fits(header, meta_twin(component_class("diffusers", row.denoiser_class), row.config)):
            return row
    raise ModelError(f"{path.name} holds no denoiser of a known architecture ({len(header)} tensors); open its "
                     f"diffusers directory, or one of: {', '.join(MODELS)}.")


def _fits(header: dict[str, TensorInfo], twin: Any) -> bool:
    """Whether a checkpoint holds every tensor of this denoiser in its shape, once renamed."""
    stored = _converted({n: torch.empty(t.shape, device="meta") for n, t in header.items()}, twin)
    return stored is not None and all(
        name in stored and tuple(stored[name].shape) == tuple(t.shape) for name, t in twin.state_dict().items())


def _converted(stored: dict[str, Any], twin: Any) -> dict[str, Any] | None:
    """A checkpoint's tensors under a denoiser's own names, by diffusers' converter, which empties the dict; None where
    that is the converter of another architecture."""
    from diffusers.loaders.single_file_model import (
        SINGLE_FILE_LOADABLE_CLASSES,
        _get_single_file_loadable_mapping_class,
    )

    mapping = _get_single_file_loadable_mapping_class(type(twin))
    if twin.state_dict().keys() == stored.keys() or mapping is None:
        return stored
    try:
        convert = SINGLE_FILE_LOADABLE_CLASSES[mapping]["checkpoint_mapping_fn"]
        found: dict[str, Any] = convert(config=dict(twin.config), checkpoint=stored)
        return found
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError, AttributeError):
        return None
