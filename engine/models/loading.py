"""Opens a pipeline from whatever the user names, or says in one sentence why it cannot be opened.

Constraints: safetensors only; a stranger's code is never run; what a directory promises is checked before weights
are read (half-downloaded models), what was read is checked before it is used (missing tensors would silently be
random, NaN would only show in the pictures). The denoiser is found by what it is, never by name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.errors import ModelError
from engine.models.accepted import check_channels, check_pipeline_class, is_denoiser_class
from engine.models.catalog import SHIPPED
from engine.models.checkpoint import Checkpoint, read_component, read_header
from engine.models.memory import ran_out
from engine.models.quiet import quiet
from engine.models.sources import Source, component_config, read_index, resolve

FLOATS = ("F32", "F16", "BF16")  # as safetensors names what weights are stored in
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pipeline(source: str | os.PathLike[str], *, dtype: str = "float32", device: str = "cpu") -> Any:
    """A `DiffusionPipeline`, ready to be called, its denoiser whole and finite.

    Args:
        source: catalogue name, diffusers directory, single-file `.safetensors`, or hub id (local cache first).
        dtype: "float32", "float16" or "bfloat16".
        device: "cpu", "cuda", ...

    Raises:
        ModelError: it cannot be opened; one sentence (what came, what was expected, what to do).
    """
    if dtype not in DTYPES:
        raise ModelError(f"Models compute in {', '.join(DTYPES)}, not in {str(dtype)[:20]!r}.")
    found = resolve(source)
    with quiet(), _explained(found.name):
        if found.file:
            from engine.models.single_file import load_single_file

            pipeline = load_single_file(found.file, DTYPES[dtype])
        else:
            pipeline = _from_directory(directory_of(found), DTYPES[dtype])
        name, denoiser = denoiser_of(pipeline)
        check_channels(denoiser, getattr(pipeline, "vae", None), found.name)
        check_finite(denoiser, name)
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def denoiser_of(pipeline: Any) -> tuple[str, nn.Module]:
    """Name and module of the component that denoises: the largest whose forward takes a timestep and a picture.

    Raises:
        ModelError: there is none.
    """
    found = [(name, c) for name, c in pipeline.components.items() if is_denoiser_class(type(c))]
    if not found:
        raise ModelError(f"{type(pipeline).__name__} has no denoiser (no component takes a timestep); "
                         f"open an image-generating diffusion model.")
    return max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def directory_of(source: Source) -> Path:
    """The pipeline's directory, downloaded if the hub is reachable.

    Raises:
        ModelError: it is not here and cannot be fetched.
    """
    if source.directory:
        return source.directory
    if source.row and source.row.source.startswith(SHIPPED):
        raise ModelError(f"The weights of {source.name} are missing from {source.row.source}; make them with the "
                         f"scripts in assets/make, or restore that directory.")
    try:
        with quiet(bars_too=False):
            from diffusers import DiffusionPipeline

            return Path(DiffusionPipeline.download(source.hub_id, use_safetensors=True))
    except (OSError, ValueError, RuntimeError) as failure:
        raise ModelError(f"{source.hub_id} is not on this machine and could not be downloaded "
                         f"({_first_line(failure)}); connect to the network, or name a local directory.") from None


def component_class(library: str, name: str) -> Any:
    """The class a pipeline index names.

    Raises:
        ModelError: the installed libraries have no such class.
    """
    import importlib

    module = library if library in ("diffusers", "transformers") else f"diffusers.pipelines.{library}"
    with quiet():
        found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type):
        raise ModelError(f"The installed {library} has no class {name[:60]!r}; update it, or open another model.")
    return found


def pipeline_class(name: str) -> Any:
    """A pipeline class of diffusers, refused if it is none or not accepted.

    Raises:
        ModelError: see `check_pipeline_class`.
    """
    cls = component_class("diffusers", name)
    with quiet():
        from diffusers import DiffusionPipeline
    if not issubclass(cls, DiffusionPipeline):
        raise ModelError(f"{name} is no pipeline of diffusers; name a directory made by a pipeline's save_pretrained.")
    check_pipeline_class(cls)
    return cls


def denoiser_entry(directory: Path) -> tuple[str, Any]:
    """Component name and class of a directory's denoiser, from its index alone.

    Raises:
        ModelError: it has none, or is no pipeline that can be opened.
    """
    name, components = read_index(directory)
    cls = pipeline_class(name)
    entries = [(key, component_class(*entry)) for key, entry in components.items()]
    denoisers = [(key, c) for key, c in entries if is_denoiser_class(c)]
    if not denoisers:
        raise ModelError(f"{cls.__name__} in {directory.name} has no denoiser (no component takes a timestep); "
                         f"open an image-generating diffusion model.")
    if len(denoisers) == 1:
        return denoisers[0]
    return max(denoisers, key=lambda entry: read_component(directory / entry[0]).weights)


def checkpoints(directory: Path) -> dict[str, Checkpoint]:
    """Headers of every component that has weights, all files checked.

    Raises:
        ModelError: one is missing, truncated or corrupt.
    """
    _, components = read_index(directory)
    return {name: read_component(directory / name) for name in components if component_config(directory / name)}


def _from_directory(directory: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    name, _ = denoiser_entry(directory)
    check_unquantized(directory / name)
    stored = checkpoints(directory)
    check_types(stored[name], (key for key in stored[name].tensors if key.endswith(".weight")),
                f"{directory.name}/{name}")
    _, components = read_index(directory)
    modules = {}
    for key in stored:
        cls = component_class(*components[key])
        if issubclass(cls, nn.Module):
            modules[key] = _load_module(cls, directory / key, dtype, stored[key])
    variants = {c.variant for c in stored.values()} - {""}
    return DiffusionPipeline.from_pretrained(
        str(directory), dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
        variant=variants.pop() if len(variants) == 1 else None, **modules,
    )


def _load_module(cls: Any, folder: Path, dtype: torch.dtype, stored: Checkpoint) -> nn.Module:
    """A component whose every tensor came from its files (the libraries would fill others at random)."""
    module, report = cls.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True,
        variant=stored.variant or None,
    )
    check_report(report, f"{folder.parent.name}/{folder.name}")
    return module


def check_report(report: dict[str, Any], place: str) -> None:
    """Refuse a module that was only partly filled.

    Raises:
        ModelError: tensors are missing or have other shapes.
    """
    for key, what in (("missing_keys", "lacks"), ("mismatched_keys", "has in another shape")):
        names = sorted(str(k[0] if isinstance(k, tuple) else k) for k in report[key])
        if names:
            raise ModelError(f"The checkpoint in {place} {what} {len(names)} tensors that its configuration calls for "
                             f"(first: {names[0]}); weights and config.json belong to different models.")


def check_unquantized(folder: Path) -> None:
    """Refuse a component that another program has quantized.

    Raises:
        ModelError: its configuration says so.
    """
    if "quantization_config" in component_config(folder):
        raise ModelError(f"{folder.parent.name}/{folder.name} is quantized already; open the full-precision model.")


def stored_dtype(source: str | os.PathLike[str]) -> str:
    """What most weights of a model's denoiser are stored in: "float32", "float16" or "bfloat16".

    Raises:
        ModelError: it cannot be read.
    """
    found = resolve(source)
    if found.file:
        tensors = read_header(found.file)
    else:
        directory = directory_of(found)
        tensors = checkpoints(directory)[denoiser_entry(directory)[0]].tensors
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.weights
    most = max((d for d in counts if d in FLOATS), key=lambda d: counts[d], default="F32")
    return dict(zip(FLOATS, DTYPES, strict=True))[most]


def check_types(stored: Checkpoint, names: Iterable[str], place: str) -> None:
    """Refuse weights of any type but the usual floats: whole numbers and 8-bit floats are somebody's quantization.

    Raises:
        ModelError: the first such tensor.
    """
    for name in sorted(names):
        tensor = stored.tensors.get(name)
        if tensor and tensor.dtype not in FLOATS:
            raise ModelError(f"{place} stores {name} as {tensor.dtype}, expected one of {', '.join(FLOATS)}: it was "
                             f"quantized or converted by another program; open the full-precision model.")


def check_finite(module: nn.Module, place: str) -> None:
    """Refuse broken weights.

    Raises:
        ModelError: a tensor holds NaN or infinity.
    """
    for name, parameter in module.named_parameters():
        low, high = torch.aminmax(parameter.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ModelError(f"The weights of {place} are broken: {name} holds NaN or infinity; download the model "
                             f"again, or take a checkpoint that was saved in a wider type.")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever the libraries raise on a file from outside becomes one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, NotImplementedError,
            SafetensorError) as failure:
        if ran_out(failure):
            raise
        raise ModelError(f"{name} cannot be opened as a diffusion pipeline ({_first_line(failure)}); check that the "
                         f"download is whole, or open another model.") from failure


def _first_line(failure: BaseException) -> str:
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return f"{type(failure).__name__}: {lines[0][:160]}"
