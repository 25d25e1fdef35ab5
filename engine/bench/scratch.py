"""Random checkpoints at the full size of a catalogue model, written once into a scratch folder outside the repository.

The denoiser has the published shapes and precision; its weights are heavy-tailed noise (Student's t, 4 degrees of
freedom, as trained weights are), drawn layer by layer so that memory holds one. Text encoders, autoencoder and
tokenizers are the smallest of the family: they are not what is measured. The directory opens through the ordinary
loader.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from engine.core.errors import InputError
from engine.core.files import write_json
from engine.core.seeds import derive
from engine.export.directory import staged
from engine.export.tensorfile import TensorFile
from engine.models.catalog import MODELS, ModelRow, weights_present
from engine.models.quiet import quiet

SHARD_BYTES = 2_000_000_000
SCALE = 0.02
SEED = 20_240_604
DTYPES = {16: torch.float16, 32: torch.float32}
PIECE = 1 << 22  # values drawn at once


def measured_source(model: str, scratch: str | Path | None = None) -> Path | str:
    """What a bench at full size measures: the model itself where its weights are here, else a random twin of its size.

    Args:
        model: catalogue name, directory, file or hub id.
        scratch: where twins are kept; default `quantscape-bench` in the system's folder for temporary files.

    Raises:
        EngineError: there is no room for it.
    """
    row = MODELS.get(model)
    return model if row is None or weights_present(row) else random_pipeline(row, scratch)


def random_pipeline(row: ModelRow, scratch: str | Path | None = None) -> Path:
    """The directory of the random twin of a row, written if it is not there yet.

    Raises:
        InputError: no pipeline of its kind can be built.
        EngineError: there is no room for it.
    """
    home = scratch_dir(scratch) / f"{row.name}-size"
    if home.exists():
        return home
    from engine.models.loading import denoiser_of

    pipeline = _smallest(row)
    name, _ = denoiser_of(pipeline)
    shapes = _shapes(row)
    dtype = DTYPES[row.precision_bits]
    with staged(home, sum(map(math.prod, shapes.values())) * dtype.itemsize) as directory:
        with quiet():
            pipeline.save_pretrained(directory)
        shutil.rmtree(directory / name)
        (directory / name).mkdir()
        write_json(directory / name / "config.json", {"_class_name": row.denoiser_class, **row.config})
        _write_shards(directory / name, shapes, dtype)
    return home


def scratch_dir(scratch: str | Path | None = None) -> Path:
    """Where full-size benches keep what they write."""
    return Path(scratch) if scratch else Path(tempfile.gettempdir()) / "quantscape-bench"


def noise(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Student's t with 4 degrees of freedom times `SCALE`, float32: a normal over the root of a mean of two
    exponentials."""
    out = torch.empty(math.prod(shape))
    for piece in out.split(PIECE):
        piece.normal_(0, SCALE, generator=generator)
        spread = torch.rand(2, piece.numel(), generator=generator).clamp_(min=2**-24).log_().sum(0).mul_(-0.5)
        piece.div_(spread.sqrt_())
    return out.view(shape)


def _smallest(row: ModelRow) -> Any:
    """The smallest pipeline of a row's class."""
    from engine.models.tiny import TINY

    for build in TINY.values():
        pipeline = build()
        if type(pipeline).__name__ == row.pipeline_class:
            return pipeline
    raise InputError(f"No random {row.pipeline_class} can be built for {row.name}; name a model whose weights are "
                     f"here.")


def _shapes(row: ModelRow) -> dict[str, tuple[int, ...]]:
    from engine.models.building import meta_twin
    from engine.models.loading import component_class

    twin = meta_twin(component_class("diffusers", row.denoiser_class), row.config)
    return {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}


def _write_shards(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    """Shards of about 2 GB with their index, as large published checkpoints are."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        size += math.prod(shape) * dtype.itemsize
        if size > SHARD_BYTES and parts[-1]:
            parts.append({})
            size = math.prod(shape) * dtype.itemsize
        parts[-1][name] = shape
    table = {}
    for number, part in enumerate(parts, 1):
        file = f"diffusion_pytorch_model-{number:05d}-of-{len(parts):05d}.safetensors"
        with TensorFile(folder / file, {name: (dtype, shape) for name, shape in part.items()}) as writer:
            for name in writer.order:
                writer.append(_tensor(name, part[name]).to(dtype))
        table.update(dict.fromkeys(part, file))
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": sum(map(math.prod, shapes.values())) * dtype.itemsize},
                    "weight_map": table}))


def _tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Noise for weights, ones for the scales of norms, zeros for what is added: the denoiser stays finite."""
    if len(shape) > 1:
        return noise(shape, torch.Generator().manual_seed(derive(SEED, name)))
    return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
