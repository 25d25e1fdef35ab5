"""Open a model for editing: pipeline, denoiser, structure, originals and store in one place, with its current recipe.

A `Model` is used by one worker at a time (a pipeline is not re-entrant, and it holds one recipe at a time).
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.errors import ModelError
from engine.core.fromset import FromSet
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import FP16, Option
from engine.core.placement import Placement
from engine.core.recipe import Recipe, model_ref
from engine.live.activations import InputQuantizers
from engine.live.offload import offload as keep_offloaded
from engine.live.originals import Originals, find_originals
from engine.live.request import MAX_STEPS, Limits
from engine.live.store import Store
from engine.live.tables import ActivationTables, check_tables, find_tables
from engine.live.watched import usable_schedulers
from engine.live.weights import WeightCache
from engine.live.weightsets import WeightSet, check_weight_set, find_weight_set
from engine.models.calls import conditioning
from engine.models.catalog import row_for
from engine.models.loading import denoiser_of, load_pipeline
from engine.models.memory import ran_out
from engine.models.sources import resolve
from engine.models.structure import read_structure, structure_of

DEFAULT_STEPS, DEFAULT_GUIDANCE, DEFAULT_SIDE = 20, 3.0, 512


class Model:
    """A pipeline on a device whose denoiser can take recipes.

    Attributes:
        pipeline, denoiser: the live modules; `denoiser_name` is the denoiser's attribute of the pipeline.
        structure: layers, blocks, sizes.
        store: quantized layers on disk.
        originals: full-precision weights on disk.
        limits: what can be asked of it, with defaults.
        device, dtype: where and in which precision it computes.
        directory: the pipeline's directory, None where it has none.
        named: whether the pipeline was opened from its directory here; one that came from memory may have other
            components than its directory by now.
        options: choice name -> option that is in the weights now; None while a layer is being moved.
        sets: choice name -> the weight set its weight came from; silent where the option alone made it.
        inputs: the quantizers of layer inputs, and which are on now.
        macs: layer name -> multiply-adds, once they were counted (`engine.live.macs`).
        executing: whether layers are executed on packed weights now (`engine.live.kernels`).
    """

    def __init__(self, pipeline: Any, structure: Structure, originals: Originals, store: Store, *,
                 device: str, dtype: str, directory: Path | None, named: bool = False) -> None:
        self.pipeline = pipeline
        self.denoiser_name, self.denoiser = denoiser_of(pipeline)
        self.structure = structure
        self.originals = originals
        self.store = store
        self.device, self.dtype, self.directory, self.named = device, dtype, directory, named
        self.limits = limits_of(pipeline, self.denoiser, structure)
        self.groups: Mapping[str, tuple[Layer, ...]] = _groups(structure)
        self.options: dict[str, Option | None] = dict.fromkeys(self.groups, FP16)
        self.sets: dict[str, FromSet] = {}
        self.cache = WeightCache(self.denoiser, structure)
        self.inputs = InputQuantizers(self.denoiser, structure)
        self.macs: dict[str, int] | None = None
        self.executing = False
        self._tables: dict[str, ActivationTables] = {}
        self._weight_sets: dict[str, WeightSet] = {}
        self._applied: Recipe | None = None
        self._finalizer = weakref.finalize(self, originals.close)

    @property
    def recipe(self) -> Recipe:
        """What the weights are now: the recipe last applied, or, after a cancelled one, what is really there."""
        now = {name: option for name, option in self.options.items() if option and not option.is_untouched}
        inputs = self.inputs.settings
        if self._applied and {k: v for k, v in self._applied.options.items() if not v.is_untouched} == now \
                and self._applied.activations == inputs and self._applied.weights == self.sets:
            return self._applied
        return Recipe(model_ref(self.structure), now, dict(inputs), weights=dict(self.sets))

    def note_applied(self, recipe: Recipe) -> None:
        """Remember where the current weights came from (its provenance and metrics)."""
        self._applied = recipe

    def add_tables(self, tables: ActivationTables) -> str:
        """Make activation tables known to recipes of this model without a file. Returns their id.

        Raises:
            StoreError: they are of another model.
        """
        check_tables(tables, self.structure)
        self._tables[tables.id] = tables
        return tables.id

    def find_tables(self, id: str) -> ActivationTables:
        """Activation tables by id: those added, else from the cache or the shipped ones; errors as
        `engine.live.tables.find_tables`."""
        if id not in self._tables:
            self._tables[id] = find_tables(self.structure, id)
        return self._tables[id]

    def add_weight_set(self, held: WeightSet) -> str:
        """Make a weight set known to recipes of this model without a file. Returns its id.

        Raises:
            StoreError: it is of another model.
        """
        check_weight_set(held, self.structure)
        self._weight_sets[held.id] = held
        return held.id

    def find_weight_set(self, id: str) -> WeightSet:
        """A weight set by id: one added, else from the cache or the shipped ones; errors as
        `engine.live.weightsets.find_weight_set`."""
        if id not in self._weight_sets:
            self._weight_sets[id] = find_weight_set(self.structure, id)
        return self._weight_sets[id]

    def close(self) -> None:
        """Write what the store holds in memory, remove scratch files, free the weights."""
        self.store.close()
        self._finalizer()
        self.inputs.close()
        self.cache.clear()
        self.pipeline = self.denoiser = None


def open_model(source: Any, *, device: str = "cpu", dtype: str = "float32", store: str | Path | None = None,
               offload: bool = False) -> Model:
    """Open a model on a device.

    Args:
        source: demo or catalogue name, diffusers directory, `.safetensors` file, hub id, or a pipeline in memory (it is
            used as it is and changed in place by recipes; dtype and device are moved to those asked for).
        device: "cpu", "cuda", ...
        dtype: "float32", "float16" or "bfloat16".
        store: directory of quantized layers; None is the model's own in the user's cache.
        offload: keep the parts in main memory and bring each to the device only while it computes.

    Raises:
        ModelError: it cannot be opened, cannot be offloaded, or does not fit into memory.
        StoreError: the store belongs to another model.
    """
    Placement(device, dtype, offload)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("There is no CUDA device on this machine; use --device cpu.")
    named, home_device = isinstance(source, (str, Path)), "cpu" if offload else device
    try:
        pipeline = load_pipeline(str(source), dtype=dtype, device=home_device) if named \
            else _moved(source, home_device, dtype)
    except (MemoryError, RuntimeError) as failure:
        if not ran_out(failure):
            raise
        raise ModelError(f"The model does not fit into the memory of {home_device}: open it in float16, with its parts "
                         f"offloaded from the accelerator, or on a machine with more memory.") from None
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.eval()
    pipeline.set_progress_bar_config(disable=True)
    name, denoiser = denoiser_of(pipeline)
    structure = structure_of(pipeline, str(source) if named else type(pipeline).__name__)
    home = _directory(pipeline)
    file = resolve(str(source)).file if named else None
    originals = find_originals(denoiser, structure.layers, _places(home, name, denoiser), file,
                               whole=not named)
    if dtype != "float32" and (file or (home and originals.is_checkpoint)):
        # rounded to half precision the weights look like another model; they are this checkpoint's all the same
        stored = read_structure(file or home)  # type: ignore[arg-type]
        structure = replace(stored, model=structure.model) if file else replace(structure, identity=stored.identity)
    if offload:
        keep_offloaded(pipeline, device)
    return Model(pipeline, structure, originals, Store.open(store, structure, originals), device=device, dtype=dtype,
                 directory=home, named=named)


def _moved(pipeline: Any, device: str, dtype: str) -> Any:
    if pipeline.dtype != getattr(torch, dtype):
        pipeline = pipeline.to(dtype=getattr(torch, dtype))
    return pipeline.to(device)


def _directory(pipeline: Any) -> Path | None:
    path = Path(str(getattr(pipeline, "name_or_path", "") or getattr(pipeline.config, "_name_or_path", "") or "."))
    return path.resolve() if (path / "model_index.json").is_file() else None


def _places(home: Path | None, name: str, denoiser: Any) -> list[Path]:
    places = [home / name] if home else []
    own = str(getattr(denoiser.config, "_name_or_path", "") or "")
    return [*places, Path(own)] if own else places


def _groups(structure: Structure) -> dict[str, tuple[Layer, ...]]:
    """Choice name -> the layers it decides (itself and its tied copies), in execution order."""
    groups: dict[str, list[Layer]] = {layer.name: [] for layer in structure.choices}
    for layer in structure.layers:
        groups[layer.choice].append(layer)
    return {name: tuple(layers) for name, layers in groups.items()}


def limits_of(pipeline: Any, denoiser: Any, structure: Structure) -> Limits:
    """What a pipeline takes: from its call's signature and its components' configs; defaults from the catalogue."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    row = row_for(structure.denoiser_class, denoiser.config)
    height, width = _default_size(pipeline, denoiser, row.size if row else 0)
    labels = int(getattr(denoiser.config, "num_embeds_ada_norm", None)
                 or getattr(denoiser.config, "num_class_embeds", None) or 0)
    kind = conditioning(pipeline)
    max_steps = int(getattr(pipeline.scheduler.config, "num_train_timesteps", MAX_STEPS) or MAX_STEPS)
    return Limits(
        conditioning=kind,
        steps=min(row.steps if row else _default(parameters, "num_inference_steps", DEFAULT_STEPS), max_steps),
        guidance=row.guidance if row else float(_default(parameters, "guidance_scale", DEFAULT_GUIDANCE)),
        height=height, width=width, max_steps=min(max_steps, MAX_STEPS),
        labels=labels if kind == "class" else 0, schedulers=usable_schedulers(pipeline.scheduler),
        free_size="height" in parameters,
    )


def _default(parameters: Mapping[str, inspect.Parameter], name: str, otherwise: Any) -> Any:
    value = parameters[name].default if name in parameters else None
    return otherwise if value in (None, inspect.Parameter.empty) else value


def _default_size(pipeline: Any, denoiser: Any, row_size: int) -> tuple[int, int]:
    """Pixels: the denoiser's sample size times the autoencoder's factor (1 without one)."""
    sample = getattr(denoiser.config, "sample_size", None) or getattr(pipeline, "default_sample_size", None)
    if not sample:
        return (row_size or DEFAULT_SIDE,) * 2
    height, width = (sample, sample) if isinstance(sample, int) else sample
    factor = getattr(pipeline, "vae_scale_factor", None) or _vae_factor(pipeline)
    return int(height * factor), int(width * factor)


def _vae_factor(pipeline: Any) -> int:
    vae = getattr(pipeline, "vae", None)
    channels = getattr(getattr(vae, "config", None), "block_out_channels", None)
    return 2 ** (len(channels) - 1) if channels else 1
