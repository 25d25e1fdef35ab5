"""The models Quantscape knows by name: one row each; the only place where a model or class name may steer anything.

The configurations in `configs/` are those of the published checkpoints. A row also lends its columns to any other
checkpoint of the same class and shape (a fine-tune in a local directory), see `rules_for`. Nothing heavy is
imported here: a row is read in milliseconds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.errors import ModelError
from engine.core.files import read_json
from engine.core.graph import Component
from engine.core.places import assets_dir

SHIPPED = "assets/"  # how the sources of models that come with Quantscape begin
DEFAULT_STEPS, DEFAULT_GUIDANCE = 20, 3.0
CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True, slots=True)
class Rules:
    """How the layers of a denoiser are cut and tied; regular expressions over whole module paths.

    Attributes:
        split: layers cut in two at the long skip; None = convolutions fed directly by a concat of two feature maps.
        tie: layers that copy the choice of the first one whose groups match equally; None = none.
        exclude: layers that are never quantized (their weights are used outside `forward`); None = none.
    """

    split: str | None = None
    tie: str | None = None
    exclude: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model.

    Attributes:
        name: what the user types.
        title: what the user reads.
        source: hub id, or `assets/...` for those that come with Quantscape.
        denoiser_class: diffusers class of the denoiser.
        pipeline_class: diffusers class of the pipeline (needed for single-file checkpoints).
        precision_bits: bits per weight of the published checkpoint.
        size: pixels per side it is used at.
        steps, guidance: what it is usually run with.
        rules: columns split, tie and exclude.
        note: where its figures come from, licence hints.
    """

    name: str
    title: str
    source: str
    denoiser_class: str
    pipeline_class: str
    precision_bits: int
    size: int
    steps: int
    guidance: float
    rules: Rules = Rules()
    note: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the denoiser."""
        return dict(_config_file(self.name)["denoiser"])

    @property
    def components(self) -> tuple[Component, ...]:
        """Text encoders, VAE and the like, with bytes at this row's precision."""
        return tuple(
            Component(c["name"], c["type"], c["weights"], c["weights"] * self.precision_bits // 8)
            for c in _config_file(self.name)["components"]
        )


_UNET, _PIXART = "UNet2DConditionModel", "PixArtTransformer2DModel"
_SD, _ALPHA = "StableDiffusionPipeline", "PixArtAlphaPipeline"

MODELS: dict[str, ModelRow] = {
    row.name: row
    for row in (
        ModelRow("emoji-unet", "Emoji U-Net (demo)", "assets/models/emoji-unet", _UNET, _SD, 16, 64, 20, 3.0,
                 note="Made for this project: text to 64 px emoji, two resolutions with long skips."),
        ModelRow("emoji-dit", "Emoji DiT (demo)", "assets/models/emoji-dit", _PIXART, _ALPHA, 16, 64, 20, 3.0,
                 note="Made for this project: text to 64 px emoji, ten transformer blocks."),
        ModelRow("sd15", "Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", _UNET, _SD,
                 32, 512, 50, 7.5),
        ModelRow("sdxl", "Stable Diffusion XL base 1.0", "stabilityai/stable-diffusion-xl-base-1.0", _UNET,
                 "StableDiffusionXLPipeline", 16, 1024, 50, 5.0,
                 rules=Rules(split=r"up_blocks\.\d+\.resnets\.\d+\.conv1")),
        ModelRow("dit-xl-2-512", "DiT-XL/2 512", "facebook/DiT-XL-2-512", "DiTTransformer2DModel", "DiTPipeline",
                 16, 512, 50, 4.0,
                 rules=Rules(tie=r"transformer_blocks\.\d+\.(norm1\.emb\.timestep_embedder\.linear_[12])")),
        ModelRow("pixart-alpha-512", "PixArt-alpha XL/2 512", "PixArt-alpha/PixArt-XL-2-512x512", _PIXART, _ALPHA,
                 16, 512, 20, 4.5),
        ModelRow("pixart-sigma-1024", "PixArt-Sigma XL/2 1024", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", _PIXART,
                 "PixArtSigmaPipeline", 16, 1024, 20, 4.5),
        ModelRow("hunyuan-dit", "Hunyuan-DiT", "Tencent-Hunyuan/HunyuanDiT-Diffusers", "HunyuanDiT2DModel",
                 "HunyuanDiTPipeline", 16, 1024, 50, 5.0,
                 rules=Rules(split=r"blocks\.\d+\.skip_linear", exclude=r"time_extra_emb\.pooler\.\w+_proj")),
        ModelRow("sd3-medium", "Stable Diffusion 3 medium", "stabilityai/stable-diffusion-3-medium-diffusers",
                 "SD3Transformer2DModel", "StableDiffusion3Pipeline", 16, 1024, 28, 7.0),
        ModelRow("flux-dev", "FLUX.1 dev", "black-forest-labs/FLUX.1-dev", "FluxTransformer2DModel", "FluxPipeline",
                 16, 1024, 28, 3.5),
        ModelRow("sana", "SANA 1.6B 1024", "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
                 "SanaTransformer2DModel", "SanaPipeline", 16, 1024, 20, 4.5),
    )
}


@functools.cache
def _config_file(name: str) -> dict[str, Any]:
    return read_json(CONFIGS / f"{name}.json", ModelError)


def local_directory(row: ModelRow) -> Path | None:
    """The row's pipeline directory on this machine: among the shipped assets, or a snapshot in the hub's cache."""
    if row.source.startswith(SHIPPED):
        directory = shipped_directory(row)
        return directory if (directory / "model_index.json").is_file() else None
    return cached_snapshot(row.source)


def shipped_directory(row: ModelRow) -> Path:
    """Where the pipeline of a shipped model belongs, there or not; in a checkout and in an installed copy."""
    return assets_dir() / row.source.removeprefix(SHIPPED)


def cached_snapshot(hub_id: str) -> Path | None:
    """The newest snapshot of a hub repository in the local cache, or None; the hub's library is not imported."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = cache / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    found = [p.parent for p in snapshots.glob("*/model_index.json")] if snapshots.is_dir() else []
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def weights_present(row: ModelRow) -> bool:
    """Whether the model can be run here without a download."""
    directory = local_directory(row)
    return directory is not None and any(directory.glob("*/*.safetensors"))


def defaults_of(name: str) -> tuple[int, float]:
    """Steps and guidance a model is usually run with, by catalogue name; (20, 3.0) for others."""
    row = MODELS.get(name)
    return (row.steps, row.guidance) if row else (DEFAULT_STEPS, DEFAULT_GUIDANCE)


def row_for(denoiser_class: str, config: Mapping[str, Any]) -> ModelRow | None:
    """The row of this very architecture (sample size aside), or None."""
    for row in MODELS.values():
        if row.denoiser_class == denoiser_class and _same(row.config, config):
            return row
    return None


def rules_for(denoiser_class: str, config: Mapping[str, Any]) -> Rules:
    """Split, tie and exclude columns for a denoiser: of its own row, else of its class where all rows agree."""
    row = row_for(denoiser_class, config)
    if row is not None:
        return row.rules
    of_class = {row.rules for row in MODELS.values() if row.denoiser_class == denoiser_class}
    return of_class.pop() if len(of_class) == 1 else Rules()


def _same(row_config: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    ignored = {"sample_size", "interpolation_scale"}
    return all(_plain(config.get(k)) == _plain(v) for k, v in row_config.items() if k not in ignored)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
