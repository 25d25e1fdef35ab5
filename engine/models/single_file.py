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

from engine.core.errors import ModelError
from engine.models.building import meta_twin
from engine.models.catalog import MODELS, ModelRow, local_directory
from engine.models.checkpoint import Checkpoint, TensorInfo, read_header
from engine.models.loading import check_types, component_class, denoiser_entry, pipeline_class
from engine.models.quiet import quiet
from engine.models.sources import INDEX, component_config, read_index


def load_single_file(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline in a single-file checkpoint; it remembers the file as its `name_or_path`.

    Raises:
        ModelError: it is truncated, of no known architecture, or its configuration and tokenizers are not here.
    """
    header = read_header(path)
    directory, cls = _template(path, header)
    name, denoiser = denoiser_entry(directory)
    if not _fits(header, denoiser, component_config(directory / name)):
        raise ModelError(f"{path.name} does not hold the {denoiser.__name__} that {directory} describes; put the "
                         f"configuration of its own model beside it.")
    check_types(Checkpoint(header), (key for key in header if key.endswith(".weight")), path.name)
    with quiet():
        pipeline = cls.from_single_file(str(path), config=str(directory), torch_dtype=dtype, local_files_only=True)
    pipeline.register_to_config(_name_or_path=str(path))
    return pipeline


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
        if _fits(header, component_class("diffusers", row.denoiser_class), row.config):
            return row
    raise ModelError(f"{path.name} holds no denoiser of a known architecture ({len(header)} tensors); open its "
                     f"diffusers directory, or one of: {', '.join(MODELS)}.")


def _fits(header: dict[str, TensorInfo], cls: Any, config: dict[str, Any]) -> bool:
    """Whether a checkpoint holds every tensor of this denoiser in its shape, once renamed."""
    from diffusers.loaders.single_file_model import (
        SINGLE_FILE_LOADABLE_CLASSES,
        _get_single_file_loadable_mapping_class,
    )

    twin = meta_twin(cls, config)
    wanted = {name: tuple(t.shape) for name, t in twin.state_dict().items()}
    stored: dict[str, Any] = {n: torch.empty(t.shape, device="meta") for n, t in header.items()}
    mapping = _get_single_file_loadable_mapping_class(cls)
    if wanted.keys() != stored.keys() and mapping is not None:
        try:
            convert = SINGLE_FILE_LOADABLE_CLASSES[mapping]["checkpoint_mapping_fn"]
            stored = convert(config=dict(twin.config), checkpoint=stored)
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError, AttributeError):
            return False  # the converter of another architecture
    return all(name in stored and tuple(stored[name].shape) == shape for name, shape in wanted.items())
