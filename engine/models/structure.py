"""The structure of any model without loading its weights, so that the graph is there before torch is.

For a directory the denoiser is traced from its configuration alone; identity, precision and sizes come from the
headers and samples of its files. Without weights the catalogue's configuration serves. Answers are kept, see
`engine.models.keeping`; a kept one imports neither torch nor diffusers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.core.errors import ModelError
from engine.core.graph import Component, Structure
from engine.models.checkpoint import Checkpoint, read_header
from engine.models.keeping import cache_file, read_cached, read_shipped, write_cached, write_shipped
from engine.models.sources import Source, component_config, read_index, resolve


def read_structure(source: str | os.PathLike[str]) -> Structure:
    """The structure of a model named by catalogue name, directory, single file or hub id.

    Without weights on this machine it is made from the catalogue's configuration and has no identity.

    Raises:
        ModelError: it cannot be opened; one sentence.
    """
    found = resolve(source)
    if not (found.directory or found.file or found.row):
        from engine.models.loading import directory_of

        found = replace(found, directory=directory_of(found))
    place = cache_file(found)
    cached = read_cached(place)
    if cached is None:
        cached = (read_shipped(found.directory) if found.directory else None) or _build(found)
        write_cached(place, cached)
    return replace(cached, model=found.name)


def ship_structure(directory: str | os.PathLike[str]) -> Path:
    """Write a model's structure beside its weights, so that its first opening anywhere needs no torch either.

    It is believed as long as every file of the directory has the content it had.

    Raises:
        ModelError: it cannot be opened.
        EngineError: the directory is not writable.
    """
    found = resolve(directory)
    if found.directory is None:
        raise ModelError(f"{found.name} has no directory on this machine to put its structure into.")
    return write_shipped(found.directory, _build(found))


def structure_of(pipeline: Any, name: str, source: str | os.PathLike[str] | None = None) -> Structure:
    """The structure of a pipeline in memory.

    Args:
        pipeline: a diffusers pipeline.
        name: what the structure calls it.
        source: directory it was loaded from, which says how the checkpoint is stored (precision, component sizes);
            default the one the pipeline remembers.

    Raises:
        ModelError: it has no denoiser, or one that cannot be traced.
    """
    home = Path(source or getattr(pipeline, "name_or_path", "") or "")
    opened = home.is_file() or (home / "model_index.json").is_file()
    return _live_structure(pipeline, name, read_structure(home) if opened else None)


def _live_structure(pipeline: Any, name: str, stored: Structure | None) -> Structure:
    """Structure of a pipeline in memory; `stored` is that of the files it came from, if there are any."""
    from engine.models.building import NeedsWeightsError, build_structure, meta_twin, run_in_pipeline
    from engine.models.identity import identity_of_module
    from engine.models.layers import owners
    from engine.models.loading import denoiser_of

    _, denoiser = denoiser_of(pipeline)
    identity, owner = identity_of_module(denoiser), owners(denoiser)
    if stored and stored.identity == identity and all(path == first for path, first in owner.items()):
        return replace(stored, model=name)
    twin = meta_twin(type(denoiser), dict(denoiser.config))
    if set(twin.state_dict()) != set(denoiser.state_dict()):
        changed = sorted(set(twin.state_dict()) ^ set(denoiser.state_dict()))
        raise ModelError(f"The denoiser of {name} was changed after loading ({changed[0]}); fuse adapters into the "
                         f"weights (fuse_lora, then unload_lora_weights) before opening it.")
    facts: dict[str, Any] = {
        "model": name, "identity": identity, "owner": owner,
        "precision_bits": stored.precision_bits if stored else _live_precision(denoiser),
        "components": stored.components if stored else _live_components(pipeline, denoiser),
    }
    try:
        return build_structure(twin, **facts)
    except NeedsWeightsError:
        return build_structure(twin, **facts, run=run_in_pipeline(pipeline, denoiser, owner))


def why_no_weights(source: str | os.PathLike[str]) -> str:
    """Why a model can be looked at but not run, in one sentence; "" if its weights are here.

    Raises:
        ModelError: there is no such model.
    """
    found = resolve(source)
    if found.directory or found.file:
        return ""
    return (f"The weights of {found.name} are not on this machine ({found.hub_id}): structure, sizes and budgets work, "
            f"pictures and measurements need the model.")


def _build(found: Source) -> Structure:
    """Trace the denoiser from its configuration; identity and sizes from the headers and samples of its files."""
    if found.file:
        from engine.models.single_file import load_single_file

        structure = _live_structure(load_single_file(found.file), found.name, None)
        return replace(structure, precision_bits=Checkpoint(read_header(found.file)).precision_bits)
    from engine.models.building import NeedsWeightsError, build_structure, check_shapes, meta_twin

    if found.directory is None:
        from engine.models.loading import component_class

        row = found.row
        assert row is not None
        twin = meta_twin(component_class("diffusers", row.denoiser_class), row.config)
        return build_structure(twin, model=found.name, precision_bits=row.precision_bits, components=row.components)

    from engine.models.identity import identity_of_files
    from engine.models.loading import check_types, checkpoints, denoiser_entry

    stored = checkpoints(found.directory)
    name, cls = denoiser_entry(found.directory)
    check_types(stored[name], (key for key in stored[name].tensors if key.endswith(".weight")),
                f"{found.directory.name}/{name}")
    twin = meta_twin(cls, component_config(found.directory / name))
    check_shapes(stored[name], twin, f"{found.directory.name}/{name}")
    identity = identity_of_files(stored[name], (n for n, _ in twin.named_parameters()))
    facts: dict[str, Any] = {
        "model": found.name, "precision_bits": stored[name].precision_bits,
        "components": _stored_components(found.directory, stored, name),
    }
    try:
        return build_structure(twin, identity=identity, **facts)
    except NeedsWeightsError:
        from engine.models.loading import load_pipeline

        return replace(_live_structure(load_pipeline(found.directory), found.name, None), **facts)


def _stored_components(directory: Path, stored: dict[str, Checkpoint], denoiser: str) -> tuple[Component, ...]:
    _, classes = read_index(directory)
    return tuple(
        Component(key, classes[key][1], c.weights, c.bytes) for key, c in sorted(stored.items()) if key != denoiser
    )


def _live_components(pipeline: Any, denoiser: Any) -> tuple[Component, ...]:
    from torch import nn

    modules = {k: m for k, m in sorted(pipeline.components.items()) if isinstance(m, nn.Module) and m is not denoiser}
    return tuple(
        Component(key, type(m).__name__, sum(t.numel() for t in _unique(m)), sum(t.nbytes for t in _unique(m)))
        for key, m in modules.items()
    )


def _unique(module: Any) -> Iterable[Any]:
    """Stored tensors of a module, shared ones once."""
    return {t.untyped_storage().data_ptr(): t for t in module.state_dict().values()}.values()


def _live_precision(denoiser: Any) -> int:
    return 8 * next(denoiser.parameters()).element_size()
